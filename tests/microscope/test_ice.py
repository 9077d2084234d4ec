"""Ice: one power spectrum for noise and likelihood, water motion, thickness, loss, and crystals."""

import math

import pytest
import torch

from cryoprism.core import InputError, frequency_magnitude, generator_for, half_plane_weights, radial_average, rfft2
from cryoprism.microscope.crystalline import (
    CUBIC_SPACINGS_IN_ANGSTROMS,
    HEXAGONAL_SPACINGS_IN_ANGSTROMS,
    crystalline_ice,
    crystalline_ring_power,
)
from cryoprism.microscope.ice import (
    amorphous_structure_factor,
    coloured_noise,
    ice_frames,
    ice_motion_attenuation,
    ice_slices,
    ice_structure_power,
    inelastic_mean_free_path_in_angstroms,
    inelastic_transmission,
    molecules_per_cubic_angstrom,
    thickness_field,
    thickness_from_transmission,
    vitreous_ice,
)
from cryoprism.microscope.potential import (
    POTENTIAL_PER_SCATTERING_FACTOR,
    VITREOUS_ICE_POTENTIAL_IN_VOLTS,
    scattering_factor,
)


def grid_integral(power: torch.Tensor, shape: tuple[int, int], pixel: float) -> float:
    """∫ P d²k over the half grid."""
    return float((power * half_plane_weights(shape[1])).sum() / (shape[0] * shape[1] * pixel**2))


@pytest.mark.parametrize("shape", [(192, 200), (191, 201)])
def test_noise_has_the_power_of_the_likelihood(shape: tuple[int, int]) -> None:
    """Parseval (variance = ∫ P d²k) and every shell of the periodogram, at even and odd sizes."""
    pixel = 1.3
    images = vitreous_ice(shape, pixel, 400.0, generator=generator_for(1), batch=(4,))
    k = frequency_magnitude(shape, pixel)
    power = ice_structure_power(k, 400.0)
    assert float(images.var()) == pytest.approx(grid_integral(power, shape, pixel), rel=0.02)
    periodogram = rfft2(images).abs().square().mean(0) * pixel**4 / (shape[0] * shape[1] * pixel**2)
    edges = torch.linspace(0.04, 0.38, 12)
    weights = half_plane_weights(shape[1]).expand_as(k)
    found, count = radial_average(periodogram, k, edges, weights)
    truth, _ = radial_average(power, k, edges, weights)
    # A shell of n independent exponential values has the relative error 1 / sqrt(n); four images, half of the plane.
    assert ((found / truth - 1).abs() < 5 / torch.sqrt(2 * count)).all()


def test_power_is_that_of_independent_molecules_where_the_structure_is_flat() -> None:
    """At high k: C² n t (f_O² + 2 f_H² + interference); at k = 0 the compressibility limit times (f_O + 2 f_H)²."""
    zero = torch.zeros(1)
    molecule = float(scattering_factor(zero, 8) + 2 * scattering_factor(zero, 1))
    per_thickness = POTENTIAL_PER_SCATTERING_FACTOR**2 * molecules_per_cubic_angstrom()
    assert float(ice_structure_power(zero, 1.0)) == pytest.approx(per_thickness * 0.06 * molecule**2, rel=1e-3)
    high = torch.tensor([3.0])
    lone = float(scattering_factor(high, 8) ** 2 + 2 * scattering_factor(high, 1) ** 2)
    assert float(ice_structure_power(high, 1.0)) == pytest.approx(per_thickness * lone, rel=0.1)
    assert molecules_per_cubic_angstrom() == pytest.approx(0.03142, rel=1e-3)


def test_diffuse_ring_stands_near_3_7_angstroms() -> None:
    """The highest power beyond 10 Å; S tends to one."""
    k = torch.linspace(0.1, 1.5, 5000)
    assert 1 / float(k[ice_structure_power(k, 1.0).argmax()]) == pytest.approx(3.7, abs=0.08)
    assert float(amorphous_structure_factor(k)[-1]) == pytest.approx(1.0, abs=1e-3)


def test_motion_attenuation_is_the_double_average_of_the_correlation() -> None:
    """A = mean of exp(-b |N' - N''| k² / 4) over a square, by brute force; 1 without exposure."""
    k = torch.tensor([0.0, 0.05, 0.1, 0.27, 0.5])
    dose = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000 * 30
    lag = (dose[:, None] - dose).abs()
    for frequency, found in zip(k.tolist(), ice_motion_attenuation(k, 30.0).tolist(), strict=True):
        assert found == pytest.approx(float(torch.exp(-34 * lag * frequency**2 / 4).mean()), rel=1e-3)
    assert torch.equal(ice_motion_attenuation(k, 0.0), torch.ones(5))
    near = ice_motion_attenuation(k.double(), torch.tensor([0.0199, 0.0201]))  # both branches meet
    assert near.shape == (2, 1, 5)
    x = torch.tensor([0.0499999, 0.0500001], dtype=torch.float64)
    a, b = ice_motion_attenuation(torch.sqrt(4 * x / 34), 1.0)
    assert float(a) == pytest.approx(float(b), rel=1e-6)


def test_frames_move_as_the_summed_image_says() -> None:
    """The mean of n frames has the attenuation of the total exposure; neighbours correlate, distant frames less."""
    shape, pixel, frames, dose = (160, 160), 1.0, 8, 1.5
    movie = torch.stack(
        list(
            ice_frames(
                shape,
                pixel,
                300.0,
                frames=frames,
                exposure_per_frame_in_electrons_per_square_angstrom=dose,
                generator=generator_for(2),
            )
        )
    )
    k = frequency_magnitude(shape, pixel)
    edges = torch.tensor([0.06, 0.12, 0.18, 0.25, 0.32, 0.40])
    for images, exposure in ((movie.mean(0), frames * dose), (movie[3], dose)):
        found, count = radial_average(rfft2(images).abs().square() / (160 * 160), k, edges)
        power = ice_structure_power(k, 300.0, exposure_in_electrons_per_square_angstrom=exposure)
        truth, _ = radial_average(power, k, edges)
        assert ((found / truth - 1).abs() < 5 / torch.sqrt(count)).all()

    def correlation(i: int, j: int) -> float:
        return float((movie[i] * movie[j]).mean() / movie.square().mean())

    assert correlation(0, 1) > correlation(0, 3) + 0.05 > correlation(0, 7) + 0.05


def test_slices_add_up_and_seeds_decide() -> None:
    """Variances of independent slices add to the layer's; the seed decides; no ice, nothing."""
    shape = (128, 128)
    slices = list(ice_slices(shape, 1.0, 300.0, 20.0, generator=generator_for(3)))
    assert len(slices) == 15
    layer = grid_integral(ice_structure_power(frequency_magnitude(shape, 1.0), 300.0), shape, 1.0)
    assert float(sum(slices).var()) == pytest.approx(layer, rel=0.05)
    a, b, c = (vitreous_ice(shape, 1.0, 300.0, generator=generator_for(s)) for s in (4, 4, 5))
    assert torch.equal(a, b)
    assert abs(float((a * c).mean() / a.var())) < 0.05
    assert float(vitreous_ice(shape, 1.0, 0.0, generator=generator_for(4)).abs().max()) == 0
    particles = torch.zeros(shape)
    particles[:64] = 1.0
    hollow = vitreous_ice(shape, 1.0, 300.0, generator=generator_for(4), excluded_fraction=particles)
    assert float(hollow[:64].abs().max()) == 0
    assert torch.equal(hollow[64:], a[64:])
    whole = vitreous_ice(shape, 1.0, 300.0, generator=generator_for(4), include_mean=True)
    torch.testing.assert_close(whole - a, torch.full(shape, 300 * VITREOUS_ICE_POTENTIAL_IN_VOLTS), atol=1e-2, rtol=0)


def test_thickness_and_loss() -> None:
    """Wedge, meniscus, direction and the round trip through the transmission."""
    field = thickness_field(
        (41, 60), 10.0, 300.0, gradient_in_angstroms_per_micrometer=500.0, direction_in_degrees=90.0
    )
    assert float(field[20, 30]) == 300.0
    assert float(field[30, 30] - field[20, 30]) == pytest.approx(100 * 500e-4)  # grows along +y
    assert float((field[20] - 300).abs().max()) < 1e-3
    bowl = thickness_field((41, 60), 10.0, 300.0, meniscus_in_angstroms=50.0, meniscus_radius_in_angstroms=100.0)
    assert float(bowl[20, 40]) == pytest.approx(350.0)
    thin = thickness_field((41, 60), 1000.0, 10.0, gradient_in_angstroms_per_micrometer=500.0)
    assert float(thin.min()) == 0.0
    batch = thickness_field((8, 8), 1.0, torch.tensor([100.0, 200.0]))
    assert batch.shape == (2, 8, 8)
    path = inelastic_mean_free_path_in_angstroms(300.0)
    assert path == pytest.approx(3950.0)
    assert inelastic_mean_free_path_in_angstroms(200.0) == pytest.approx(3950 * 0.4835 / 0.6030, rel=1e-3)
    passed = inelastic_transmission(field, path)
    torch.testing.assert_close(thickness_from_transmission(passed, path), field, rtol=1e-4, atol=1e-2)
    assert float(inelastic_transmission(torch.zeros(1), path)) == 1.0


def test_power_has_gradients() -> None:
    """dP/dt = P/t, and the attenuation falls with exposure."""
    k = torch.tensor([[0.1, 0.3]])
    t = torch.tensor(300.0, requires_grad=True)
    n = torch.tensor(20.0, requires_grad=True)
    power = ice_structure_power(k, t, exposure_in_electrons_per_square_angstrom=n).sum()
    dt, dn = torch.autograd.grad(power, (t, n))
    assert float(dt) == pytest.approx(float(power.detach()) / 300, rel=1e-5)
    assert float(dn) < 0
    zero = torch.tensor(0.0, requires_grad=True)
    image = vitreous_ice((8, 8), 1.0, zero, generator=generator_for(1))
    (slope,) = torch.autograd.grad(image.sum(), zero)
    assert math.isfinite(float(slope))


def test_rings_have_radii_and_variance() -> None:
    """Hexagonal rings at 3.90, 3.67, 3.44 Å and cubic at 3.66 Å; ∫ P d²k is the variance that was asked for."""
    k = torch.linspace(0, 0.6, 60001)
    power = crystalline_ring_power(k, hexagonal_variance=100.0, ring_width_in_inverse_angstroms=0.002)
    peaks = k[1:-1][(power[1:-1] > power[:-2]) & (power[1:-1] > power[2:]) & (power[1:-1] > 1)]
    torch.testing.assert_close((1 / peaks).flip(0), torch.tensor([3.44, 3.67, 3.90]), atol=0.003, rtol=0)
    assert HEXAGONAL_SPACINGS_IN_ANGSTROMS == (3.90, 3.67, 3.44)
    assert float(torch.trapezoid(2 * math.pi * k * power, k)) == pytest.approx(100.0, rel=1e-3)
    cubic = crystalline_ring_power(k, cubic_variance=7.0)
    assert 1 / float(k[cubic.argmax()]) == pytest.approx(CUBIC_SPACINGS_IN_ANGSTROMS[0], abs=0.002)
    assert float(crystalline_ring_power(k).abs().max()) == 0
    image = coloured_noise(crystalline_ring_power(frequency_magnitude((256, 256), 1.0), hexagonal_variance=100.0),
                           (256, 256), 1.0, generator_for(1))  # fmt: skip
    assert float(image.var()) == pytest.approx(100.0, rel=0.1)


@pytest.mark.parametrize("powder", [0.0, 1.0])
@pytest.mark.parametrize("lattice", ["hexagonal", "cubic"])
def test_crystals_diffract_at_lattice_spacings(lattice: str, powder: float) -> None:
    """Nearly all the power of a patch stands within 3 % of a lattice spacing; the mask covers it; seeds decide."""
    shape = (256, 256)

    def make(seed: int, thickness: float = 50.0) -> tuple[torch.Tensor, torch.Tensor]:
        return crystalline_ice(
            shape, 1.0, thickness, generator=generator_for(seed), lattice=lattice,  # type: ignore[arg-type]
            patch_radius_in_angstroms=90.0, polycrystalline_fraction=powder,
        )  # fmt: skip

    potential, mask = make(1)
    k = frequency_magnitude(shape, 1.0)
    weights = rfft2(potential).abs().square() * half_plane_weights(256)
    spacings = HEXAGONAL_SPACINGS_IN_ANGSTROMS if lattice == "hexagonal" else CUBIC_SPACINGS_IN_ANGSTROMS
    near = torch.stack([(k * d - 1).abs() < 0.06 for d in spacings]).any(0)
    assert float(weights[near].sum() / weights.sum()) > 0.85
    assert float(potential[mask < 1e-3].abs().max()) < 0.01 * float(potential.abs().max())
    assert torch.equal(make(1)[0], potential)
    assert not torch.equal(make(2)[0], potential)
    assert float(make(1, 0.0)[0].abs().max()) == 0


def test_wrong_input_is_named() -> None:
    """Each error says what to change."""
    g = generator_for(1)
    with pytest.raises(InputError, match="negative"):
        vitreous_ice((8, 8), 1.0, -5.0, generator=g)
    with pytest.raises(InputError, match="voltage"):
        inelastic_mean_free_path_in_angstroms(0.0)
    with pytest.raises(InputError, match="crystal_thickness"):
        crystalline_ice((8, 8), 1.0, -1.0, generator=g)
    with pytest.raises(InputError, match="Use hexagonal or cubic"):
        crystalline_ice((8, 8), 1.0, 1.0, generator=g, lattice="triclinic")  # type: ignore[arg-type]
