"""JSON that somebody else wrote: whatever is wrong with it is one error."""

import math

import pytest

from cryoprism.evaluation.documents import UnreadableError, load_json, number_in, read_json


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"a": "\\ud800"}', "", "{", "1" * 5000])
def test_what_cannot_be_used_is_one_error(text, tmp_path):
    with pytest.raises(UnreadableError):
        load_json(text)
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UnreadableError):
        read_json(tmp_path / "x.json")


def test_files_with_and_without_a_mark_are_read_and_absent_ones_said(tmp_path):
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "x.json").write_text('{"a": "Å"}', encoding=encoding)
        assert read_json(tmp_path / "x.json") == {"a": "Å"}
    (tmp_path / "x.json").write_text("{}", encoding="utf-16")
    with pytest.raises(UnreadableError):
        read_json(tmp_path / "x.json")
    with pytest.raises(UnreadableError):
        read_json("a\0b")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


def test_numbers_of_any_size_become_floats():
    assert (number_in(3), number_in(-(10**400)), number_in(10**400)) == (3.0, -math.inf, math.inf)
    assert all(math.isnan(number_in(one)) for one in (True, None, "1", [1]))
