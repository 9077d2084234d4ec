"""From files to descriptors: what changes them, what does not, and what is refused."""

import gzip
import math

import numpy as np
import pytest
import torch
from made_shapes import balls, blob_rows, helix, strand, write_pdb

from cryoprism.core import InputError, generator_for
from cryoprism.evaluation.novelty import (
    CopyRecipe,
    copies_of,
    copy_of,
    describe_file,
    kind_of_file,
    shape_of_map,
    shape_vector,
    state_histogram,
    state_sequences,
    state_similarity,
    states_available,
)
from cryoprism.formats import Volume, read_structure, write_map

TWO = [((0.0, 0.0, 0.0), 22.0), ((30.0, 12.0, -8.0), 15.0)]


def vector_of(data: torch.Tensor, voxel: float = 3.0) -> np.ndarray:
    return shape_vector(shape_of_map(Volume(data, voxel)))


def apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one.astype(float) - other))


@pytest.fixture(scope="module")
def data():
    return balls(44, 3.0, TWO)


@pytest.fixture(scope="module")
def vector(data):
    return vector_of(data)


def test_the_radius_of_gyration_of_a_ball_is_known():
    shape = shape_of_map(Volume(balls(40, 3.0, [((0.0, 0.0, 0.0), 30.0)]), 3.0))
    assert shape.radius_of_gyration_in_angstroms == pytest.approx(30.0 * math.sqrt(0.6), rel=0.03)
    assert shape.volume_in_cubic_angstroms == pytest.approx(4 / 3 * math.pi * 30.0**3, rel=0.06)
    assert shape.share_outside == 0.0


@pytest.mark.parametrize("axes", [(0, 1), (1, 2)])
def test_a_turn_of_the_lattice_changes_nothing(data, vector, axes):
    assert apart(vector_of(torch.rot90(data, 1, axes)), vector) < 2e-3


def test_the_mirror_image_is_not_told_apart(data, vector):
    assert apart(vector_of(data.flip(2)), vector) < 2e-3


def test_scale_offset_and_box_of_a_map_do_not_matter(data, vector):
    assert apart(vector_of(2.5e-3 * data + 7.0), vector) < 2e-3
    assert apart(vector_of(torch.nn.functional.pad(data, (4, 8, 2, 6, 4, 4))), vector) < 1e-2


def test_size_counts_as_the_logarithm_of_the_radius(data, vector):
    larger = vector_of(data, 3.3)
    assert larger[121] - vector[121] == pytest.approx(math.log(1.1), abs=0.03)


def test_another_shape_is_far(vector):
    other = vector_of(balls(44, 3.0, [((0.0, 0.0, 0.0), 22.0), ((-30.0, 0.0, 0.0), 15.0), ((28.0, 10.0, 5.0), 13.0)]))
    assert apart(other, vector) > 0.1


def test_noise_moves_a_shape_less_than_another_shape_is_away(data, vector):
    noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(1))
    assert apart(vector_of(data + 0.3 * noise), vector) < 0.1


@pytest.mark.parametrize("side", [24, 40])
def test_pure_noise_holds_no_molecule(side):
    noise = torch.randn(side, side, side, generator=torch.Generator().manual_seed(side))
    with pytest.raises(InputError, match="no molecule stands out"):
        shape_of_map(Volume(noise, 2.0))


def test_an_empty_map_is_refused():
    with pytest.raises(InputError, match="constant"):
        shape_of_map(Volume(torch.zeros(24, 24, 24), 3.0))


@pytest.mark.parametrize("seed", range(2))
def test_a_turned_model_is_near_and_another_one_far(tmp_path, seed):
    one = describe_file(write_pdb(tmp_path / "a.pdb", blob_rows(seed)))
    turned = describe_file(write_pdb(tmp_path / "b.pdb", blob_rows(seed, turn=seed)))
    other = describe_file(write_pdb(tmp_path / "c.pdb", blob_rows(seed + 50)))
    assert apart(one.vector, turned.vector) < 0.03
    assert apart(one.vector, other.vector) > 0.1
    assert one.entry.kind == "model"
    assert one.entry.pictures.shape[0] == 3
    assert one.entry.pictures.shape[1] == one.entry.pictures.shape[2] >= 48
    assert one.entry.pictures.max() == 255


def test_pictures_of_a_turned_shape_are_alike(tmp_path):
    one, turned = (
        describe_file(write_pdb(tmp_path / f"{i}.pdb", blob_rows(3, turn=i))).entry.pictures.astype(float)
        for i in (1, 2)
    )
    # The sign of an axis is free where the shape is nearly even along it: half turns count as the same.
    best = max(
        np.corrcoef(
            one.ravel(),
            np.stack([turned[0][::u, ::v], turned[1][::u, ::w], turned[2][::v, ::w]]).ravel(),
        )[0, 1]
        for u, v, w in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
    )
    assert best > 0.97


def test_pictures_hold_what_lies_beyond_the_ball(tmp_path):
    rows = blob_rows(3)
    tail = [("CA", "C", 900 + n, np.array([3.0 * n, 0.0, 0.0])) for n in range(30)]
    pictures = describe_file(write_pdb(tmp_path / "tail.pdb", [*rows, *tail])).entry.pictures
    assert pictures.shape[-1] > 48
    rim = np.concatenate([pictures[:, [0, -1]].ravel(), pictures[:, :, [0, -1]].ravel()])
    assert rim.max() < 40
    assert describe_file(write_pdb(tmp_path / "blob.pdb", rows)).entry.pictures.shape[-1] >= 48


def test_alternate_places_weigh_half_each(tmp_path):
    single = describe_file(write_pdb(tmp_path / "a.pdb", blob_rows(1)))
    double = describe_file(write_pdb(tmp_path / "b.pdb", blob_rows(1), altlocs=True))
    assert apart(single.vector, double.vector) < 0.02


def test_a_packed_file_is_the_same_file(tmp_path):
    plain = write_pdb(tmp_path / "a.pdb", blob_rows(1, 60))
    packed = tmp_path / "b.pdb.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    one, other = describe_file(plain), describe_file(packed)
    assert one.entry.sha256 == other.entry.sha256
    assert other.entry.name == "b"


def test_a_map_file_gives_what_its_data_give(tmp_path, data, vector):
    write_map(tmp_path / "two.mrc", Volume(data, 3.0))
    found = describe_file(tmp_path / "two.mrc")
    assert apart(found.vector, vector) < 1e-5
    assert found.entry.kind == "map"
    assert found.entry.states is None


def no_voxel_size(path, data):
    write_map(path, Volume(data, 3.0))
    raw = bytearray(path.read_bytes())
    raw[40:52] = bytes(12)  # the lengths of the cell
    path.write_bytes(bytes(raw))


def test_a_map_without_voxel_size_is_refused_and_takes_one(tmp_path, data, vector):
    path = tmp_path / "x.mrc"
    no_voxel_size(path, data)
    with pytest.raises(InputError, match="voxel size"):
        describe_file(path)
    assert apart(describe_file(path, voxel_size_in_angstroms=3.0).vector, vector) < 1e-5


def test_coordinates_that_are_not_finite_are_refused(tmp_path):
    path = write_pdb(tmp_path / "nan.pdb", blob_rows(1, 30))
    text = path.read_text().splitlines()
    text[3] = text[3][:30] + "     nan" + text[3][38:]
    path.write_text("\n".join(text))
    with pytest.raises(InputError, match=r"nan\.pdb"):
        describe_file(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "hello", "neither a map nor a model"),
        ("a.pdb", "hello\n", "not a readable structure"),
        ("a.cif", "data_x\n", "not a readable structure"),
        ("a.mrc", "hello", "a.mrc"),
        ("a.pdb", "", "a.pdb"),
    ],
)
def test_what_is_no_structure_is_refused_by_name(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=words) as caught:
        describe_file(path)
    assert name in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        describe_file(tmp_path / "none.mrc")


def test_an_assembly_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="assembly"):
        describe_file(write_pdb(tmp_path / "a.pdb", blob_rows(1, 30)), assembly="7")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.PDB", "model"), ("a.cif.gz", "model"), ("b.map.bz2", "map"), ("c.mrcs", None), ("d.star", None)],
)
def test_kinds_are_told_by_name(name, kind):
    assert kind_of_file(name) == kind


@pytest.mark.slow
def test_a_hundred_thousand_atoms_are_described(tmp_path):
    rng = np.random.default_rng(0)
    rows = [("CA", "C", i, place) for i, place in enumerate(rng.uniform(-60, 60, (100_000, 3)))]
    found = describe_file(write_pdb(tmp_path / "large.pdb", rows))
    assert found.entry.radius_of_gyration_in_angstroms == pytest.approx(60.0, rel=0.06)


needs_states = pytest.mark.skipif(not states_available(), reason="mini3di is not installed (the extra 'assess')")


@needs_states
def test_3di_states_tell_helix_from_strand_whatever_the_orientation(tmp_path):
    def states(rows):
        return state_histogram(state_sequences(read_structure(write_pdb(tmp_path / "s.pdb", rows))))

    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turn[:, 0] *= np.linalg.det(turn)
    turned = [(name, element, number, place @ turn.T) for name, element, number, place in helix()]
    assert state_similarity(states(helix()), states(turned)) > 0.95
    assert state_similarity(states(helix()), states(helix(90))) > 0.9
    assert state_similarity(states(helix()), states(strand())) < 0.3


@needs_states
def test_a_model_without_protein_has_no_3di_states(tmp_path):
    rows = [("P", "P", i, place) for i, (_, _, _, place) in enumerate(blob_rows(1, 60))]
    assert describe_file(write_pdb(tmp_path / "p.pdb", rows)).entry.states is None


def high_passed(data: torch.Tensor, voxel: float, loss: float) -> torch.Tensor:
    """Map that lost a part of its amplitude below 1 / 50 Å."""
    z, y, x = (
        (torch.fft.rfftfreq(n) if axis == 2 else torch.fft.fftfreq(n)) / voxel for axis, n in enumerate(data.shape)
    )
    square = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2
    return torch.fft.irfftn(torch.fft.rfftn(data) * (1 - loss * torch.exp(-square * 50.0**2)), s=tuple(data.shape))


def test_a_map_that_lost_low_frequencies_is_found_by_its_second_look(tmp_path):
    # A bulky molecule whose inside is as uneven as that of proteins.
    body = balls(56, 5.0, [((0.0, 0.0, -30.0), 55.0), ((10.0, 0.0, 35.0), 50.0), ((40.0, 10.0, 0.0), 35.0)])
    axis = torch.cos(2 * math.pi / 20.0 * 5.0 * torch.arange(56))
    data = body * (1 + axis[:, None, None] * axis[:, None] * axis)
    whole = vector_of(data, 5.0)
    write_map(tmp_path / "lossy.mrc", Volume(high_passed(data, 5.0, 0.55), 5.0))
    plain, raised = (apart(look, whole) for look in describe_file(tmp_path / "lossy.mrc").looks())
    assert raised < 0.5 * plain
    # A map that lost nothing keeps its first look, which is nearer.
    write_map(tmp_path / "whole.mrc", Volume(data, 5.0))
    first, second = (apart(look, whole) for look in describe_file(tmp_path / "whole.mrc").looks())
    assert first < 1e-3 < second


def test_a_model_is_looked_for_once(tmp_path):
    found = describe_file(write_pdb(tmp_path / "a.pdb", blob_rows(0)))
    assert found.restored is None
    assert found.looks().shape == (1, 128)


def test_copies_as_deposited_lost_what_the_recipe_says(tmp_path):
    atoms = read_structure(write_pdb(tmp_path / "a.pdb", blob_rows(3, atoms=900)))

    def made(**changes):
        return copy_of(atoms, CopyRecipe(resolution_in_angstroms=6.0, **changes), generator_for(0, "same")).data

    whole, lossy = made(), made(low_frequency_loss=0.6)
    ratio = torch.fft.rfftn(lossy).abs() / torch.fft.rfftn(whole).abs()
    assert float(ratio[0, 0, 0]) == pytest.approx(0.4, abs=1e-3)
    sharp = torch.fft.rfftn(made(sharpening_in_square_angstroms=100.0)).abs() / torch.fft.rfftn(whole).abs()
    k = whole.shape[2] // 5  # 1 / 10 Å in voxels of 2 Å
    frequency = k / (2.0 * whole.shape[2])
    assert float(sharp[0, 0, k]) == pytest.approx(math.exp(25 * frequency**2), rel=1e-2)
    noisy, flat = made(noise=0.5), made(noise=0.5, is_flattened=True)
    corner = (slice(0, 4),) * 3
    assert float(flat[corner].std()) < 0.02 * float(noisy[corner].std())
    assert torch.allclose(flat.flatten()[whole.argmax()], noisy.flatten()[whole.argmax()])


def test_every_other_copy_is_as_deposited(tmp_path):
    atoms = read_structure(write_pdb(tmp_path / "a.pdb", blob_rows(3, atoms=60)))
    recipes = [recipe for recipe, _ in copies_of(atoms, 6, 0, "x")]
    assert [recipe.sharpening_in_square_angstroms > 0 for recipe in recipes] == [False, True] * 3
    assert all(recipe.low_frequency_loss == 0 and not recipe.is_flattened for recipe in recipes[::2])
    assert len({recipe.low_frequency_loss for recipe in recipes[1::2]}) == 3
