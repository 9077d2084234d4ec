"""Extraction: geometry at even and odd sizes, normalisation, RELION as the judge; contrast transfer of particles."""

from __future__ import annotations

import math
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cryoprism.core import InputError, frequency_grid, generator_for, irfft2, rfft2
from cryoprism.formats import Particles, read_particle_images, read_particles, write_mrc
from cryoprism.microscope.optics import Lens, contrast_transfer
from cryoprism.particles import (
    extract_particles,
    local_defocus,
    masked_fraction,
    normalise_particles,
    particle_transfer,
    transfer_at,
)
from cryoprism.restoration import LABELS

PIXEL = 1.5


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dark_spots(shape: tuple[int, int], xy: Tensor, sigma: float = 4.0) -> Tensor:
    """Dark Gaussians at any fraction of a pixel, on a bright slope."""
    y, x = torch.arange(shape[0])[:, None].double(), torch.arange(shape[1])[None, :].double()
    image = 500 + 0.3 * y - 0.2 * x
    for px, py in xy.tolist():
        image = image - 40 * torch.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2))
    return image.float()


def centre_of_mass(image: Tensor) -> tuple[float, float]:
    weight = (image.double() - 0.3 * float(image.max())).clamp_min(0)
    y, x = (torch.arange(n, dtype=torch.float64) for n in image.shape)
    return float((weight.sum(1) * y).sum() / weight.sum()), float((weight.sum(0) * x).sum() / weight.sum())


@pytest.mark.parametrize(("box", "side"), [(64, 64), (65, 65), (64, 32), (64, 33), (65, 32), (65, 33), (64, 48)])
def test_a_spot_plus_its_origin_lies_at_the_centre(box: int, side: int) -> None:
    xy = torch.tensor([[60.0, 70.0], [190.4, 55.25], [70.5, 199.5]], dtype=torch.float64)
    xy = torch.cat([xy, torch.tensor([[220.75, 230.6]], dtype=torch.float64)])
    field = dark_spots((300, 310), xy) + 0.5 * noise(300, 310)
    cut = extract_particles(
        field, xy, box_in_pixels=box, pixel_size_in_angstroms=PIXEL, output_box=side,
        background_diameter_in_angstroms=0.9 * box * PIXEL,
    )  # fmt: skip
    assert tuple(cut.images.shape) == (4, side, side)
    assert cut.pixel_size_in_angstroms == pytest.approx(PIXEL * box / side)
    assert float(cut.origins_in_angstroms.abs().max()) <= 0.5 * PIXEL + 1e-9
    torch.testing.assert_close(cut.centres_in_pixels - cut.origins_in_angstroms / PIXEL, xy, rtol=0, atol=1e-9)
    for image, (ox, oy) in zip(cut.images, cut.origins_in_angstroms.tolist(), strict=True):
        y, x = centre_of_mass(image)
        assert x + ox / cut.pixel_size_in_angstroms == pytest.approx(side // 2, abs=0.06)
        assert y + oy / cut.pixel_size_in_angstroms == pytest.approx(side // 2, abs=0.06)
        assert float(image[side // 2, side // 2]) > 0  # protein is bright


def test_pixels_are_copied_and_nothing_is_changed() -> None:
    field = noise(90, 100)
    before = field.clone()
    xy = torch.tensor([[50.0, 40.0], [30.2, 45.0]], dtype=torch.float64)
    cut = extract_particles(field, xy, box_in_pixels=20, pixel_size_in_angstroms=PIXEL, invert=False, normalise=False)
    torch.testing.assert_close(cut.images[0], field[30:50, 40:60], rtol=0, atol=0)
    torch.testing.assert_close(cut.images[1], field[35:55, 20:40], rtol=0, atol=0)
    torch.testing.assert_close(field, before, rtol=0, atol=0)
    inverted = extract_particles(field, xy, box_in_pixels=20, pixel_size_in_angstroms=PIXEL, normalise=False)
    torch.testing.assert_close(inverted.images, -cut.images, rtol=0, atol=0)


@pytest.mark.parametrize("box", [20, 21])
def test_the_whole_box_lies_inside_or_the_edge_repeats(box: int) -> None:
    field = noise(60, 70)
    low, high_x, high_y = box // 2, 70 - (box - box // 2), 60 - (box - box // 2)
    xy = torch.tensor(
        [[low, low], [high_x, high_y], [low - 1, 30], [30, low - 1], [high_x + 1, 30], [30, high_y + 1]]
    ).double()
    options = {"box_in_pixels": box, "pixel_size_in_angstroms": PIXEL}
    cut = extract_particles(field, xy, **options)  # type: ignore[arg-type]
    assert cut.kept.tolist() == [True, True, False, False, False, False]
    assert cut.at_edge == 4
    near = extract_particles(field, xy, edge_in_pixels=5, invert=False, normalise=False, **options)  # type: ignore[arg-type]
    assert near.kept.all()
    torch.testing.assert_close(near.images[2][:, 0], near.images[2][:, 1], rtol=0, atol=0)
    torch.testing.assert_close(near.images[5][-1], near.images[5][-2], rtol=0, atol=0)
    none = extract_particles(field, torch.empty(0, 2), **options)  # type: ignore[arg-type]
    assert tuple(none.images.shape) == (0, box, box)


def test_background_is_flat_and_of_unit_spread() -> None:
    box, diameter = 48, 30.0
    axis = torch.arange(box) - box // 2
    slope = 1e4 + 30.0 * axis[:, None] - 11.0 * axis[None, :]
    images = slope + 25 * noise(6, box, box)
    flat, usable = normalise_particles(images, diameter)
    assert usable.all()
    outside = (axis[:, None] ** 2 + axis[None, :] ** 2) > 15**2
    background = flat[:, outside].double()
    torch.testing.assert_close(background.mean(1), torch.zeros(6).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(background.std(1, correction=0), torch.ones(6).double(), atol=1e-5, rtol=0)
    # No slope is left: both first moments of the background vanish.
    for moment in (axis[:, None].expand(box, box)[outside], axis[None, :].expand(box, box)[outside]):
        assert float((background * moment).mean(1).abs().max()) < 1e-3
    # Adding any plane, and any gain, changes nothing.
    again, _ = normalise_particles(3 * images + 0.2 * slope, diameter)
    torch.testing.assert_close(again, flat, atol=2e-3, rtol=0)


def test_what_does_not_vary_is_left_out_and_counted() -> None:
    field = noise(100, 100)
    field[40:100, 40:100] = 7.0
    xy = torch.tensor([[20.0, 20.0], [70.0, 70.0]], dtype=torch.float64)
    cut = extract_particles(field, xy, box_in_pixels=24, pixel_size_in_angstroms=PIXEL)
    assert cut.kept.tolist() == [True, False]
    assert (len(cut), cut.without_contrast, cut.at_edge) == (1, 1, 0)
    assert torch.isfinite(cut.images).all()


def test_dust_is_replaced_by_noise_that_the_seed_fixes() -> None:
    field = noise(80, 80)
    field[38, 44], field[45, 31] = 60.0, -80.0
    xy = torch.tensor([[40.0, 40.0]], dtype=torch.float64)

    def cut(seed: int) -> Tensor:
        return extract_particles(
            field, xy, box_in_pixels=40, pixel_size_in_angstroms=PIXEL, dust_in_deviations=5.0, invert=False,
            generator=generator_for(seed, "dust"),
        ).images[0]  # fmt: skip

    assert float(cut(0).abs().max()) < 6
    torch.testing.assert_close(cut(0), cut(0), rtol=0, atol=0)
    changed = (cut(0) - cut(1)).abs() > 0.5
    assert 1 <= int(changed.sum()) <= 2
    with pytest.raises(InputError, match=r"torch\.Generator"):
        extract_particles(field, xy, box_in_pixels=40, pixel_size_in_angstroms=PIXEL, dust_in_deviations=5.0)


def test_sizes_that_cannot_be() -> None:
    field, xy = noise(50, 60), torch.tensor([[30.0, 25.0]])
    for changed, match in (
        ({"box_in_pixels": 51}, "60 x 50"),
        ({"output_box": 40}, "only made smaller"),
        ({"pixel_size_in_angstroms": 0.0}, "positive pixel size"),
        ({"background_diameter_in_angstroms": 500.0}, "larger box or a smaller diameter"),
    ):
        options = {"box_in_pixels": 32, "pixel_size_in_angstroms": PIXEL} | changed
        with pytest.raises(InputError, match=match):
            extract_particles(field, xy, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not finite"):
        extract_particles(field, torch.tensor([[math.nan, 1.0]]), box_in_pixels=32, pixel_size_in_angstroms=PIXEL)


def test_defocus_follows_the_plane() -> None:
    base = torch.tensor([20000.0, 19000.0, 30.0])
    xy = torch.tensor([[99.5, 49.5], [199.0, 49.5], [99.5, 0.0]], dtype=torch.float64)
    local = local_defocus(base, (0.1, -0.2), xy, (100, 200), 2.0)
    torch.testing.assert_close(local[:, 0], 20000 + torch.tensor([0, -0.2 * 199, -0.1 * 99]).double())
    torch.testing.assert_close(local[:, 0] - local[:, 1], torch.full((3,), 1000.0).double())
    assert local[:, 2].tolist() == [30.0, 30.0, 30.0]


def test_masked_share_of_a_disc() -> None:
    labels = torch.zeros(50, 100)
    labels[:, 50:] = LABELS["carbon"]
    labels[10:12, 10:12] = LABELS["defect"]
    xy = torch.tensor([[200.0, 100.0], [100.0, 100.0], [300.0, 100.0], [44.0, 44.0], [0.0, 100.0]])
    share = masked_fraction(labels, xy - 0.5, (200, 400), 60.0)
    assert share.tolist() == pytest.approx([0.5, 0.0, 1.0, 0.0, 0.0], abs=0.01)


# Contrast transfer ------------------------------------------------------------------------------------------------


def table(n: int, **changed: object) -> Particles:
    draw = torch.Generator().manual_seed(5)
    defocus = 15000 + 9000 * torch.rand(n, 3, generator=draw, dtype=torch.float64)
    defocus[:, 2] = 180 * torch.rand(n, generator=draw, dtype=torch.float64)
    ones = torch.ones(n, dtype=torch.float64)
    particles = Particles(
        tuple(f"{i + 1}@a.mrcs" for i in range(n)), None, 1.5 * ones, 300 * ones, 2.7 * ones, 0.1 * ones,
        defocus=defocus, phase_shift_in_degrees=90 * torch.rand(n, generator=draw, dtype=torch.float64),
    )  # fmt: skip
    return replace(particles, **changed)  # type: ignore[arg-type]


def one_by_one(particles: Particles, shape: tuple[int, int]) -> Tensor:
    out = []
    for i in range(len(particles)):
        ky, kx = frequency_grid(shape, float(particles.pixel_size_in_angstroms[i]))
        assert particles.defocus is not None
        u, v, angle = particles.defocus[i].tolist()
        lens = Lens(
            voltage_in_kilovolts=float(particles.voltage_in_kilovolts[i]),
            spherical_aberration_in_millimeters=float(particles.spherical_aberration_in_millimeters[i]),
            amplitude_contrast=float(particles.amplitude_contrast[i]),
        )
        phase = 0.0 if particles.phase_shift_in_degrees is None else float(particles.phase_shift_in_degrees[i])
        one = contrast_transfer(
            ky, kx, lens, defocus_u_in_angstroms=u, defocus_v_in_angstroms=v, defocus_angle_in_degrees=angle,
            phase_shift_in_degrees=phase,
        )  # fmt: skip
        if particles.ctf_scale is not None and particles.ctf_b_factor_in_square_angstroms is not None:
            b = float(particles.ctf_b_factor_in_square_angstroms[i])
            one = one * float(particles.ctf_scale[i]) * torch.exp(-b / 4 * (ky * ky + kx * kx))
        out.append(one)
    return torch.stack(out)


def test_a_batch_of_mixed_optics_equals_each_alone() -> None:
    mixed = table(
        7,
        voltage_in_kilovolts=torch.tensor([300, 200, 300, 300, 200, 300, 300.0]).double(),
        pixel_size_in_angstroms=torch.tensor([1.5, 1.5, 2.0, 1.5, 1.5, 2.0, 1.5]).double(),
        ctf_scale=torch.linspace(0.5, 1.5, 7).double(),
        ctf_b_factor_in_square_angstroms=torch.linspace(-20, 90, 7).double(),
    )
    for particles in (table(5), mixed):
        expected = one_by_one(particles, (32, 30))
        torch.testing.assert_close(particle_transfer(particles, (32, 30)), expected, atol=2e-4, rtol=0)
        torch.testing.assert_close(particle_transfer(particles, (32, 30), [4, 1]), expected[[4, 1]], atol=2e-4, rtol=0)
    undamped = particle_transfer(mixed, (32, 30), damping=False)
    expected = one_by_one(replace(mixed, ctf_scale=None), (32, 30))
    torch.testing.assert_close(undamped, expected, atol=2e-4, rtol=0)


def test_packed_frequencies_and_no_defocus() -> None:
    particles = table(3)
    whole = particle_transfer(particles, (24, 24))
    packed = transfer_at(particles, torch.tensor([[0.0, 3 / 24]]), torch.tensor([[2 / 24, 5 / 24]]))
    torch.testing.assert_close(packed[:, 0], torch.stack([whole[:, 0, 2], whole[:, 3, 5]], 1), atol=1e-5, rtol=0)
    assert tuple(particle_transfer(particles, (24, 24), []).shape) == (0, 24, 13)
    with pytest.raises(InputError, match="gives no defocus"):
        particle_transfer(replace(particles, defocus=None), (24, 24))


# RELION -----------------------------------------------------------------------------------------------------------


@pytest.mark.relion
@pytest.mark.parametrize("side", [48, 24])
def test_relion_cuts_the_same_images(tmp_path: Path, side: int) -> None:
    """Integer coordinates, one particle near the edge: ``relion_preprocess`` with norm, scale and inversion."""
    k = torch.sqrt(sum(part**2 for part in frequency_grid((200, 240), 1.0)))  # type: ignore[arg-type]
    field = 100 + 20 * irfft2(rfft2(noise(200, 240)) * torch.exp(-30 * k), (200, 240))
    field = field + 0.1 * torch.arange(240)
    xy = torch.tensor([[100, 90], [60, 130], [180, 150], [15, 100]], dtype=torch.float64)
    write_mrc(tmp_path / "m.mrc", field, 2.0)
    rows = "".join(f"{x} {y}\n" for x, y in xy.tolist())
    (tmp_path / "m_pick.star").write_text(f"data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n{rows}\n")
    (tmp_path / "m.star").write_text(
        "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnOpticsGroupName #2\n_rlnVoltage #3\n"
        "_rlnSphericalAberration #4\n_rlnAmplitudeContrast #5\n_rlnMicrographPixelSize #6\n1 one 300 2.7 0.1 2.0\n\n"
        "data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\nm.mrc 1\n\n"
    )
    radius = round(0.375 * side)
    command = (
        f"relion_preprocess --i m.star --coord_dir ./ --coord_suffix _pick.star --part_star p.star --part_dir out/ "
        f"--extract --extract_size 48 --norm --bg_radius {radius} --invert_contrast"
    ) + (f" --scale {side}" if side != 48 else "")
    done = subprocess.run(command.split(), capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    theirs = read_particles(tmp_path / "p.star")
    cut = extract_particles(
        field, xy, box_in_pixels=48, pixel_size_in_angstroms=2.0, output_box=side, edge_in_pixels=0,
        background_diameter_in_angstroms=2 * radius * 2.0 * 48 / side,
    )  # fmt: skip
    assert theirs.coordinates_in_pixels is not None
    assert theirs.coordinates_in_pixels.tolist() == cut.centres_in_pixels.tolist()
    images = read_particle_images(theirs)
    assert images.shape == cut.images.shape
    for one, other in zip(images, cut.images, strict=True):
        correlation = float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])
        # They keep the Nyquist frequency of the cropped transform, we do not.
        assert correlation > (0.99999 if side == 48 else 0.99)
        assert float((one - other).abs().max()) < (2e-3 if side == 48 else 0.8)
