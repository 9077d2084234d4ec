"""Packed coefficients, central slices against projections, and insertion as the adjoint of slicing."""

import pytest
import torch
from torch import Tensor

from cryoprism.core import InputError, irfft2, point_group_matrices, random_rotations, rfft2
from cryoprism.microscope import project_volume
from cryoprism.structure import (
    FourierVolume,
    SliceAccumulator,
    pack,
    pack_real,
    packed_frequencies,
    packed_shells,
    split_point_group,
    unpack,
)


def blobs(box: int, seed: int = 0) -> Tensor:
    """Smooth asymmetric density well inside the box."""
    generator = torch.Generator().manual_seed(seed)
    axis = (torch.arange(box) - box // 2).float()
    volume = torch.zeros(box, box, box)
    for _ in range(12):
        z, y, x = ((torch.rand(3, generator=generator) - 0.5) * 0.45 * box).tolist()
        square = (axis - z)[:, None, None] ** 2 + (axis - y)[:, None] ** 2 + (axis - x) ** 2
        volume += torch.rand(1, generator=generator) * torch.exp(-square / 3.0)
    return volume


def turns(count: int, seed: int = 1) -> Tensor:
    return random_rotations(count, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("radius", [1, 2, 7, 20])
def test_packed_frequencies_are_one_half_of_a_disc(radius: int) -> None:
    k = packed_frequencies(radius)
    both = torch.cat([k, -k])
    axis = torch.arange(-radius, radius + 1)
    disc = {
        (int(x), int(y)) for x in axis for y in axis if 0 < x * x + y * y <= radius * radius
    }  # every frequency or its mirror image, once
    assert {tuple(pair) for pair in both.tolist()} == disc
    assert both.shape[0] == len(disc)
    assert bool(((k[:, 0] > 0) | ((k[:, 0] == 0) & (k[:, 1] > 0))).all())


def test_a_smaller_radius_is_a_prefix() -> None:
    large = packed_frequencies(23)
    for radius in (1, 5, 22):
        small = packed_frequencies(radius)
        assert torch.equal(small, large[: small.shape[0]])
    assert bool((packed_shells(23).diff() >= 0).all())
    assert int(packed_shells(23).max()) == 23


@pytest.mark.parametrize("box", [24, 25])
def test_pack_moves_phases_to_the_centre_and_unpack_inverts(box: int) -> None:
    radius = (box - 1) // 2
    point = torch.zeros(2, box, box)
    point[0, box // 2, box // 2] = 1.0
    point[1, box // 2 + 2, box // 2 - 3] = 1.0
    packed = pack(rfft2(point), radius)
    k = packed_frequencies(radius)
    assert torch.allclose(packed[0], torch.ones_like(packed[0]), atol=1e-5)
    phase = -2 * torch.pi * (-3 * k[:, 0] + 2 * k[:, 1]) / box
    assert torch.allclose(packed[1], torch.polar(torch.ones_like(phase), phase), atol=1e-5)
    images = torch.randn(2, box, box, generator=torch.Generator().manual_seed(0))
    spectrum = unpack(pack(rfft2(images), radius), box)
    # A real image comes back: both halves of the column kx = 0 are there.
    again = rfft2(irfft2(spectrum, (box, box)))
    assert torch.allclose(again, spectrum, atol=1e-3)
    ky = torch.fft.fftfreq(box, 1 / box)[:, None]
    kx = torch.arange(box // 2 + 1)[None]
    inside = (ky * ky + kx * kx <= radius * radius) & (ky * ky + kx * kx > 0)
    assert torch.allclose(spectrum, rfft2(images) * inside, atol=1e-3)
    rows = ky.expand(box, box // 2 + 1)
    assert torch.allclose(pack_real(rows, radius), k[:, 1].float(), atol=1e-4)


def test_packing_refuses_what_it_cannot_do() -> None:
    with pytest.raises(InputError, match="at most 11"):
        pack(rfft2(torch.zeros(24, 24)), 12)
    with pytest.raises(InputError, match="half transform"):
        pack(torch.zeros(24, 24, dtype=torch.complex64), 5)
    with pytest.raises(InputError, match="no whole radius"):
        unpack(torch.zeros(7, dtype=torch.complex64), 24)


@pytest.mark.parametrize(("box", "padding"), [(32, 1), (32, 2), (33, 2), (33, 3)])
def test_slices_are_the_transforms_of_projections(box: int, padding: int) -> None:
    volume, rotations, radius = blobs(box), turns(6), (box - 1) // 2
    expected = pack(rfft2(project_volume(volume, rotations, 1.0, padding=padding)), radius)
    slices = FourierVolume.from_map(volume, padding).slices(rotations, radius)
    assert float((slices - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    # The same from a table that was cropped, at a smaller radius: a prefix.
    small = FourierVolume.from_map(volume, padding, max_radius=9).slices(rotations, 8)
    assert torch.allclose(small, slices[:, : small.shape[1]], atol=1e-4)


def test_slices_along_the_grid_are_exact_but_for_the_correction() -> None:
    volume = blobs(32)
    slices = FourierVolume.from_map(volume).slices(torch.eye(3)[None], 15)[0]
    axis = (torch.arange(32) - 16.0) / 64
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    corrected = volume / torch.sinc(radius) ** 2
    assert torch.allclose(slices, pack(rfft2(corrected.sum(0)), 15), atol=1e-3)


def test_gradients_are_those_of_the_interpolated_value() -> None:
    volume = FourierVolume.from_map(blobs(32))
    rotation = turns(4)
    values, slopes = volume.gradient_slices(rotation, 10)
    assert torch.allclose(values, volume.slices(rotation, 10))
    # Turn the view a little: the change of q = Aᵀ k times the slope is the change of the value, within the cell.
    small = 1e-4
    axis = torch.tensor([[0.0, -0.3, 0.5], [0.3, 0.0, -0.8], [-0.5, 0.8, 0.0]]) * small
    turned = rotation @ torch.matrix_exp(axis)
    k = packed_frequencies(10).float()
    moved = torch.einsum("nk,mki->mni", k, (turned - rotation)[:, :2])
    expected = (moved * slopes).sum(-1)
    change = volume.slices(turned, 10) - values
    near = torch.quantile((change - expected).abs() / change.abs().clamp_min(1e-12), 0.95)
    assert float(near) < 0.05


@pytest.mark.parametrize("box", [16, 17])
def test_insertion_is_the_adjoint_of_slicing(box: int) -> None:
    """Re ⟨S v, x⟩ = Re ⟨v, Sᵀ x⟩ for any table v and any coefficients x."""
    radius = (box - 1) // 2
    accumulator = SliceAccumulator(box, max_radius=radius)
    generator = torch.Generator().manual_seed(2)
    table = torch.randn(accumulator.grid.shape, dtype=torch.complex64, generator=generator)
    rotations = turns(9)
    slices = FourierVolume(accumulator.grid, table).slices(rotations, radius)
    values = torch.randn(slices.shape, dtype=torch.complex64, generator=generator)
    weights = torch.rand(slices.shape, generator=generator)
    accumulator.add(values, weights, rotations)
    left = float((slices * values.conj()).real.double().sum())
    back = torch.complex(accumulator.sums[0], accumulator.sums[1]).view(accumulator.grid.shape)
    right = float((table * back.conj()).real.double().sum())
    assert left == pytest.approx(right, rel=1e-4)
    assert float(accumulator.sums[2].sum()) == pytest.approx(float(weights.sum()), rel=1e-4)


def test_accumulators_add_up_and_refuse_others() -> None:
    rotations = turns(8)
    values = torch.ones(8, packed_frequencies(7).shape[0], dtype=torch.complex64)
    parts = [SliceAccumulator(16) for _ in range(3)]
    parts[0].add(values[:5], values[:5].real, rotations[:5])
    parts[1].add(values[5:], values[5:].real, rotations[5:])
    parts[2].add(values, values.real, rotations)
    assert torch.allclose(parts[0].merge(parts[1]).sums, parts[2].sums, atol=1e-5)
    with pytest.raises(InputError, match="geometry"):
        parts[0].merge(SliceAccumulator(18))
    with pytest.raises(InputError, match="one row per rotation"):
        parts[0].add(values, values.real, rotations[:3])


@pytest.mark.parametrize(("symbol", "exact"), [("C1", 1), ("C4", 4), ("C7", 1), ("D7", 2), ("O", 24), ("I1", 12)])
def test_point_groups_split_into_exact_rotations_and_copies(symbol: str, exact: int) -> None:
    group = point_group_matrices(symbol)
    inner, copies = split_point_group(group)
    assert (inner.shape[0], inner.shape[0] * copies.shape[0]) == (exact, group.shape[0])
    products = torch.einsum("aij,bjk->abik", inner, copies).reshape(-1, 3, 3)
    distance = (products[:, None] - group[None]).abs().amax((-1, -2))
    assert bool((distance.min(0).values < 1e-4).all())


@pytest.mark.parametrize("symbol", ["C4", "D2", "O"])
@pytest.mark.parametrize("box", [16, 17])
def test_symmetry_that_keeps_the_grid_equals_insertion_of_all_copies(symbol: str, box: int) -> None:
    rotations, group = turns(5), point_group_matrices(symbol)
    generator = torch.Generator().manual_seed(4)
    values = torch.randn(5, packed_frequencies(7).shape[0], dtype=torch.complex64, generator=generator)
    weights = torch.rand(values.shape, generator=generator)
    once, all_copies = SliceAccumulator(box, max_radius=7), SliceAccumulator(box, max_radius=7)
    once.add(values, weights, rotations)
    for matrix in group:
        all_copies.add(values, weights, rotations @ matrix.T)
    difference = once.symmetrised(group).reconstruct() - all_copies.reconstruct()
    assert float(difference.abs().max()) < 1e-3 * float(all_copies.reconstruct().abs().max())


def test_other_symmetry_is_interpolated() -> None:
    rotations, group = turns(60), point_group_matrices("C3")
    volume = FourierVolume.from_map(blobs(24))
    values = volume.slices(rotations, 9)
    once, copies = SliceAccumulator(24, max_radius=9), SliceAccumulator(24, max_radius=9)
    once.add(values, torch.ones(values.shape), rotations)
    for matrix in group:
        copies.add(values, torch.ones(values.shape), rotations @ matrix.T)
    one, other = once.symmetrised(group).reconstruct(), copies.reconstruct()
    assert float((one * other).sum() / (one.norm() * other.norm())) > 0.98
