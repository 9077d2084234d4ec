import json

import pytest

from cryoprism.core import InputError
from cryoprism.workflow import atomic_path, fingerprint, output_stems, write_json


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "a.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
        assert temporary.parent == target.parent
        assert temporary.suffix == ".txt"
    assert target.read_text() == "new"

    class Interrupted(BaseException):
        pass

    def interrupted():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise Interrupted

    with pytest.raises(Interrupted):
        interrupted()
    assert target.read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]


def test_json_that_no_reader_understands_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"Å": [1.5]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    assert json.loads(path.read_text(encoding="utf-8")) == {"Å": [1.5]}


@pytest.mark.parametrize("size", [0, 10, 1 << 20, (1 << 20) + 1, 2 << 20, 3 << 20])
def test_a_fingerprint_changes_with_either_end(tmp_path, size):
    path = tmp_path / "movie.mrc"
    data = bytearray(size)
    path.write_bytes(data)
    whole = fingerprint(path)
    assert whole["bytes"] == size
    for position in {0, size - 1} if size else set():
        changed = data.copy()
        changed[position] = 1
        path.write_bytes(changed)
        assert fingerprint(path)["sha256_of_ends"] != whole["sha256_of_ends"]


def test_output_names_are_stems_until_two_inputs_share_one():
    assert output_stems(["x/a.mrc", "y/b.mrc.gz", "c.d.tiff"]) == ["a", "b", "c.d"]
    assert output_stems(["x/a.mrc", "y/a.mrc", "y/b.mrc"]) == ["x__a", "y__a", "b"]
    assert output_stems(["g/x/a.mrc", "h/x/a.mrc"]) == ["g__x__a", "h__x__a"]


def test_the_same_file_twice_is_an_error():
    with pytest.raises(InputError, match="listed twice"):
        output_stems(["a.mrc", "./a.mrc"])
    with pytest.raises(InputError, match="suffix"):
        output_stems(["a.mrc", "a.tif"])
