"""The index of known shapes: what goes in comes out, nothing half-written counts, and what it says of novelty."""

import json
import math
import sqlite3

import numpy as np
import pytest
from made_shapes import blob_rows, write_pdb

from cryoprism.core import InputError
from cryoprism.evaluation.novelty import (
    DESCRIPTOR,
    DIMENSION,
    Calibration,
    Entry,
    IndexWriter,
    ShapeIndex,
    describe_file,
    fit_calibration,
    judge,
    known_probability,
    novelty_of,
    shipped_calibration,
    write_shapes,
)

faiss = pytest.importorskip("faiss", reason="faiss is not installed (the extra 'assess')")
PAGE = {"resolution_in_angstroms": 10.0}


def vectors(count: int, seed: int = 0) -> np.ndarray:
    made = np.random.default_rng(seed).normal(0, 0.1, (count, DIMENSION)).astype(np.float32)
    made[:, 122:] = 0
    return made


def entries(count: int, first: int = 0) -> list[Entry]:
    return [Entry(f"shape {first + i}", f"/x/{first + i}.mrc", "map", sha256=f"{first + i:x}") for i in range(count)]


def build(path, made, *, fresh=True, first=0):
    with IndexWriter(path, DESCRIPTOR, DIMENSION, fresh=fresh) as writer:
        writer.add(made, entries(len(made), first))
        writer.commit(PAGE)


def leave_uncommitted(path, made, *, fresh):
    with IndexWriter(path, DESCRIPTOR, DIMENSION, fresh=fresh) as writer:
        writer.add(made, entries(len(made), 5))


def test_what_goes_in_comes_out(tmp_path):
    made = vectors(20)
    states, pictures = np.sqrt(np.full(400, 1 / 400)), np.arange(3 * 48 * 48).reshape(3, 48, 48).astype(np.uint8)
    with IndexWriter(tmp_path, DESCRIPTOR, DIMENSION, fresh=True) as writer:
        writer.add(made[:19], entries(19))
        writer.add(made[19:], [Entry("last", "/y.pdb", "model", "ff", 31.5, 1e5, states, pictures)])
        writer.commit(PAGE)
    index = ShapeIndex.open(tmp_path, DESCRIPTOR)
    assert len(index) == 20
    assert index.is_flat
    match = index.search(made[19], 3)[0]
    assert (match.number, match.distance, match.entry.name) == (19, 0.0, "last")
    assert match.entry.radius_of_gyration_in_angstroms == 31.5
    np.testing.assert_allclose(match.entry.states, states, atol=1e-4)
    np.testing.assert_array_equal(match.entry.pictures, pictures)
    found = index.search(made[4], 50)
    assert [m.distance for m in found] == sorted(m.distance for m in found)
    assert len(found) == 20


def test_adding_keeps_what_was_there(tmp_path):
    build(tmp_path, vectors(5))
    build(tmp_path, vectors(3, 1), fresh=False, first=5)
    index = ShapeIndex.open(tmp_path)
    assert len(index) == 8
    assert index.search(vectors(3, 1)[2], 1)[0].entry.name == "shape 7"
    assert len(list(tmp_path.glob("shapes-*.faiss"))) == 1


def test_nothing_counts_before_it_is_committed(tmp_path):
    build(tmp_path, vectors(5))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix in {".json", ".faiss"}}
    leave_uncommitted(tmp_path, vectors(3, 1), fresh=False)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert len(ShapeIndex.open(tmp_path)) == 5
    build(tmp_path, vectors(2, 2), fresh=False, first=5)
    assert ShapeIndex.open(tmp_path).search(vectors(2, 2)[1], 1)[0].entry.name == "shape 6"


def test_a_fresh_index_replaces_the_old_one_only_when_it_is_whole(tmp_path):
    build(tmp_path, vectors(5))
    leave_uncommitted(tmp_path, vectors(2, 3), fresh=True)
    assert len(ShapeIndex.open(tmp_path)) == 5
    build(tmp_path, vectors(2, 3))
    assert len(ShapeIndex.open(tmp_path)) == 2
    assert len(list(tmp_path.glob("entries-*.sqlite"))) == 1


def test_rows_that_a_killed_run_left_are_overwritten(tmp_path):
    build(tmp_path, vectors(5))
    table = sqlite3.connect(next(tmp_path.glob("entries-*.sqlite")))
    table.execute("INSERT INTO entries (id, name) VALUES (5, 'left over')")
    table.commit()
    table.close()
    assert len(ShapeIndex.open(tmp_path)) == 5
    build(tmp_path, vectors(1, 1), fresh=False, first=5)
    assert ShapeIndex.open(tmp_path).search(vectors(1, 1)[0], 1)[0].entry.name == "shape 5"


def test_two_writers_do_not_meet(tmp_path):
    build(tmp_path, vectors(2))
    with (
        IndexWriter(tmp_path, DESCRIPTOR, DIMENSION, fresh=False),
        pytest.raises(InputError, match="another run is writing into this index"),
    ):
        IndexWriter(tmp_path, DESCRIPTOR, DIMENSION, fresh=False)
    build(tmp_path, vectors(1, 1), fresh=False, first=2)


def test_a_large_index_gets_lists_and_still_finds(tmp_path, monkeypatch):
    monkeypatch.setattr("cryoprism.evaluation.novelty.index.FLAT_LIMIT", 3000)
    made = vectors(4000)
    build(tmp_path, made)
    index = ShapeIndex.open(tmp_path)
    assert not index.is_flat
    index.probe(64)
    numbers = index.nearest(made[:50], 1)[1]
    assert (numbers[:, 0] == np.arange(50)).mean() > 0.95
    build(tmp_path, vectors(2, 9), fresh=False, first=4000)
    assert len(ShapeIndex.open(tmp_path)) == 4002


def test_a_missing_index_says_how_to_build_one(tmp_path):
    with pytest.raises(InputError, match="cryoprism novelty build"):
        ShapeIndex.open(tmp_path / "none")
    with pytest.raises(InputError, match="holds no index"):
        ShapeIndex.open(tmp_path)


@pytest.mark.parametrize("pattern", ["index.json", "shapes-*.faiss", "entries-*.sqlite"])
@pytest.mark.parametrize("how", ["cut", "garbage", "missing"])
def test_a_damaged_index_is_refused(tmp_path, pattern, how):
    build(tmp_path, vectors(50))
    file = next(tmp_path.glob(pattern))
    if how == "missing":
        file.unlink()
    else:
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2] if how == "cut" else b"x" * len(data))
    with pytest.raises(InputError, match="novelty build"):
        ShapeIndex.open(tmp_path).search(vectors(1)[0], 3)


def test_an_index_of_another_descriptor_is_refused_with_a_remedy(tmp_path):
    build(tmp_path, vectors(3))
    page = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**page, "descriptor": "zernike12-v0"}))
    with pytest.raises(InputError, match=r"zernike12-v0.*--overwrite"):
        ShapeIndex.open(tmp_path, DESCRIPTOR)


def test_vectors_that_are_not_finite_are_refused(tmp_path):
    bad = vectors(2)
    bad[1, 3] = np.nan
    with IndexWriter(tmp_path, DESCRIPTOR, DIMENSION, fresh=True) as writer, pytest.raises(InputError, match="finite"):
        writer.add(bad, entries(2))


def law(slope: float = 8.0, at: float = 0.1) -> Calibration:
    return Calibration(
        np.array([slope * math.log(at + 0.005), slope]),
        np.array([[slope * math.log(at + 0.005) + d, slope] for d in (-0.5, 0.0, 0.5)]),
        10.0,
        DESCRIPTOR,
        (0.05, 0.2),
        {},
    )


def test_the_calibration_recovers_a_power_law():
    rng = np.random.default_rng(0)
    slope, at = 6.0, 0.12
    same, different = [], []
    for _ in range(40):
        distances = np.exp(rng.uniform(np.log(0.02), np.log(0.8), 400))
        odds = np.exp(slope * (np.log(at + 0.005) - np.log(distances + 0.005)))
        label = rng.random(400) < odds / (1 + odds)
        same.append(distances[label])
        different.append(distances[~label])
    # Classes of equal weight: the ratio of their numbers comes off.
    shift = math.log(sum(map(len, different)) / sum(map(len, same)))
    found = fit_calibration(same, different, resolution_in_angstroms=10.0, draws=20)
    assert found.coefficients[1] == pytest.approx(slope, rel=0.1)
    assert found.log_ratio(np.array([at]))[0] == pytest.approx(shift, abs=0.35)
    assert found.draws.std(0).max() < 1.5


def test_the_probability_counts_the_size_of_the_index_in():
    ratios = np.log([100.0])
    assert known_probability(ratios, 1, 0.5) == pytest.approx(100 / 101)
    assert known_probability(ratios, 100, 0.5) == pytest.approx(0.5)
    assert known_probability(ratios, 10_000, 0.5) == pytest.approx(0.01 / 1.01)
    assert known_probability(np.log([50.0, 50.0]), 100, 0.5) == pytest.approx(0.5)
    assert known_probability(ratios, 100, 0.1) == pytest.approx(0.1)
    assert known_probability(np.array([]), 10, 0.5) == 0.0
    assert known_probability(np.array([2000.0]), 10, 0.5) == pytest.approx(1.0)


def test_the_shipped_calibration_is_one_of_this_descriptor_and_comes_back():
    shipped = shipped_calibration()
    assert shipped.descriptor == DESCRIPTOR
    assert shipped.coefficients[1] > 1
    again = Calibration.from_json(shipped.to_json(), "here")
    np.testing.assert_allclose(again.draws, shipped.draws)
    with pytest.raises(InputError, match="no calibration"):
        Calibration.from_json({**shipped.to_json(), "descriptor": "other"}, "here")


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    folder = tmp_path_factory.mktemp("known")
    files = [write_pdb(folder / f"blob{seed}.pdb", blob_rows(seed)) for seed in range(5)]
    write_shapes(folder / "index", ((file, describe_file(file)) for file in files), fresh=True, page=PAGE)
    return folder / "index"


def test_a_turned_copy_is_known_and_another_shape_is_new(known, tmp_path):
    copy = novelty_of(write_pdb(tmp_path / "copy.pdb", blob_rows(2, turn=4)), known, calibration=law())
    assert copy.value < 0.05
    assert copy.neighbours[0].entry.name == "blob2"
    assert not copy.neighbours[0].is_same_file
    assert copy.neighbours[0].probability > 0.9
    other = novelty_of(write_pdb(tmp_path / "new.pdb", blob_rows(77)), known, calibration=law())
    assert other.value > 0.8
    assert other.interval[0] <= other.value <= other.interval[1]
    answer = other.answer()
    assert answer.status == "available"
    assert answer.value == other.value
    assert len(answer.evidence["neighbours"]) == 5
    json.dumps(answer.to_json(), allow_nan=False)


def test_the_very_file_is_named_as_such(known):
    found = novelty_of(known.parent / "blob1.pdb", known, calibration=law())
    assert found.neighbours[0].is_same_file
    assert found.value < 0.01
    assert any("this very file" in sentence for sentence in found.sentences())


@pytest.mark.parametrize("index", [None, "nowhere"])
def test_without_an_index_the_answer_is_not_available(tmp_path, index):
    found = novelty_of(tmp_path / "any.pdb", None if index is None else tmp_path / index)
    answer = found.answer()
    assert answer.status == "not available"
    assert answer.value is None
    assert "cryoprism novelty build" in answer.sentences[1]


def test_an_index_of_another_resolution_has_neighbours_but_no_probability(known, tmp_path):
    folder = tmp_path / "index"
    with IndexWriter(folder, DESCRIPTOR, DIMENSION, fresh=True) as writer:
        writer.add(vectors(3), entries(3))
        writer.commit({"resolution_in_angstroms": 20.0})
    found = judge(describe_file(known.parent / "blob1.pdb"), ShapeIndex.open(folder), calibration=law())
    assert found.answer().status == "not available"
    assert "--resolution 10" in found.answer().sentences[1]
    assert found.neighbours
    assert found.neighbours[0].probability is None


def test_a_file_that_is_there_already_is_not_taken_twice(known):
    file = known.parent / "blob0.pdb"
    written = write_shapes(known, [(file, describe_file(file))], fresh=False, page=PAGE)
    assert (written.entries, written.added, written.known) == (5, 0, 1)
