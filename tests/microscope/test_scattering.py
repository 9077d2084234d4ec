"""Scattering against closed forms; the sign conventions are proved here."""

import math

import pytest
import torch

from cryoprism.core import (
    InputError,
    electron_wavelength_in_angstroms,
    frequency_grid,
    generator_for,
    interaction_constant,
    random_rotations,
)
from cryoprism.microscope.optics import Lens, contrast_transfer, wave_transfer
from cryoprism.microscope.potential import AtomicModel, potential_from_atoms, project_atoms
from cryoprism.microscope.scattering import (
    backproject_images,
    exit_wave,
    free_space_propagator,
    image_intensity,
    inelastic_amplitude,
    project_volume,
    rotate_volume,
    slices_from_volume,
    wave_frequency_grid,
    weak_phase_intensity,
)

SHAPE, PIXEL = (64, 60), 1.2
LENS = Lens()


def smooth_potential(scale: float, seed: int = 1, batch: tuple[int, ...] = ()) -> torch.Tensor:
    """Random mean-free potential [V Å] that is well inside 2/3 of Nyquist."""
    ky, kx = wave_frequency_grid(SHAPE, PIXEL, dtype=torch.float64)
    white = torch.randn(*batch, *SHAPE, generator=generator_for(seed), dtype=torch.float64)
    keep = torch.exp(-200 * (ky**2 + kx**2)) * ((ky**2 + kx**2) < 0.08) * ((ky**2 + kx**2) > 0)
    v = torch.fft.ifft2(torch.fft.fft2(white) * keep).real
    return scale * v / v.std()


def lens_wave(defocus: float, **more: float) -> torch.Tensor:
    ky, kx = wave_frequency_grid(SHAPE, PIXEL, dtype=torch.float64)
    return wave_transfer(ky, kx, LENS, defocus_u_in_angstroms=defocus, defocus_v_in_angstroms=defocus, **more)


def lens_ctf(defocus: float, **more: float) -> torch.Tensor:
    ky, kx = frequency_grid(SHAPE, PIXEL, dtype=torch.float64)
    return contrast_transfer(ky, kx, LENS, defocus_u_in_angstroms=defocus, defocus_v_in_angstroms=defocus, **more)


def run(slices: list[torch.Tensor], thickness: float = 10.0, **more: object) -> torch.Tensor:
    return exit_wave(
        slices,
        pixel_size_in_angstroms=PIXEL,
        slice_thickness_in_angstroms=thickness,
        voltage_in_kilovolts=300.0,
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("defocus", [-9000.0, 0.0, 12000.0])
@pytest.mark.parametrize("phase_shift", [0.0, 60.0])
@pytest.mark.parametrize("method", ["multislice", "rytov", "born", "projection"])
def test_weak_object_through_the_lens_is_the_linear_image(defocus: float, phase_shift: float, method: str) -> None:
    """The proof of the signs: wave optics equal 1 - 2 F⁻¹[CTF · F(σV)] to first order, for underfocus and overfocus."""
    v = smooth_potential(1.0)
    shift = {"phase_shift_in_degrees": phase_shift}
    errors = []
    for scale in (2.0, 1.0):
        wave = run([scale * v], amplitude_contrast=LENS.amplitude_contrast, method=method)
        exact = image_intensity(wave, lens_wave(defocus, **shift)) - 1
        linear = weak_phase_intensity(scale * v, lens_ctf(defocus, **shift), 300.0) - 1
        errors.append(float((exact - linear).norm() / linear.norm()))
    assert errors[0] < 0.02
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.1)  # the rest is of second order


def test_defocus_refers_to_the_middle_and_grows_with_z() -> None:
    """An object in slice j of an empty slab sees the defocus Δf + z_j."""
    v, thickness = smooth_potential(1.0), 500.0
    for j, z in ((0, -1000.0), (2, 0.0), (4, 1000.0)):
        slices = [torch.zeros_like(v) for _ in range(5)]
        slices[j] = v
        wave = run(slices, thickness, amplitude_contrast=LENS.amplitude_contrast)
        image = image_intensity(wave, lens_wave(3000.0)) - 1
        linear = weak_phase_intensity(v, lens_ctf(3000.0 + z), 300.0) - 1
        wrong = weak_phase_intensity(v, lens_ctf(3000.0 - z), 300.0) - 1
        assert (image - linear).norm() < 0.02 * linear.norm()
        if z:
            assert (image - wrong).norm() > 0.1 * linear.norm()


def test_single_scattering_models_converge_to_multislice() -> None:
    """Relative errors of Rytov and Born fall with the potential; for a thick phase, Rytov is closer."""
    slices = [smooth_potential(1.0, seed) for seed in range(4)]

    def distance(method: str, scale: float) -> float:
        scaled = [scale * s for s in slices]
        truth = run(scaled, 100.0)
        return float((run(scaled, 100.0, method=method) - truth).norm() / (truth - 1).norm())

    for method in ("rytov", "born"):
        assert distance(method, 20.0) == pytest.approx(2 * distance(method, 10.0), rel=0.15)
    assert distance("rytov", 300.0) < 0.5 * distance("born", 300.0)
    # Born alone does not conserve electrons.
    strong = [300.0 * s for s in slices]
    assert float(run(strong, 100.0, method="born").abs().square().mean()) > 1.05
    assert float(run(strong, 100.0).abs().square().mean()) == pytest.approx(1.0, abs=0.01)


def test_gaussian_beam_spreads_as_fresnel_says() -> None:
    """A Gaussian exp(-r²/w²) becomes (1 + iz/z0)⁻¹ exp(-r² / (w² (1 + iz/z0))) with z0 = π w² / λ."""
    side, pixel, waist, z = 128, 1.0, 8.0, 6000.0
    r = (torch.arange(side, dtype=torch.float64) - side // 2) * pixel
    r2 = r[:, None] ** 2 + r**2
    ky, kx = wave_frequency_grid((side, side), pixel, dtype=torch.float64)
    kernel = free_space_propagator(ky, kx, z, 300.0)
    moved = torch.fft.ifft2(torch.fft.fft2(torch.exp(-r2 / waist**2).to(torch.complex128)) * kernel)
    q = 1 + 1j * z / (math.pi * waist**2 / electron_wavelength_in_angstroms(300.0))
    truth = torch.exp(-r2 / (waist**2 * q)) / q
    assert (moved - truth).abs().max() < 1e-6


def test_absorption_of_a_uniform_film() -> None:
    """A constant potential V gives |ψ|² = exp(-2 Q σ V); the phase is σ V √(1-Q²)."""
    wave = run([torch.full(SHAPE, 50.0, dtype=torch.float64)] * 3, amplitude_contrast=0.1)
    total = interaction_constant(300.0) * 150.0
    assert float(wave.abs().square().mean()) == pytest.approx(math.exp(-2 * 0.1 * total))
    assert float(wave.angle().mean()) == pytest.approx(total * math.sqrt(0.99))
    field = torch.tensor([0.0, 3950.0])
    torch.testing.assert_close(inelastic_amplitude(field, 3950.0) ** 2, torch.tensor([1.0, math.exp(-1)]))


def test_slices_stream_and_batch() -> None:
    """Generators, callables and batches give what lists give; batch items do not mix; inputs stay as they were."""
    slices = [smooth_potential(20.0, seed, batch=(2,)) for seed in range(3)]
    before = [s.clone() for s in slices]
    whole = run(slices)
    assert torch.equal(whole, run(lambda: iter(slices)))
    torch.testing.assert_close(whole[1], run([s[1] for s in slices]))
    assert all(torch.equal(a, b) for a, b in zip(slices, before, strict=True))
    incident = torch.ones(SHAPE, dtype=torch.complex128)
    torch.testing.assert_close(run([s[0] for s in slices], incident=incident), whole[0], atol=1e-9, rtol=0)


def test_gradients_of_multislice() -> None:
    """Autograd against a finite difference through potential, propagation and lens."""
    v = smooth_potential(5.0).requires_grad_()
    weights = smooth_potential(1.0, 7)

    def loss(u: torch.Tensor) -> torch.Tensor:
        return (image_intensity(run([u, 0.5 * u], 50.0, amplitude_contrast=0.07), lens_wave(8000.0)) * weights).sum()

    (gradient,) = torch.autograd.grad(loss(v), v)
    direction, step = smooth_potential(1.0, 9), 1e-4
    with torch.no_grad():
        slope = (loss(v + step * direction) - loss(v - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-6)


@pytest.mark.parametrize("side", [32, 33])
def test_volume_projections(side: int) -> None:
    """Fourier slices equal the projection of the rotated atoms themselves; unrotated they are the plain sum."""
    g = generator_for(4)
    model = AtomicModel((torch.rand(25, 3, generator=g) - 0.5) * 16, torch.full((25,), 6), 150.0)
    volume = potential_from_atoms(model, 1.5, shape=(side,) * 3, center=False)
    turns = torch.cat([torch.eye(3)[None], random_rotations(3, g).float()])
    views = project_volume(volume, turns, 1.5)
    atoms = project_atoms(model, turns, 1.5, shape=(side, side), center=False)
    assert (views - atoms).norm() < 0.03 * atoms.norm()
    real = rotate_volume(volume, turns).sum(1) * 1.5
    assert (real - atoms).norm() < 0.1 * atoms.norm()
    torch.testing.assert_close(real[0], sum(slices_from_volume(volume, 1.5)))


def test_backprojection_is_the_adjoint() -> None:
    """⟨P v, i⟩ = ⟨v, Pᵀ i⟩."""
    g = generator_for(5)
    turns = random_rotations(3, g).double()
    v = torch.randn(16, 16, 16, generator=g, dtype=torch.float64)
    i = torch.randn(3, 16, 16, generator=g, dtype=torch.float64)
    left = (project_volume(v, turns, 1.3) * i).sum()
    right = (v * backproject_images(i, turns, 1.3)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-9)


def test_wrong_input_is_named() -> None:
    """Each error says what to change."""
    v = smooth_potential(1.0)
    with pytest.raises(InputError, match="at least one slice"):
        run([])
    with pytest.raises(InputError, match="Use multislice"):
        run([v], method="magic")
    with pytest.raises(InputError, match="amplitude_contrast"):
        run([v], amplitude_contrast=1.5)
    with pytest.raises(InputError, match="bandwidth_limit"):
        run([v], bandwidth_limit=2.0)
    with pytest.raises(InputError, match="cube"):
        project_volume(torch.zeros(4, 5, 5), torch.eye(3), 1.0)
