"""The index of known shapes: what goes in comes out, nothing half-written counts, and what it says of novelty."""

import json
import sqlite3
from dataclasses import replace

import numpy as np
import pytest
from made_shapes import blob_rows, helix, strand, write_pdb

from cryoprism.core import InputError
from cryoprism.evaluation.novelty import (
    DESCRIPTOR,
    DIMENSION,
    Calibration,
    Entry,
    IndexWriter,
    NoShapeError,
    ShapeIndex,
    describe_file,
    judge,
    novelty_of,
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
    monkeypatch.setattr("cryoprism.evaluation.novelty.index_writer.FLAT_LIMIT", 3000)
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


@pytest.mark.parametrize("pattern", ["shapes-*.faiss", "sample-*.npz"])
def test_one_changed_byte_is_found(tmp_path, pattern):
    build(tmp_path, vectors(50))
    file = next(tmp_path.glob(pattern))
    data = bytearray(file.read_bytes())
    data[-len(data) // 3] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"not what index\.json says.*novelty build"):
        ShapeIndex.open(tmp_path)


def test_a_damaged_file_is_found_after_it_was_whole_in_the_same_process(tmp_path):
    build(tmp_path, vectors(50))
    ShapeIndex.open(tmp_path)
    file = next(tmp_path.glob("shapes-*.faiss"))
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match="is damaged"):
        ShapeIndex.open(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE entries SET name = 'other' WHERE id = 3",
        "UPDATE entries SET pictures = x'00' WHERE id = 3",
        "UPDATE entries SET states = x'001122' WHERE id = 3",
        "UPDATE entries SET radius_of_gyration = 'big' WHERE id = 3",
        "UPDATE entries SET source = NULL WHERE id = 3",
        "DELETE FROM entries WHERE id = 3",
    ],
)
def test_a_damaged_row_is_refused_by_name(tmp_path, change):
    made = vectors(9)
    pictures = np.ones((3, 48, 48), dtype=np.uint8)
    with IndexWriter(tmp_path, DESCRIPTOR, DIMENSION, fresh=True) as writer:
        writer.add(made, [Entry(f"shape {i}", "/x.pdb", "model", pictures=pictures) for i in range(9)])
        writer.commit(PAGE)
    file = next(tmp_path.glob("entries-*.sqlite"))
    table = sqlite3.connect(file)
    table.execute(change)
    table.commit()
    table.close()
    index = ShapeIndex.open(tmp_path)
    assert index.search(made[5], 1)[0].entry.name == "shape 5"  # the others can be read
    with pytest.raises(InputError, match=rf"{file.name}.*novelty build"):
        index.search(made[3], 1)


@pytest.mark.parametrize("change", [{"vectors": "../x"}, {"table": 5}, {"count": "many"}, {"vectors_sha256": None}])
def test_a_page_that_says_nonsense_is_refused(tmp_path, change):
    build(tmp_path, vectors(3))
    page = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(page | change))
    with pytest.raises(InputError, match="is damaged"):
        ShapeIndex.open(tmp_path)


def test_the_sample_depends_on_the_numbers_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("cryoprism.evaluation.novelty.index_writer.SAMPLE", 30)
    made = vectors(200)
    build(tmp_path / "a", made)
    build(tmp_path / "b", made[:120])
    build(tmp_path / "b", made[120:], fresh=False, first=120)
    one, other = (ShapeIndex.open(tmp_path / name).sample() for name in "ab")
    assert one.shape == (30, DIMENSION)
    np.testing.assert_array_equal(one, other)
    numbers = [int(np.flatnonzero((made == row).all(1))[0]) for row in one]
    assert len(set(numbers)) == 30
    assert 40 < np.mean(numbers) < 160  # neither the first ones nor the last


def test_several_vectors_of_one_query_find_by_the_nearest(tmp_path):
    made = vectors(20)
    build(tmp_path, made)
    found = ShapeIndex.open(tmp_path).search(made[[4, 11]], 3)
    assert {found[0].number, found[1].number} == {4, 11}
    assert [match.distance for match in found[:2]] == [0.0, 0.0]
    assert len({match.number for match in found}) == len(found) == 3


def law(states: tuple[float, float] = (0.0, 0.0)) -> Calibration:
    best = np.array([np.log(0.05), np.log(0.35), np.log(0.65), np.log(0.5), 0.3, 3.0, *states])
    drawn = np.stack([best + np.array([d, 0, 0, 0, 0, 0, 0, 0]) for d in (-0.1, 0.0, 0.1)])
    return Calibration(best, drawn, 10.0, DESCRIPTOR, (0.05, 0.2), {})


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


def test_without_an_index_the_answer_is_not_available(tmp_path):
    answer = novelty_of(tmp_path / "any.pdb", None).answer()
    assert answer.status == "not available"
    assert answer.value is None
    assert "cryoprism novelty build" in answer.sentences[1]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (helix()[:1], "has 1 atom in 1 residue "),
        (helix(19), "fewer than 20"),
        ([("O", "O", n, place) for n, (*_, place) in enumerate(helix(2))], "nothing but water"),
    ],
)
def test_what_is_too_small_to_have_a_shape_is_not_available_and_not_new(known, tmp_path, rows, words):
    file = write_pdb(tmp_path / "small.pdb", rows)
    if "water" in words:
        file.write_text(file.read_text().replace("ALA", "HOH"))
    found = novelty_of(file, known, calibration=law())
    assert found.answer().status == "not available"
    assert found.sentences()[0].startswith("small.pdb: ")
    assert words in found.sentences()[0]
    assert found.evidence()["index_entries"] == 5
    assert "at least 20 residues" in found.sentences()[1]
    with pytest.raises(NoShapeError):
        describe_file(file)


def test_a_trace_of_alpha_carbons_has_a_shape(known, tmp_path):
    rows = [row for row in helix(30) if row[0] == "CA"]
    assert novelty_of(write_pdb(tmp_path / "trace.pdb", rows), known, calibration=law()).value is not None


def test_the_size_of_a_small_index_stands_in_the_first_sentence(known, tmp_path):
    found = novelty_of(write_pdb(tmp_path / "new.pdb", blob_rows(77)), known, calibration=law())
    if found.value >= 0.9:
        assert "new among 5 known shapes, which says little" in found.sentences()[0]
    assert "5 known shapes" in found.sentences()[0]


def test_a_large_index_says_that_it_is_not_calibrated_and_is_less_sure(known, tmp_path, monkeypatch):
    facts = {"calibration_error_by_entries": {"10": 0.2, "1000": 0.3}}
    wrong = replace(law(), facts=facts)
    file = write_pdb(tmp_path / "copy.pdb", blob_rows(2, turn=4))
    small = novelty_of(file, known, calibration=wrong)
    assert not any("not calibrated" in sentence for sentence in small.sentences())
    monkeypatch.setattr("cryoprism.evaluation.novelty.judgement._CALIBRATED", 4)
    large = novelty_of(file, known, calibration=wrong)
    assert any("wrong by 0.20 on average" in sentence for sentence in large.sentences())
    assert large.value == small.value
    assert large.deviation == pytest.approx(np.hypot(small.deviation, 0.2))
    assert large.interval[1] == pytest.approx(min(1.0, small.interval[1] + 1.645 * 0.2), abs=1e-3)
    assert large.evidence()["calibration_error"] == pytest.approx(0.2)


def test_a_neighbourhood_like_most_is_not_called_emptier(known, tmp_path):
    file = write_pdb(tmp_path / "copy.pdb", blob_rows(2, turn=4))
    found = replace(novelty_of(file, known, calibration=law()), crowding=0.97)
    assert any("about as many strangers as around most" in sentence for sentence in found.sentences())
    assert not any("1.0 times" in sentence for sentence in found.sentences())


def test_an_index_that_was_named_and_is_not_there_is_an_error(tmp_path):
    with pytest.raises(InputError, match="nowhere: does not exist"):
        novelty_of(tmp_path / "any.pdb", tmp_path / "nowhere")


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


def test_the_answer_says_how_crowded_it_is_and_what_was_used(known, tmp_path):
    found = novelty_of(write_pdb(tmp_path / "copy.pdb", blob_rows(2, turn=4)), known, calibration=law())
    evidence = found.answer().evidence
    assert evidence["crowd"]["sampled"] == 5
    assert evidence["crowding"] == pytest.approx((evidence["crowd"]["count"] + 3.0) / (5 * 0.3 + 3.0))
    assert evidence["used"] == "shape"
    assert any("strangers" in sentence for sentence in found.sentences())
    assert any("from shape alone" in sentence for sentence in found.sentences())


def test_3di_states_enter_where_both_are_models(tmp_path):
    pytest.importorskip("mini3di")
    files = [write_pdb(tmp_path / f"{name}.pdb", rows) for name, rows in (("helix", helix()), ("strand", strand()))]
    with_states = law(states=(-6.0, 3.6))
    answers = {}
    for label, used in (("alone", law()), ("both", with_states)):
        folder = tmp_path / label
        write_shapes(folder, ((file, describe_file(file)) for file in files), fresh=True, page=PAGE)
        query = describe_file(files[0])
        near = Entry("impostor", "", "model", states=describe_file(files[1]).entry.states)
        with IndexWriter(folder, DESCRIPTOR, DIMENSION, fresh=False) as writer:
            writer.add(query.vector[None] + 0.003, [near])  # the helix's shape with the strand's states
            writer.commit(PAGE)
        answers[label] = judge(query, ShapeIndex.open(folder), calibration=used)
    assert answers["both"].used == "shape and 3Di states"
    ratio = {k: {n.entry.name: n.likelihood_ratio for n in v.neighbours} for k, v in answers.items()}
    assert ratio["both"]["helix"] == pytest.approx(20 * ratio["alone"]["helix"])
    assert ratio["both"]["impostor"] < 0.1 * ratio["alone"]["impostor"]


def test_a_page_of_an_index_that_is_nested_without_end_is_damaged(tmp_path):
    (tmp_path / "index.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"index\.json: is damaged"):
        ShapeIndex.open(tmp_path)
