"""The data product: closed forms, and what RELION itself does with the columns."""

from __future__ import annotations

import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from conftest import FakeModel, draw
from cryoprism.core import InputError, frequency_grid, rfft2
from cryoprism.microscope.optics import Lens
from cryoprism.restoration import (
    FittedOptics,
    GainResidue,
    artefact_mask,
    data_product,
    find_defects,
    fit_damping,
    frequency_weights,
    relative_to_session,
    relion_columns,
)

OPTICS = FittedOptics(
    lens=Lens(),
    defocus_u_in_angstroms=16000.0,
    defocus_v_in_angstroms=15000.0,
    defocus_angle_in_degrees=30.0,
    figure_of_merit=0.4,
    max_resolution_in_angstroms=4.2,
)


@pytest.mark.parametrize(("b_factor", "transmission"), [(0.0, 1.0), (60.0, 0.8), (150.0, 0.5)])
def test_damping_of_a_gaussian_envelope_is_exact(b_factor: float, transmission: float) -> None:
    model = FakeModel(b_factor=b_factor, transmission=transmission)
    damping = fit_damping(model, OPTICS)
    assert damping.identified
    assert damping.b_factor_in_square_angstroms == pytest.approx(b_factor, abs=0.2)
    assert damping.scale == pytest.approx(math.sqrt(transmission), rel=1e-3)
    assert damping.misfit < 1e-3


def test_no_signal_means_unknown_not_a_number() -> None:
    damping = fit_damping(FakeModel(signal=0.0), OPTICS)
    assert not damping.identified
    assert (damping.scale, damping.b_factor_in_square_angstroms) == (1.0, 0.0)


def test_session_scales_have_geometric_mean_one() -> None:
    dampings = [fit_damping(FakeModel(transmission=t), OPTICS) for t in (0.9, 0.6, 0.4)]
    unknown = fit_damping(FakeModel(signal=0.0), OPTICS)
    relative = relative_to_session([*dampings, unknown])
    assert math.prod(d.scale for d in relative[:3]) == pytest.approx(1.0)
    assert relative[0].scale / relative[2].scale == pytest.approx(dampings[0].scale / dampings[2].scale)
    assert relative[3] == unknown


def test_weights_are_the_signal_to_noise_ratio_without_the_oscillation() -> None:
    model = FakeModel(b_factor=60.0)
    weights = frequency_weights(model, OPTICS)
    k = weights.frequency
    zero = torch.zeros(1)
    expected = torch.exp(-30.0 * k * k) * model.signal_power(zero, k) / model.noise_power(zero, k)
    torch.testing.assert_close(weights.radial_ssnr[20:], expected[20:], rtol=2e-3, atol=1e-6)
    torch.testing.assert_close(weights.directional_ssnr[5, 100:900], expected[100:900], rtol=0.05, atol=1e-4)
    torch.testing.assert_close(weights.radial_weight, weights.radial_ssnr / (1 + weights.radial_ssnr))
    assert float(weights.noise_weight[0, -1] / weights.noise_weight[0, 100]) > 1.0  # less noise, more weight


def test_directional_weights_see_a_directional_envelope() -> None:
    class Drifting(FakeModel):
        def transfer(self, ky: torch.Tensor, kx: torch.Tensor) -> torch.Tensor:
            return super().transfer(ky, kx) * torch.exp(-50.0 * ky * ky)

    weights = frequency_weights(Drifting(), OPTICS)
    along_x, along_y = int(weights.angle_in_degrees.abs().argmin()), int((weights.angle_in_degrees - 90).abs().argmin())
    shell = int((weights.frequency - 0.15).abs().argmin())
    ratio = float(weights.directional_ssnr[along_y, shell] / weights.directional_ssnr[along_x, shell])
    assert ratio == pytest.approx(math.exp(-100.0 * 0.15**2), rel=0.15)


def test_data_product_keeps_pixels_raw(generator: torch.Generator) -> None:
    model = FakeModel()
    _, image = draw(model, (384, 384), 1)
    image = image + 100.0
    image[50, 60] = 900.0
    before = image.clone()
    defects, artefacts = find_defects(image), artefact_mask(image, 1.5)
    product = data_product(image, model, OPTICS, defects=defects, artefacts=artefacts, with_micrograph=True)
    assert torch.equal(image, before)
    assert product.micrograph is not None
    changed = product.micrograph != image
    assert torch.equal(changed, defects.mask)
    assert product.leave_out[50, 60] == 1
    assert product.columns["rlnCtfMaxResolution"] == 4.2
    assert data_product(image, model, OPTICS, defects=defects, artefacts=artefacts).micrograph is None
    pattern = 0.01 * torch.randn(image.shape, generator=generator)
    gain = GainResidue("multiplicative", pattern, {}, {}, 10)
    flat = data_product(image, model, OPTICS, defects=defects, artefacts=artefacts, gain=gain, with_micrograph=True)
    assert flat.micrograph is not None
    good = ~defects.mask
    torch.testing.assert_close(flat.micrograph[good], (image / (1 + pattern))[good])


def test_columns_are_finite() -> None:
    columns = relion_columns(replace(OPTICS, max_resolution_in_angstroms=math.inf), fit_damping(FakeModel(), OPTICS))
    assert columns["rlnCtfMaxResolution"] == 999.0
    with pytest.raises(InputError, match="rlnDefocusU"):
        relion_columns(replace(OPTICS, defocus_u_in_angstroms=math.nan), fit_damping(FakeModel(), OPTICS))


@pytest.mark.relion
def test_relion_multiplies_its_ctf_by_scale_and_b_factor_as_we_write_them(tmp_path: Path) -> None:
    program = shutil.which("relion_project")
    if program is None:
        pytest.skip("relion_project is not on the PATH")
    size, pixel = 128, 1.5
    centre = torch.arange(size) - size // 2
    r2 = centre[:, None, None] ** 2 + centre[None, :, None] ** 2 + centre[None, None, :] ** 2
    with mrcfile.new(tmp_path / "map.mrc") as file:
        file.set_data(torch.exp(-r2 / (2 * 1.2**2)).numpy().astype(np.float32))
        file.voxel_size = pixel
    model = FakeModel(b_factor=80.0, transmission=0.7)
    columns = relion_columns(OPTICS, fit_damping(model, OPTICS))
    names = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst", "rlnOpticsGroup"]
    values = ["0", "0", "0", "0", "0", "1", *(f"{value:.6f}" for value in columns.values())]
    header = "\n".join(f"_{name} #{i + 1}" for i, name in enumerate([*names, *columns]))
    optics = {
        "rlnOpticsGroup": "1",
        "rlnOpticsGroupName": "one",
        "rlnVoltage": "300",
        "rlnSphericalAberration": "2.7",
        "rlnAmplitudeContrast": "0.1",
        "rlnImagePixelSize": str(pixel),
        "rlnImageSize": str(size),
        "rlnImageDimensionality": "2",
    }
    optics_header = "\n".join(f"_{name} #{i + 1}" for i, name in enumerate(optics))
    (tmp_path / "in.star").write_text(
        f"\ndata_optics\n\nloop_\n{optics_header}\n{' '.join(optics.values())}\n\n"
        f"\ndata_particles\n\nloop_\n{header}\n{' '.join(values)}\n\n"
    )

    def project(name: str, *options: str) -> torch.Tensor:
        command = [program, "--i", "map.mrc", "--o", name, "--ang", "in.star", "--pad", "1", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr + done.stdout
        with mrcfile.open(tmp_path / f"{name}.mrcs", permissive=True) as file:
            return rfft2(torch.from_numpy(np.array(file.data, dtype=np.float32)).reshape(size, size))

    plain, filtered = project("plain"), project("ctf", "--ctf")
    ky, kx = frequency_grid((size, size), pixel)
    k = torch.sqrt(ky * ky + kx * kx)
    inside = (k > 0.01) & (k < 0.25)
    ratio = (filtered * plain.conj()).real / plain.abs().square().clamp_min(1e-12)
    expected = model.transfer(ky, kx)
    # RELION inverts the CTF's sign for black particles nowhere: the ratio is the signed transfer itself.
    assert float((ratio - expected)[inside].abs().max()) < 0.02
