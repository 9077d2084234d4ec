"""The lens against closed forms, a numpy re-derivation, and RELION's own programs."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import torch

from cryoprism.core import electron_wavelength_in_angstroms, frequency_grid
from cryoprism.microscope.optics import (
    Lens,
    aberration_phase,
    contrast_transfer,
    defocus_along,
    directional_spatial_coherence_envelope,
    odd_aberration_phase,
    spatial_coherence_envelope,
    temporal_coherence_envelope,
    tetrafoil_phase,
    thickness_averaged_ctf_squared,
    wave_transfer,
)

DOUBLE = torch.float64


def grid(n: int = 32, pixel: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    return frequency_grid((n, n), pixel, dtype=DOUBLE)


def full_grid(n: int, pixel: float) -> tuple[torch.Tensor, torch.Tensor]:
    k = torch.fft.fftfreq(n, d=pixel, dtype=DOUBLE)
    return k[:, None], k[None, :]


def aberrations(u: float, v: float | None = None, angle: float = 0.0, shift: float = 0.0) -> dict[str, float]:
    return {
        "defocus_u_in_angstroms": u,
        "defocus_v_in_angstroms": u if v is None else v,
        "defocus_angle_in_degrees": angle,
        "phase_shift_in_degrees": shift,
    }


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize("voltage", [100.0, 200.0, 300.0])
def test_first_zeros_lie_where_the_quadratic_equation_puts_them(voltage: float):
    """-λ Δf k² + ½ Cs λ³ k⁴ = -n + asin(Q)/π, solved in numpy for the first zeros."""
    defocus, cs, q = 12000.0, 2.0, 0.07
    wavelength = electron_wavelength_in_angstroms(voltage)
    n = np.arange(1, 6) - math.asin(q) / math.pi
    a, b = 0.5 * cs * 1e7 * wavelength**3, -wavelength * defocus
    k = np.sqrt((-b - np.sqrt(b * b - 4 * a * n)) / (2 * a))
    lens = Lens(voltage_in_kilovolts=voltage, spherical_aberration_in_millimeters=cs, amplitude_contrast=q)
    ctf = contrast_transfer(torch.zeros(1, 5, dtype=DOUBLE), torch.from_numpy(k)[None], lens, **aberrations(defocus))
    assert float(ctf.abs().max()) < 1e-8


def test_contrast_at_zero_frequency_is_the_amplitude_contrast():
    zero = torch.zeros(1, 1, dtype=DOUBLE)
    for q in (0.0, 0.07, 1.0):
        assert float(contrast_transfer(zero, zero, Lens(amplitude_contrast=q), **aberrations(9000.0))) == pytest.approx(
            q
        )


def test_phase_agrees_with_numpy_in_polar_coordinates():
    ky, kx = grid()
    u, v, angle, shift = 16000.0, 13500.0, 37.0, 25.0
    got = aberration_phase(ky, kx, Lens(), **aberrations(u, v, angle, shift)).numpy()
    y, x = np.broadcast_arrays(ky.numpy(), kx.numpy())
    k, phi = np.hypot(y, x), np.arctan2(y, x)
    defocus = 0.5 * (u + v) + 0.5 * (u - v) * np.cos(2 * (phi - math.radians(angle)))
    wavelength = 12.2642598 / math.sqrt(3e5 * (1 + 9.78475598e-7 * 3e5))
    want = -math.pi * wavelength * defocus * k**2 + 0.5 * math.pi * 2.7e7 * wavelength**3 * k**4 - math.radians(shift)
    assert np.abs(got - want).max() < 1e-3


def test_swapping_the_axes_of_astigmatism_equals_a_quarter_turn():
    ky, kx = grid()
    one = contrast_transfer(ky, kx, Lens(), **aberrations(14000.0, 17000.0, 20.0))
    other = contrast_transfer(ky, kx, Lens(), **aberrations(17000.0, 14000.0, 110.0))
    torch.testing.assert_close(one, other)
    assert bool(torch.isfinite(one).all())


def test_defocus_u_belongs_to_the_direction_of_the_angle():
    k = torch.tensor([[0.1]], dtype=DOUBLE)
    zero = torch.zeros(1, 1, dtype=DOUBLE)
    assert float(defocus_along(zero, k, 2.0e4, 1.0e4, 0.0)) == pytest.approx(200.0)
    assert float(defocus_along(k, zero, 2.0e4, 1.0e4, 0.0)) == pytest.approx(100.0)
    assert float(defocus_along(k, zero, 2.0e4, 1.0e4, 90.0)) == pytest.approx(200.0)
    assert float(defocus_along(k, k, 2.0e4, 1.0e4, 45.0)) == pytest.approx(400.0)  # towards +y


def test_batched_parameters_give_one_ctf_each():
    ky, kx = grid(16)
    u = torch.tensor([1.0e4, 2.0e4])
    both = contrast_transfer(ky, kx, Lens(), defocus_u_in_angstroms=u, defocus_v_in_angstroms=u)
    assert both.shape == (2, 16, 9)
    torch.testing.assert_close(both[1], contrast_transfer(ky, kx, Lens(), **aberrations(2.0e4)))


def test_ctf_gradients():
    ky, kx = grid(8, 4.0)
    p = [torch.tensor(x, dtype=DOUBLE, requires_grad=True) for x in (9000.0, 8500.0, 12.0, 5.0)]

    def function(*values: torch.Tensor) -> torch.Tensor:
        return contrast_transfer(ky, kx, Lens(), **dict(zip(aberrations(0), values, strict=True)))

    assert torch.autograd.gradcheck(function, p, eps=1e-3, atol=1e-6)


# ---------------------------------------------------------------- envelopes, waves, thickness


def test_directional_coherence_envelope_contains_the_isotropic_one():
    ky, kx = grid()
    k = torch.sqrt(ky**2 + kx**2)
    alpha = 0.1
    got = directional_spatial_coherence_envelope(
        ky, kx, Lens(), semi_angle_in_milliradians=alpha, defocus_u_in_angstroms=1e4, defocus_v_in_angstroms=1e4
    )
    want = spatial_coherence_envelope(k, Lens(), semi_angle_in_milliradians=alpha, defocus_in_angstroms=1e4)
    torch.testing.assert_close(got, want)
    assert float(got.min()) < 0.999


def test_spatial_coherence_is_the_mean_over_tilted_illumination():
    """A Gaussian source of angles averages exp(-i∇χ·θ/λ...): compare the closed form with that average."""
    ky, kx = grid(16, 1.5)
    ky, kx = ky.clone().requires_grad_(True).expand(16, 9), kx.clone().expand(16, 9)
    kx = kx.clone().requires_grad_(True)
    ky = ky.detach().clone().requires_grad_(True)
    p = aberrations(15000.0, 11000.0, 30.0)
    chi = aberration_phase(ky, kx, Lens(), **p)
    gy, gx = torch.autograd.grad(chi.sum(), [ky, kx])
    alpha = 0.15e-3  # the 1/e half width of the source
    nodes, weights = np.polynomial.hermite.hermgauss(60)
    tilt = torch.from_numpy(nodes) * alpha / Lens().wavelength_in_angstroms
    w = torch.from_numpy(weights / math.sqrt(math.pi))
    mean_y = (w * torch.cos(gy[..., None] * tilt)).sum(-1)
    mean_x = (w * torch.cos(gx[..., None] * tilt)).sum(-1)
    del p["phase_shift_in_degrees"]
    got = directional_spatial_coherence_envelope(ky.detach(), kx.detach(), Lens(), semi_angle_in_milliradians=0.15, **p)
    torch.testing.assert_close(got, mean_y * mean_x, atol=1e-6, rtol=0)


def test_temporal_coherence_is_the_mean_over_a_focal_spread():
    k = torch.linspace(0, 0.45, 50, dtype=DOUBLE)
    nodes, weights = np.polynomial.hermite.hermgauss(60)
    focus = torch.from_numpy(nodes) * math.sqrt(2) * 80.0
    phase = math.pi * Lens().wavelength_in_angstroms * k[:, None] ** 2 * focus
    want = (torch.from_numpy(weights / math.sqrt(math.pi)) * torch.cos(phase)).sum(-1)
    got = temporal_coherence_envelope(k, Lens(), focal_spread_in_angstroms=80.0)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


def test_a_weak_phase_object_seen_through_the_wave_transfer_shows_the_ctf():
    """|F⁻¹[T F(1 + iφ)]|² = 1 - 2 F⁻¹[CTF exp(-iχ_odd) F φ] to first order, tilt, trefoil, and phase plate included."""
    n, pixel = 32, 1.5
    ky, kx = full_grid(n, pixel)
    lens = Lens(amplitude_contrast=0.0)
    p = aberrations(9000.0, 8000.0, 25.0, 30.0)
    odd = {"beam_tilt_x_in_milliradians": 0.8, "beam_tilt_y_in_milliradians": -0.4, "trefoil_x": 3.0, "trefoil_y": 5.0}
    transfer = wave_transfer(ky, kx, lens, **p, **odd)
    generator = torch.Generator().manual_seed(1)
    phi = 1e-6 * torch.randn(n, n, generator=generator, dtype=DOUBLE)
    spectrum = torch.fft.fft2(phi)
    spectrum[n // 2] = 0  # Nyquist has no partner of opposite frequency
    spectrum[:, n // 2] = 0
    spectrum[0, 0] = 0
    phi = torch.fft.ifft2(spectrum).real
    image = torch.fft.ifft2(transfer * torch.fft.fft2(1 + 1j * phi)).abs() ** 2
    ctf = contrast_transfer(ky, kx, lens, **p)
    linear = 1 - 2 * torch.fft.ifft2(ctf * torch.exp(-1j * odd_aberration_phase(ky, kx, lens, **odd)) * spectrum).real
    torch.testing.assert_close(image - 1, linear - 1, atol=1e-9, rtol=0)
    assert float((linear - 1).abs().max()) > 1e-7


def test_odd_phase_is_odd_and_even_phases_are_even():
    ky, kx = grid()
    odd = {"beam_tilt_x_in_milliradians": 1.0, "trefoil_x": 2.0, "trefoil_y": -3.0}
    one, other = (odd_aberration_phase(s * ky, s * kx, Lens(), **odd) for s in (1, -1))
    torch.testing.assert_close(one, -other)
    torch.testing.assert_close(tetrafoil_phase(ky, kx, 3.0, 4.0), tetrafoil_phase(-ky, -kx, 3.0, 4.0))


@pytest.mark.parametrize("thickness", [0.0, 300.0, 2000.0])
def test_thickness_average_is_the_mean_of_ctf_squared_over_depth(thickness: float):
    ky, kx = grid(24, 1.2)
    z = ((torch.arange(4000, dtype=DOUBLE) + 0.5) / 4000 - 0.5) * thickness
    p = aberrations(12000.0, 11000.0, 15.0, 10.0)
    total = torch.zeros(24, 13, dtype=DOUBLE)
    for part in z.split(200):
        shifted = {**p, "defocus_u_in_angstroms": 12000.0 + part, "defocus_v_in_angstroms": 11000.0 + part}
        total += contrast_transfer(ky, kx, Lens(), **shifted).square().sum(0)
    got = thickness_averaged_ctf_squared(ky, kx, Lens(), thickness_in_angstroms=thickness, **p)
    torch.testing.assert_close(got, total / 4000, atol=1e-5, rtol=0)


def test_defocus_deviation_is_a_gaussian_average():
    ky, kx = grid(24, 1.2)
    nodes, weights = np.polynomial.hermite.hermgauss(80)
    total = torch.zeros(24, 13, dtype=DOUBLE)
    for x, w in zip(nodes, weights / math.sqrt(math.pi), strict=True):
        total += w * contrast_transfer(ky, kx, Lens(), **aberrations(12000.0 + math.sqrt(2) * 200.0 * x)).square()
    got = thickness_averaged_ctf_squared(
        ky, kx, Lens(), thickness_in_angstroms=0.0, defocus_deviation_in_angstroms=200.0, **aberrations(12000.0)
    )
    torch.testing.assert_close(got, total, atol=1e-6, rtol=0)


# ---------------------------------------------------------------- RELION 3.1


def relion(program: str, *arguments: object, folder: Path) -> None:
    result = subprocess.run([program, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


needs_relion = [
    pytest.mark.relion,
    pytest.mark.skipif(shutil.which("relion_project") is None, reason="RELION is not on the PATH"),
]


class LensWithRelionsWavelength(Lens):
    @property
    def wavelength_in_angstroms(self) -> float:
        volts = self.voltage_in_kilovolts * 1e3
        return 12.2643247 / math.sqrt(volts * (1 + volts * 0.978466e-6))


class TestAgainstRelion:
    pytestmark = needs_relion

    CASES = (
        {},
        {"defV": 14000.0, "defAng": 30.0},
        {"defV": 21000.0, "defAng": -65.0},
        {"defV": 15000.0, "defAng": 120.0, "phase_shift": 60.0},
        {"kV": 200.0, "Cs": 2.0, "Q0": 0.07, "defV": 16500.0, "defAng": 10.0},
    )

    @pytest.mark.parametrize("case", CASES)
    def test_simulated_ctf_image(self, tmp_path: Path, case: dict[str, float]):
        n, pixel = 96, 2.2
        p = {
            "defU": 18000.0,
            "defV": 18000.0,
            "defAng": 0.0,
            "phase_shift": 0.0,
            "kV": 300.0,
            "Cs": 2.7,
            "Q0": 0.1,
            **case,
        }
        flags = [text for name, value in p.items() for text in (f"--{name}", value)]
        relion("relion_ctf_toolbox", "--simulate", "ctf.mrc", "--box", n, "--angpix", pixel, *flags, folder=tmp_path)
        theirs = np.squeeze(mrcfile.read(tmp_path / "ctf.mrc"))
        k = torch.fft.fftshift(torch.fft.fftfreq(n, d=pixel, dtype=DOUBLE))
        errors = {}
        for kind in (Lens, LensWithRelionsWavelength):
            lens = kind(
                voltage_in_kilovolts=p["kV"], spherical_aberration_in_millimeters=p["Cs"], amplitude_contrast=p["Q0"]
            )
            ours = contrast_transfer(
                k[:, None], k[None], lens, **aberrations(p["defU"], p["defV"], p["defAng"], p["phase_shift"])
            ).numpy()
            errors[kind] = np.abs(ours - theirs).max()
        assert errors[Lens] < 1e-3
        assert errors[LensWithRelionsWavelength] < 3e-5  # the rest is the sixth digit of its constants
        assert np.abs(theirs).std() > 0.2

    @staticmethod
    def star(folder: Path, n: int, pixel: float, particle: dict[str, float], **optics: object) -> None:
        group = {
            "rlnOpticsGroup": 1,
            "rlnOpticsGroupName": "a",
            "rlnVoltage": 300.0,
            "rlnSphericalAberration": 2.7,
            "rlnAmplitudeContrast": 0.1,
            "rlnImagePixelSize": pixel,
            "rlnImageSize": n,
            "rlnImageDimensionality": 2,
            **optics,
        }
        row = {
            "rlnImageName": "1@images.mrcs",
            "rlnOpticsGroup": 1,
            "rlnAngleRot": 0.0,
            "rlnAngleTilt": 0.0,
            "rlnAnglePsi": 0.0,
            "rlnOriginXAngst": 0.0,
            "rlnOriginYAngst": 0.0,
            **particle,
        }
        starfile.write({"optics": pd.DataFrame([group]), "particles": pd.DataFrame([row])}, folder / "in.star")

    def project(self, folder: Path, *flags: str, **optics: object) -> np.ndarray:
        n, pixel = 32, 1.5
        volume = np.zeros((n, n, n), np.float32)
        volume[n // 2, n // 2, n // 2], volume[n // 2 + 1, n // 2, n // 2 + 2] = 1, 0.7
        with mrcfile.new(folder / "map.mrc", overwrite=True) as file:
            file.set_data(volume)
            file.voxel_size = pixel
        particle = {
            "rlnDefocusU": 15000.0,
            "rlnDefocusV": 13000.0,
            "rlnDefocusAngle": 35.0,
            "rlnPhaseShift": 20.0,
        }
        self.star(folder, n, pixel, particle, **optics)
        relion(
            "relion_project",
            "--i",
            "map.mrc",
            "--ang",
            "in.star",
            "--o",
            "out",
            "--angpix",
            pixel,
            *flags,
            folder=folder,
        )
        return np.fft.rfft2(np.squeeze(mrcfile.read(folder / "out.mrcs")))

    @pytest.mark.parametrize("tetrafoil", [(0.0, 0.0), (60.0, 0.0), (0.0, 60.0)])
    def test_ctf_of_a_projection_with_tetrafoil(self, tmp_path: Path, tetrafoil: tuple[float, float]):
        coefficients = [0.0] * 9
        coefficients[8], coefficients[4] = tetrafoil
        text = "[" + ",".join(map(str, coefficients)) + "]"
        plain = self.project(tmp_path)
        theirs = self.project(tmp_path, "--ctf", rlnEvenZernike=text)
        ky, kx = grid(32, 1.5)
        chi = aberration_phase(ky, kx, Lens(), **aberrations(15000.0, 13000.0, 35.0, 20.0))
        chi = chi + tetrafoil_phase(ky, kx, *tetrafoil)
        ours = -torch.sin(chi - math.asin(0.1)).numpy()
        seen = (np.abs(plain) > 0.2) & (np.hypot(ky.numpy(), kx.numpy()) < 0.45 / 1.5)
        assert seen.sum() > 200
        assert np.abs(theirs / np.where(seen, plain, 1) - ours)[seen].max() < 1e-3

    @pytest.mark.parametrize(
        ("optics", "ours"),
        [
            ({"rlnBeamTiltX": 2.0, "rlnBeamTiltY": 0.0}, {"beam_tilt_x_in_milliradians": 2.0}),
            ({"rlnBeamTiltX": 0.0, "rlnBeamTiltY": -2.0}, {"beam_tilt_y_in_milliradians": -2.0}),
            ({"rlnOddZernike": "[0,0,0,0,0,120]"}, {"trefoil_x": 120.0}),
            ({"rlnOddZernike": "[0,0,120,0,0,0]"}, {"trefoil_y": 120.0}),
        ],
    )
    def test_reconstruction_undoes_our_odd_aberrations(
        self, tmp_path: Path, optics: dict[str, object], ours: dict[str, float]
    ):
        """A point blurred by our odd phases comes back as a point; with the opposite sign it does not."""
        n, pixel = 32, 3.0
        ky, kx = grid(n, pixel)
        phase = odd_aberration_phase(ky, kx, Lens(), **ours)
        sharpness = {}
        for sign in (1, 0, -1):
            spectrum = torch.exp(-1j * sign * phase) * (torch.sqrt(ky**2 + kx**2) < 0.45 / pixel)
            image = torch.fft.irfft2(spectrum, s=(n, n)).roll((n // 2, n // 2), (0, 1))
            with mrcfile.new(tmp_path / "images.mrcs", overwrite=True) as file:
                file.set_data(image[None].float().numpy())
                file.set_image_stack()
                file.voxel_size = pixel
            particle = {"rlnDefocusU": 10.0, "rlnDefocusV": 10.0, "rlnDefocusAngle": 0.0, "rlnPhaseShift": 90.0}
            self.star(tmp_path, n, pixel, particle, rlnAmplitudeContrast=0.0, **optics)
            flags = ("--refdim", 2, "--skip_gridding", "--pad", 1, "--ctf")
            relion("relion_reconstruct", "--i", "in.star", "--o", "out.mrc", *flags, folder=tmp_path)
            out = np.squeeze(mrcfile.read(tmp_path / "out.mrc")).astype(float)
            odd = out[1:, 1:] - out[:0:-1, :0:-1]
            sharpness[sign] = np.linalg.norm(odd) / np.linalg.norm(out)
        assert sharpness[1] < 0.02 < 5 * sharpness[1] + 0.1 < sharpness[0] < sharpness[-1]
