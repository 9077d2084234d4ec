"""Maps from views with known poses: against the truth, against RELION, with symmetry, CTF, weights, helices."""

import math
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cryoprism.core import (
    InputError,
    frequency_grid,
    generator_for,
    irfft2,
    matrix_to_euler,
    point_group_matrices,
    random_rotations,
    rfft2,
)
from cryoprism.formats import (
    Particles,
    read_map,
    read_particle_images,
    read_particles,
    write_particles,
    write_stack,
)
from cryoprism.microscope import Lens, odd_aberration_phase, project_volume, rotate_volume
from cryoprism.particles import transfer_at
from cryoprism.structure import (
    DirectionalWeights,
    HelicalCopies,
    HelicalSymmetry,
    ParticleBatch,
    SliceAccumulator,
    fourier_shell_correlation,
    packed_frequencies,
    particle_batches,
    reconstruct,
    soft_sphere,
    split_half_sets,
    weights_for_particles,
    wiener_regularisation,
)
from cryoprism.structure._normal_equations import _density_kernel as density_kernel
from cryoprism.structure._normal_equations import _filtered as filtered
from cryoprism.structure._transforms import PaddedGrid

PIXEL = 2.0


def blobs(box: int, count: int = 60, seed: int = 0) -> Tensor:
    """Asymmetric density with detail up to Nyquist, well inside the box."""
    generator = torch.Generator().manual_seed(seed)
    places = (torch.rand(count, 3, generator=generator) - 0.5) * 0.5 * box
    volume = torch.zeros(box, box, box)
    axis = (torch.arange(box) - box // 2).float()
    for z, y, x in places.tolist():
        square = (axis - z)[:, None, None] ** 2 + (axis - y)[:, None] ** 2 + (axis - x) ** 2
        volume += torch.exp(-square / 1.5)
    return volume


def symmetric(volume: Tensor, symbol: str) -> Tensor:
    """Average over a group that keeps the grid of an odd box."""
    total = torch.zeros_like(volume)
    axis = torch.arange(volume.shape[0]) - volume.shape[0] // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    points = torch.stack([x, y, z]).reshape(3, -1).float()
    for matrix in point_group_matrices(symbol):
        i, j, k = (matrix.round() @ points).long() + volume.shape[0] // 2
        total += volume[k, j, i].view_as(volume)
    return total


def simulate(
    folder: Path, truth: Tensor, count: int, *, noise: float = 0.0, seed: int = 0, symmetry: str = "C1"
) -> Particles:
    """Particles on disk with CTF, origins and noise [standard deviations of the signal], and their table."""
    box = int(truth.shape[-1])
    generator = generator_for(seed, "test-reconstruction")
    rotations = random_rotations(count, generator)
    u = 8000 + 14000 * torch.rand(count, generator=generator, dtype=torch.float64)
    particles = Particles(
        image_names=tuple(f"{i + 1:06d}@{folder}/particles.mrcs" for i in range(count)),
        micrograph_names=tuple(f"m{i % 6}.mrc" for i in range(count)),
        pixel_size_in_angstroms=torch.full((count,), PIXEL, dtype=torch.float64),
        voltage_in_kilovolts=torch.full((count,), 300.0, dtype=torch.float64),
        spherical_aberration_in_millimeters=torch.full((count,), 2.7, dtype=torch.float64),
        amplitude_contrast=torch.full((count,), 0.1, dtype=torch.float64),
        angles_in_degrees=torch.stack(matrix_to_euler(rotations.double()), -1),
        origins_in_angstroms=PIXEL * (torch.rand(count, 2, generator=generator, dtype=torch.float64) * 4 - 2),
        defocus=torch.stack([u, u - 500, 180 * torch.rand(count, generator=generator, dtype=torch.float64)], -1),
        source=str(folder / "particles.star"),
        image_size=torch.full((count,), box),
    )
    ky, kx = frequency_grid((box, box), 1.0)
    assert particles.origins_in_angstroms is not None
    shift = particles.origins_in_angstroms.float()[:, :, None, None] / PIXEL
    spectra = rfft2(project_volume(truth, rotations, 1.0, padding=4)) * transfer_at(particles, ky, kx)
    phase = 2 * math.pi * (kx * shift[:, 0] + ky * shift[:, 1])
    images = irfft2(spectra * torch.polar(torch.ones_like(phase), phase), (box, box))
    images = images + noise * images.std() * torch.randn(images.shape, generator=generator)
    write_stack(folder / "particles.mrcs", images, PIXEL)
    write_particles(folder / "particles.star", particles)
    return read_particles(folder / "particles.star")


def lowest_fsc(first: Tensor, second: Tensor, upto: float = 0.9) -> float:
    curve = fourier_shell_correlation(first, second, PIXEL)
    return float(curve.fsc[1 : int(upto * (first.shape[0] // 2)) + 1].min())


def views(truth: Tensor, count: int, seed: int = 0) -> Iterator[ParticleBatch]:
    """Noise-free projections without CTF."""
    rotations = random_rotations(count, generator_for(seed, "views"))
    for start in range(0, count, 100):
        turn = rotations[start : start + 100]
        n = turn.shape[0]
        yield ParticleBatch(
            project_volume(truth, turn, 1.0, padding=4), turn, torch.zeros(n, 2), torch.arange(n) % 2 + 1
        )


@pytest.mark.parametrize("box", [32, 33])
def test_a_phantom_comes_back_from_its_views(box: int) -> None:
    truth = blobs(box)
    result = reconstruct(views(truth, 500), box, wiener=False)
    assert result.counts == (250, 250)
    assert lowest_fsc(result.map, truth) > 0.99
    # In the units of the images: the map is not just proportional.
    assert float((result.map * truth).sum() / truth.square().sum()) == pytest.approx(1.0, abs=0.03)
    for half in (result.half1, result.half2):
        assert lowest_fsc(half, truth) > 0.95
    # What the conjugate gradients are for: uneven coverage by few views.
    few, divided = (reconstruct(views(truth, 80), box, wiener=False, iterations=i).map for i in (3, 0))
    assert lowest_fsc(few, truth) > lowest_fsc(divided, truth) + 0.01


def test_a_smaller_radius_leaves_out_what_is_beyond() -> None:
    truth = blobs(40)
    result = reconstruct(views(truth, 200), 40, max_radius=10, wiener=False, iterations=0)
    curve = fourier_shell_correlation(result.map, truth, PIXEL).fsc
    assert float(curve[1:9].min()) > 0.95
    spectrum = torch.fft.rfftn(result.map).abs()
    radius = torch.sqrt(
        (torch.fft.fftfreq(40, 1 / 40)[:, None, None] ** 2)
        + torch.fft.fftfreq(40, 1 / 40)[:, None] ** 2
        + torch.fft.rfftfreq(40, 1 / 40) ** 2
    )
    assert float(spectrum[radius > 13].max()) < 0.02 * float(spectrum[radius < 10].max())


@pytest.mark.parametrize("box", [32, 33])
def test_ctf_and_origins_are_corrected(box: int, tmp_path: Path) -> None:
    truth = blobs(box)
    particles = simulate(tmp_path, truth, 300)
    radius = (box - 1) // 2
    right = reconstruct(particle_batches(particles, radius), box, wiener=False)
    assert lowest_fsc(right.map, truth) > 0.98
    centred = replace(particles, origins_in_angstroms=None)
    assert lowest_fsc(reconstruct(particle_batches(centred, radius), box).map, truth) < 0.5
    plain = reconstruct(particle_batches(particles, radius, ctf=False), box)
    assert lowest_fsc(plain.map, truth) < 0.5


def test_beam_tilt_is_corrected(tmp_path: Path) -> None:
    truth = blobs(40)
    particles = simulate(tmp_path, truth, 300)
    tilted = replace(particles, beam_tilt_in_milliradians=torch.tensor([[6.0, -4.0]]).double().repeat(300, 1))
    ky, kx = frequency_grid((40, 40), PIXEL)
    phase = odd_aberration_phase(
        ky, kx, Lens(amplitude_contrast=0.1), beam_tilt_x_in_milliradians=6.0, beam_tilt_y_in_milliradians=-4.0
    )
    factor = torch.polar(torch.ones_like(phase), -phase)

    def agreement(table: Particles) -> float:
        batches = particle_batches(table, 19)
        blurred = (replace(b, images=irfft2(rfft2(b.images) * factor, (40, 40))) for b in batches)
        return lowest_fsc(reconstruct(blurred, 40, wiener=False).map, truth)

    assert agreement(tilted) > 0.97
    assert agreement(particles) < 0.8


def test_symmetry_fills_in_what_the_views_leave_out() -> None:
    truth = symmetric(blobs(33, count=10), "O")
    few = reconstruct(views(truth, 24), 33, symmetry="O", wiener=False)
    none = reconstruct(views(truth, 24), 33, wiener=False)
    assert lowest_fsc(few.map, truth) > 0.97
    assert lowest_fsc(none.map, truth) < lowest_fsc(few.map, truth) - 0.05
    turned = symmetric(few.map, "O") / 24
    assert float((turned - few.map).abs().max()) < 1e-3 * float(few.map.abs().max())


@pytest.mark.parametrize("symbol", ["C3", "I1"])
def test_symmetry_off_the_grid(symbol: str) -> None:
    """A map that has no symmetry becomes the mean over the group, whatever the group."""
    truth = blobs(32, count=8)
    group = point_group_matrices(symbol)
    rotations = random_rotations(300, generator_for(0, "views"))
    asked = reconstruct(views(truth, 300), 32, symmetry=symbol, wiener=False)
    # The same views, each turned by a random element of the group, give the same map.
    chosen = torch.randint(len(group), (300,), generator=torch.Generator().manual_seed(3))
    batch = ParticleBatch(
        project_volume(truth, rotations, 1.0, padding=4),
        rotations @ group[chosen].transpose(1, 2),
        torch.zeros(300, 2),
        torch.arange(300) % 2 + 1,
    )
    other = reconstruct([batch], 32, symmetry=symbol, wiener=False)
    assert float((asked.map - other.map).norm()) < 0.05 * float(asked.map.norm())
    # And it is that mean: turning it by an element of the group changes nothing.
    inner = soft_sphere((32, 32, 32), 1.0, 10.0, soft_edge_in_angstroms=3.0)
    turned = rotate_volume(asked.map, group[1][None])[0]
    a, b = (m * inner - (m * inner).mean() for m in (turned, asked.map))
    assert float((a * b).sum() / (a.norm() * b.norm())) > 0.95


def test_wiener_weight_lowers_the_error_of_a_noisy_map(tmp_path: Path) -> None:
    truth = blobs(40)
    particles = simulate(tmp_path, truth, 300, noise=8.0)
    weighted, plain = (reconstruct(particle_batches(particles, 19), 40, wiener=w).map for w in (True, False))
    weighted_error, plain_error = ((m - truth).square().sum() for m in (weighted, plain))
    assert float(weighted_error) < 0.7 * float(plain_error)
    assert float(weighted_error) < float(truth.square().sum())


def test_regularisation_is_the_ratio_of_noise_to_signal() -> None:
    prior = wiener_regularisation(torch.tensor([4.0, 4.0, 4.0]), torch.tensor([1.0, 0.5, 0.0]))
    # FSC 0.5 of the halves: a ratio of 1 in each, 2 in the whole.
    assert float(prior[1]) == pytest.approx(2.0)
    assert float(prior[0]) < 1e-3
    assert float(prior[2]) > 1e3


def test_noise_alone_gives_halves_that_do_not_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    batch = ParticleBatch(
        torch.randn(300, 32, 32, generator=generator),
        random_rotations(300, generator),
        torch.zeros(300, 2),
        torch.arange(300) % 2 + 1,
    )
    fsc = reconstruct([batch], 32).fsc
    assert float(fsc[4:15].abs().mean()) < 0.1


def test_envelope_and_noise_weights_help_particles_of_unequal_worth(tmp_path: Path) -> None:
    """Half of the micrographs lost signal along x: with their envelope as a weight they do not spoil the rest."""
    truth, box = blobs(40), 40
    particles = simulate(tmp_path, truth, 400)
    assert particles.micrograph_names is not None
    angle = torch.arange(0.0, 180.0, 7.5)
    frequency = torch.linspace(0, 0.25, 33)
    drift = torch.sinc(9.0 * frequency * torch.deg2rad(angle).cos()[:, None])
    still, flat = torch.ones_like(drift), torch.full_like(drift, 3.0)
    table = {f"m{i}": DirectionalWeights(frequency, angle, drift if i % 2 else still, flat) for i in range(6)}
    weights = weights_for_particles(table, particles, box, 19)
    batches = list(particle_batches(particles, 19))
    generator = torch.Generator().manual_seed(5)
    start, blurred = 0, []
    for batch in batches:
        rows = torch.arange(start, start + batch.images.shape[0])
        _, kx = frequency_grid((box, box), PIXEL)
        moved = torch.tensor([int(particles.micrograph_names[i][1]) % 2 for i in rows.tolist()])
        images = irfft2(
            rfft2(batch.images) * torch.where(moved[:, None, None] == 1, torch.sinc(9.0 * kx), 1.0), (box, box)
        )
        images = images + 2.0 * batch.images.std() * torch.randn(images.shape, generator=generator)
        envelope, noise = weights.at(rows)
        blurred.append((replace(batch, images=images), envelope, noise))
        start += len(rows)
    without = reconstruct([b for b, _, _ in blurred], box, wiener=False).map
    with_weights = reconstruct([replace(b, envelope=e, noise_variance=n) for b, e, n in blurred], box, wiener=False).map
    both = [fourier_shell_correlation(m, truth, PIXEL).fsc[8:18].mean() for m in (without, with_weights)]
    assert float(both[1]) > float(both[0]) + 0.03
    # And it restores the amplitude that the blur took.
    k = packed_frequencies(19).float() / (box * PIXEL)
    envelope, _ = weights.at(torch.tensor([1]))
    level = envelope[0, k[:, 0] == 0].mean()
    assert torch.allclose(envelope[0] / level, torch.sinc(9.0 * k[:, 0]), atol=0.04)


def test_helical_copies_stand_for_the_views_of_other_units() -> None:
    rise, twist, box = 6.0, 40.0, 40
    axis = (torch.arange(box) - box // 2).float()
    truth = torch.zeros(box, box, box)
    for unit in range(-12, 13):
        angle = math.radians(unit * twist)
        x, y, z = 6 * math.cos(angle), 6 * math.sin(angle), unit * rise / PIXEL
        truth += torch.exp(
            -((axis - z)[:, None, None] ** 2 + (axis - y)[:, None] ** 2 + (axis - x) ** 2) / 2.5
        ) * math.exp(-((z / 11) ** 4))
    # Views of the map as it is, every one of them side-on and from within a sector of 40°: one unit.
    turns = torch.linspace(0, 39, 40)
    rotations = torch.stack([_side_view(float(a)) for a in turns])
    batch = ParticleBatch(
        project_volume(truth, rotations, 1.0, padding=4), rotations, torch.zeros(40, 2), torch.arange(40) % 2 + 1
    )
    symmetry = HelicalSymmetry(rise, twist)
    centre = soft_sphere((box, box, box), 1.0, 8.0, soft_edge_in_angstroms=4.0)

    def agreement(copies: HelicalCopies | None) -> float:
        found = reconstruct([batch], box, helix=copies, wiener=False).map
        return float(fourier_shell_correlation(found, truth, PIXEL, mask=centre).fsc[3:14].mean())

    with_copies = agreement(HelicalCopies(symmetry, 9, PIXEL))
    assert with_copies > 0.9
    assert with_copies > agreement(None) + 0.1
    assert with_copies > agreement(HelicalCopies(HelicalSymmetry(rise, -twist), 9, PIXEL)) + 0.1


def _side_view(degrees: float) -> Tensor:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # Rows: the view's x and y in the map, and the beam.
    return torch.tensor([[0.0, 0.0, 1.0], [-s, c, 0.0], [-c, -s, 0.0]])


def test_half_sets_keep_micrographs_together(tmp_path: Path) -> None:
    particles = simulate(tmp_path, blobs(16), 60)
    half = split_half_sets(particles, seed=1)
    assert particles.micrograph_names is not None
    for name in set(particles.micrograph_names):
        mine = half[[i for i, other in enumerate(particles.micrograph_names) if other == name]]
        assert len(set(mine.tolist())) == 1
    assert int((half == 1).sum()) == 30
    assert torch.equal(half, split_half_sets(particles, seed=1))
    given = torch.arange(60) % 2 + 1
    assert torch.equal(split_half_sets(replace(particles, half_set=given)), given)
    with pytest.raises(InputError, match="1 and 2"):
        split_half_sets(replace(particles, half_set=torch.zeros(60)))


def test_errors_name_the_remedy(tmp_path: Path) -> None:
    particles = simulate(tmp_path, blobs(16), 6)
    with pytest.raises(InputError, match="Refine"):
        next(particle_batches(replace(particles, angles_in_degrees=None), 7))
    batch = next(particle_batches(particles, 7))
    with pytest.raises(InputError, match="one box size"):
        reconstruct([batch], 18)
    with pytest.raises(InputError, match="half sets"):
        reconstruct([replace(batch, half_set=torch.ones(6))], 16)
    with pytest.raises(InputError, match="padding 2"):
        SliceAccumulator(16, padding=1).reconstruct()
    with pytest.raises(InputError, match="m0"):
        weights_for_particles({}, particles, 16, 7)


def relion_map(folder: Path, *options: str) -> Tensor:
    subprocess.run(
        ["relion_reconstruct", "--i", "particles.star", "--o", "relion.mrc", "--ctf", *options],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return read_map(folder / "relion.mrc", PIXEL).data


@pytest.mark.relion
@pytest.mark.parametrize(("symbol", "box"), [("C1", 38), ("O", 40), ("C4", 38), ("I1", 32), ("C3", 32)])
def test_relion_makes_the_same_map(symbol: str, box: int, tmp_path: Path) -> None:
    """The same estimator (sums over weights) and the same cut. Even boxes only, see the test of odd ones."""
    particles = simulate(tmp_path, blobs(box, count=20), 300)
    radius = (box - 1) // 2
    # RELION rounds this up to our radius.
    cut = box * PIXEL / (radius - 0.25)
    theirs = relion_map(tmp_path, "--sym", symbol, "--skip_gridding", "--maxres", f"{cut:.5f}")
    ours = reconstruct(particle_batches(particles, radius), box, symmetry=symbol, wiener=False, iterations=0).map
    mask = soft_sphere((box, box, box), 1.0, 0.4 * box, soft_edge_in_angstroms=0.08 * box)
    fsc = fourier_shell_correlation(ours, theirs, PIXEL, mask=mask).fsc
    # Off the grid RELION interpolates the sums, which takes some.
    on_grid = symbol in ("C1", "C4", "O")
    assert float(fsc[1 : radius - 2].min()) > (0.9999 if on_grid else 0.99)
    inner = mask > 0.99
    scale = float((ours * theirs)[inner].sum() / ours[inner].square().sum())
    assert scale == pytest.approx(1.0, abs=0.001 if on_grid else 0.1)


@pytest.mark.relion
def test_relion_does_not_centre_odd_boxes(tmp_path: Path) -> None:
    """Its change of signs is no shift there: its map is wrong, and right once the images make up for it."""
    box = 39
    truth = blobs(box, count=20)
    particles = simulate(tmp_path, truth, 300)
    mask = soft_sphere((box, box, box), 1.0, 0.4 * box, soft_edge_in_angstroms=0.08 * box)

    def lowest(volume: Tensor) -> float:
        return float(fourier_shell_correlation(volume, truth, PIXEL, mask=mask).fsc[1:17].min())

    assert lowest(relion_map(tmp_path, "--skip_gridding")) < 0.5
    ours = reconstruct(particle_batches(particles, box // 2), box, wiener=False).map
    assert lowest(ours) > 0.99
    images = read_particle_images(particles, torch.arange(len(particles)))
    ky, kx = frequency_grid((box, box), 1.0)
    sign = 1.0 - 2.0 * ((torch.arange(box)[:, None] + torch.arange(box // 2 + 1)) % 2)
    shift = torch.polar(torch.ones_like(sign), 2 * math.pi * (box // 2) * (ky + kx))
    write_stack(tmp_path / "particles.mrcs", irfft2(rfft2(images) * shift * sign, (box, box)), PIXEL)
    # Half of one column of the spectra is lost.
    assert lowest(relion_map(tmp_path, "--skip_gridding")) > 0.95


@pytest.mark.parametrize("radius", [20, 14, 6])
def test_filtering_in_blocks_leaves_out_nothing(radius: int) -> None:
    """Against the padded transform as a whole; with the smallest radius whole blocks of rows are empty."""
    grid = PaddedGrid.of(42, 2, radius)
    generator = torch.Generator().manual_seed(radius)
    volume = torch.randn(42, 42, 42, generator=generator)
    side = grid.padded
    k = torch.fft.fftfreq(side, 1 / side)
    inside = k[:, None, None] ** 2 + k[:, None] ** 2 + k[: side // 2 + 1] ** 2 <= (grid.scale * radius) ** 2
    spectrum = torch.rand(inside.shape, generator=generator) * inside
    expected = torch.fft.irfftn(torch.fft.rfftn(volume, s=(side,) * 3) * spectrum, s=(side,) * 3)[:42, :42, :42]
    torch.testing.assert_close(filtered(volume, spectrum, grid), expected, atol=2e-5, rtol=0)


def test_density_kernel_is_that_of_every_lag() -> None:
    """Against the attenuation of each lag by itself."""
    grid = PaddedGrid.of(12)
    weight = torch.rand(grid.shape, generator=torch.Generator().manual_seed(0))
    weight[..., 0] += weight[..., 0].flip(0, 1)
    side, lag = grid.padded, torch.fft.fftfreq(grid.padded)
    table = torch.zeros(side, side, side // 2 + 1)
    full = torch.arange(-grid.reach, grid.reach + 1) % side
    table[full[:, None, None], full[:, None], full[grid.reach :]] = weight
    radius = (lag[:, None, None] ** 2 + lag[:, None] ** 2 + lag**2).sqrt()
    kernel = torch.fft.irfftn(table.to(torch.complex64), s=(side,) * 3) / torch.sinc(radius.clamp_max(0.5)) ** 2
    expected = torch.fft.rfftn(kernel).real
    torch.testing.assert_close(torch.from_numpy(density_kernel(weight, grid)), expected, atol=1e-4, rtol=1e-4)
