"""Two-dimensional classification: geometry, the posterior against its definition, two species, and pure noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from cryoprism.core import (
    InputError,
    euler_to_matrix,
    frequency_grid,
    generator_for,
    irfft2,
    random_rotations,
    rfft2,
)
from cryoprism.microscope import project_volume
from cryoprism.microscope.optics import Lens, contrast_transfer
from cryoprism.structure import (
    Classification,
    ClassificationState,
    classify,
    pack,
    pack_real,
    packed_frequencies,
    packed_shells,
    select_classes,
)
from cryoprism.structure._classes_plane import (
    PlaneGrid,
    averages_from_sums,
    insert_rotated,
    rotated_views,
    soft_circle,
)
from cryoprism.structure._classes_search import expectation, moved, prepare_views, search_levels, shift_values

BOX, PIXEL, DIAMETER = 40, 3.5, 110.0
LENS = Lens(voltage_in_kilovolts=300.0, spherical_aberration_in_millimeters=2.7, amplitude_contrast=0.1)


def blobs(seed: int, reach: tuple[float, float, float], box: int = BOX) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    axis = (torch.arange(box) - box // 2).float()
    volume = torch.zeros(box, box, box)
    for _ in range(14):
        x, y, z = ((torch.rand(3, generator=generator) * 2 - 1) * torch.tensor(reach)).tolist()
        square = (axis[:, None, None] - z) ** 2 + (axis[:, None] - y) ** 2 + (axis - x) ** 2
        volume += torch.exp(-square / 3.0)
    return volume


def image_of(points: Tensor, box: int) -> Tensor:
    axis = (torch.arange(box) - box // 2).float()
    weight = torch.arange(1, len(points) + 1)
    square = (axis[:, None] - points[:, 1, None, None]) ** 2 + (axis - points[:, 0, None, None]) ** 2
    return (weight[:, None, None] * torch.exp(-square / 6.0)).sum(0)


def in_plane(psi: Tensor) -> Tensor:
    return euler_to_matrix(torch.zeros_like(psi), torch.zeros_like(psi), psi)


@dataclass(frozen=True)
class Simulated:
    images: Tensor
    transfer: Tensor
    species: Tensor
    view: Tensor
    psi: Tensor
    origins: Tensor
    views: Tensor  # (species · views, box, box) without contrast transfer, at psi = 0


def simulate(count: int, snr: float, seed: int, views: int = 3) -> Simulated:
    """Particles of two species, each seen from a few directions at any in-plane angle and 2 pixels off at most."""
    generator = generator_for(seed, "classes-test")
    volumes = [blobs(1, (11.0, 6.0, 5.0)), blobs(2, (8.0, 8.0, 8.0))]
    directions = random_rotations(views, generator_for(7, "views"))
    species = torch.arange(count) % 2
    view = torch.randint(views, (count,), generator=generator)
    psi = 360 * torch.rand(count, generator=generator)
    turns = in_plane(psi) @ directions[view]
    clean = torch.empty(count, BOX, BOX)
    for number, volume in enumerate(volumes):
        mine = species == number
        clean[mine] = project_volume(volume, turns[mine], 1.0)
    origins = (torch.rand(count, 2, generator=generator) * 2 - 1) * 2
    ky, kx = frequency_grid((BOX, BOX), 1.0)
    phase = 2 * math.pi * (kx * origins[:, 0, None, None] + ky * origins[:, 1, None, None])
    u = 8000 + 10000 * torch.rand(count, generator=generator)
    transfer = contrast_transfer(
        ky / PIXEL,
        kx / PIXEL,
        LENS,
        defocus_u_in_angstroms=u,
        defocus_v_in_angstroms=u - 300,
        defocus_angle_in_degrees=torch.full((count,), 20.0),
    )
    signal = irfft2(rfft2(clean) * transfer * torch.polar(torch.ones_like(phase), phase), (BOX, BOX))
    signal *= math.sqrt(snr) / signal.std()
    images = signal + torch.randn(signal.shape, generator=generator)
    seen = torch.cat([project_volume(volume, directions, 1.0) for volume in volumes])
    return Simulated(images, transfer, species, view, psi, origins, seen)


def run(data: Simulated, classes: int = 8, **changed: object) -> Classification:
    given: dict[str, object] = {
        "classes": classes, "diameter_in_angstroms": DIAMETER, "pixel_size_in_angstroms": PIXEL, **changed,
    }  # fmt: skip
    return classify(data.images, data.transfer, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def two_species() -> tuple[Simulated, Classification]:
    data = simulate(600, 0.1, 0)
    return data, run(data)


@pytest.mark.parametrize("box", [40, 41])
def test_views_are_rotated_images_and_insertion_undoes_it(box: int) -> None:
    points = 5 * torch.randn(6, 2, generator=torch.Generator().manual_seed(3))
    image, radius = image_of(points, box), (box - 1) // 2
    grid = PlaneGrid(box, radius)
    views = rotated_views(image[None], grid, 36, radius)
    for j in (0, 7, 20, 31):
        turn = in_plane(torch.tensor((j + 0.5) * 10.0))[:2, :2]
        expected = pack(rfft2(image_of(points @ turn.T, box)), radius)
        assert float((views[0, j] - expected).norm() / expected.norm()) < 0.03
    sums = torch.cat([torch.view_as_real(views), torch.ones(1, 36, views.shape[-1], 1)], -1)
    table = insert_rotated(sums, grid, 36, radius)
    back = averages_from_sums(table, grid, torch.full((1, radius + 1), 1e6), radius)[0]
    both = torch.stack([back.flatten(), image.flatten()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.998


def test_insertion_keeps_all_weight() -> None:
    grid, generator = PlaneGrid(24, 11), torch.Generator().manual_seed(0)
    count = packed_frequencies(9).shape[0]
    sums = torch.randn(2, 12, count, 3, generator=generator)
    table = insert_rotated(sums, grid, 12, 9)
    torch.testing.assert_close(table[..., 2].sum((1, 2)), sums[..., 2].sum((1, 2)), rtol=1e-4, atol=1e-3)


def test_a_posterior_is_that_of_its_definition() -> None:
    """With one level, every class, angle and shift is compared; here again by loops over the images."""
    box, generator = 24, torch.Generator().manual_seed(1)
    radius, k = 4, packed_frequencies(4)
    grid = PlaneGrid(box, 11)
    mask = soft_circle(box, 8.0, 3.0)
    references = torch.randn(2, box, box, generator=generator) * mask
    levels = search_levels(box, radius, 16.0, 2.0)
    assert len(levels) == 1
    views = prepare_views(references, grid, levels)
    images = torch.randn(3, box, box, generator=generator)
    transfer, noise = torch.rand(3, len(k), generator=generator), 40 + 500 * torch.rand(3, len(k), generator=generator)
    prior = torch.tensor([0.3, 0.7]).log()
    found = expectation(images, transfer, noise, views, origins=torch.zeros(3, 2), spread=2.0, class_prior=prior)
    shifts = shift_values(levels[0])
    spectra = pack(rfft2(images), radius)
    for i in range(3):
        score = torch.empty(len(shifts), 2 * levels[0].angles)
        for t, shift in enumerate(shifts):
            centred = spectra[i] * torch.exp(-2j * math.pi * (k.float() @ shift) / box)
            misfit = (centred - transfer[i] * views[0].values).abs().square() - spectra[i].abs().square()
            score[t] = -(misfit / noise[i]).sum(-1) - shift.square().sum() / 8
        score += prior.repeat_interleave(levels[0].angles)
        best = int(score.argmax())
        assert int(found.best_class[i]) == best % score.shape[1] // levels[0].angles
        torch.testing.assert_close(found.shift[i], shifts[best // score.shape[1]])
        # The 64 cells and 6 shifts that are kept hold nearly everything.
        assert float(torch.logsumexp(score.flatten(), 0) - found.gain[i]) == pytest.approx(0.0, abs=0.7)
        assert float(found.share[i].sum()) == pytest.approx(1.0, abs=1e-3)


def test_children_of_cells_tile_their_parents() -> None:
    levels = search_levels(64, 30, 50.0, 6.0)
    assert len(levels) > 1
    assert levels[-1].radius == 30
    for coarse, fine in pairwise(levels):
        assert (fine.angles, fine.shifts) == (2 * coarse.angles, 2 * coarse.shifts)
        assert fine.step * fine.shifts == pytest.approx(12.0)
        children = shift_values(fine).view(coarse.shifts, 2, coarse.shifts, 2, 2)
        torch.testing.assert_close(children.mean((1, 3)).flatten(0, 1), shift_values(coarse))
    # At the finest level the particle's edge moves by half a wavelength of the highest frequency at most.
    assert 2 * math.pi / levels[-1].angles * 25 <= 0.5 * 64 / 30 * 1.05


def test_moved_images_follow_the_sign_of_origins() -> None:
    images = torch.zeros(2, 9, 9)
    images[:, 4, 5] = 1.0
    out = moved(images, torch.tensor([[-1, 0], [2, 1]]))
    assert out[0].nonzero().tolist() == [[4, 4]]
    assert out[1].nonzero().tolist() == [[5, 7]]


def test_two_species_are_told_apart(two_species: tuple[Simulated, Classification]) -> None:
    data, result = two_species
    right = 0
    for c in range(8):
        mine = data.species[result.class_index == c]
        right += int(torch.bincount(mine, minlength=2).max())
    assert right / 600 > 0.95
    members = torch.bincount(result.class_index, minlength=8)
    assert bool((result.fraction[:-1] >= result.fraction[1:]).all())
    assert float(result.fraction.sum()) == pytest.approx(1.0, abs=1e-3)
    assert int(members.sum()) == 600


def test_averages_look_like_the_true_views(two_species: tuple[Simulated, Classification]) -> None:
    data, result = two_species
    grid = PlaneGrid(BOX, (BOX - 1) // 2)
    mask = soft_circle(BOX, 0.5 * DIAMETER / PIXEL, 2.0)
    truth = rotated_views((data.views - data.views[:, :1, :1]) * mask, grid, 120, grid.radius)
    mine = pack(rfft2(result.averages), grid.radius)
    reach = packed_shells(grid.radius) <= round(BOX * PIXEL / 12.0)
    axis = torch.arange(-3.0, 3.01, 0.5)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    phases = torch.stack([x.flatten(), y.flatten()], -1) @ packed_frequencies(grid.radius).float().T
    phases = torch.polar(torch.ones_like(phases), 2 * math.pi / BOX * phases)[:, reach]
    for c in range(8):
        if float(result.fraction[c]) < 0.05:
            continue
        moved_average = mine[c, reach] * phases
        product = (moved_average @ truth[:, :, reach].flatten(0, 1).conj().T).real
        size = moved_average.norm(dim=1)[:, None] * truth[:, :, reach].flatten(0, 1).norm(dim=1)
        assert float((product / size).max()) > 0.9, f"class {c + 1}"


def test_angles_and_origins_are_relions(two_species: tuple[Simulated, Classification]) -> None:
    """Within a class of one view, psi differs from the truth by one constant and origins by a turned constant."""
    data, result = two_species
    mine = (result.class_index == 0) & (data.species == data.species[result.class_index == 0].mode().values)
    view = data.view[mine].mode().values
    mine &= data.view == view
    assert int(mine.sum()) > 40
    off = torch.deg2rad(result.psi_in_degrees[mine] - data.psi[mine])
    common = torch.atan2(off.sin().mean(), off.cos().mean())
    error = torch.rad2deg(torch.atan2((off - common).sin(), (off - common).cos())).abs()
    assert float(error.median()) < 8
    # rlnOrigin brings the particle to the centre: data were displaced by -origin. The class may be off-centre by d in
    # its own frame, which is A(psi) d in the image.
    difference = data.origins[mine] - result.origins_in_angstroms[mine].float() / PIXEL
    turn = in_plane(result.psi_in_degrees[mine].float())[:, :2, :2]
    constant = (turn.transpose(1, 2) @ difference[..., None]).median(0).values
    rest = difference - (turn @ constant)[..., 0]
    assert float(rest.norm(dim=1).median()) < 1.0
    assert float(data.origins[mine].norm(dim=1).median()) > 1.2


def test_structure_is_proven_by_halves_and_selected(two_species: tuple[Simulated, Classification]) -> None:
    _, result = two_species
    assert result.proof > 5
    large = result.fraction > 0.1
    assert bool(torch.isfinite(result.resolution_in_angstroms[large]).all())
    assert float(result.resolution_in_angstroms.min()) > 2 * PIXEL
    assert bool(select_classes(result)[large].all())
    assert not bool(select_classes(result, least_score=1.01).any())
    assert float(result.trace[-1]) > float(result.trace[0])


def test_pure_noise_proves_nothing() -> None:
    generator = generator_for(0, "noise-test")
    images = torch.randn(300, BOX, BOX, generator=generator)
    transfer = simulate(20, 0.1, 0).transfer.repeat(15, 1, 1)
    result = classify(
        images, transfer, classes=5, diameter_in_angstroms=DIAMETER, pixel_size_in_angstroms=PIXEL, iterations=20
    )
    assert result.proof < 3.0
    assert not bool(torch.isfinite(result.resolution_in_angstroms).any())
    assert not bool(select_classes(result, least_score=0.0).any())
    # Noise does follow the references that the halves share: that is why these frequencies do not count.
    joint = round(BOX * PIXEL / result.joint_resolution_in_angstroms)
    members = torch.bincount(result.class_index, minlength=5)
    assert float(result.frc[members > 20, 2 : joint + 1].mean()) > 0.5


def test_same_seed_same_result_and_a_state_continues() -> None:
    data = simulate(120, 0.2, 3)
    states: list[ClassificationState] = []
    whole = run(data, 4, iterations=8, on_iteration=states.append)
    again = run(data, 4, iterations=8, state=states[4])
    for field in fields(whole):
        first, second = getattr(whole, field.name), getattr(again, field.name)
        if isinstance(first, Tensor):
            torch.testing.assert_close(first, second, rtol=0, atol=0)
    other = run(data, 4, iterations=8, seed=1)
    assert not torch.equal(other.class_index, whole.class_index)


def test_packed_transfer_and_scaled_images_give_the_same() -> None:
    data = simulate(120, 0.3, 4)
    first = run(data, 3, iterations=6)
    packed = pack_real(data.transfer, (BOX - 1) // 2)
    second = classify(
        5 * data.images + 3, packed, classes=3, diameter_in_angstroms=DIAMETER, pixel_size_in_angstroms=PIXEL,
        iterations=6,
    )  # fmt: skip
    assert float((first.class_index == second.class_index).float().mean()) > 0.95


def test_inputs_are_left_alone() -> None:
    data = simulate(60, 0.3, 5)
    images, transfer = data.images.clone(), data.transfer.clone()
    run(data, 2, iterations=3, groups=torch.arange(60) // 30)
    assert torch.equal(images, data.images)
    assert torch.equal(transfer, data.transfer)


def test_bad_input_says_what_to_do() -> None:
    data = simulate(20, 0.3, 5)
    with pytest.raises(InputError, match="background"):
        run(data, 2, diameter_in_angstroms=BOX * PIXEL)
    with pytest.raises(InputError, match="classes"):
        run(data, 21)
    with pytest.raises(InputError, match="half sets"):
        run(data, 2, half_set=torch.ones(20))
    with pytest.raises(InputError, match="groups"):
        run(data, 2, groups=torch.ones(3))
    with pytest.raises(InputError, match="without any noise"):
        classify(torch.zeros(4, 32, 32), None, classes=1, diameter_in_angstroms=60.0, pixel_size_in_angstroms=PIXEL)
    with pytest.raises(InputError, match="transfer"):
        classify(
            torch.rand(4, 32, 32), torch.rand(4, 7), classes=1, diameter_in_angstroms=60.0,
            pixel_size_in_angstroms=PIXEL,
        )  # fmt: skip
