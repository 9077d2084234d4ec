"""Evidence beside the spectrum: thickness, known transfers, crystals, local defocus."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn_spectra import LENS, blank, drawn, estimate_of, micrograph, model_of, parameters

from cryoprism.causes import Circumstances, Spectrum, estimate_causes, information_under, measure_spectrum
from cryoprism.causes.evidence import (
    RING_REACH,
    ice_level,
    ice_thickness,
    known_log_transfer,
    ring_excess,
    ring_windows,
)
from cryoprism.microscope.dose import damage_envelope
from cryoprism.microscope.ice import inelastic_mean_free_path_in_angstroms

_PATH = inelastic_mean_free_path_in_angstroms(300.0)


def test_thickness_follows_the_attenuation_of_the_beam():
    known = Circumstances(mean_intensity=20.0, incident_intensity=24.0)
    thickness, deviation = ice_thickness(known, LENS)
    assert thickness == pytest.approx(_PATH * math.log(24 / 20), rel=1e-4)
    # Propagated by drawing: 3 % of the incident beam, 10 % of the mean free path.
    rng = np.random.default_rng(0)
    path = _PATH * (1 + 0.1 * rng.standard_normal(20000))
    beam = 24 * (1 + 0.03 * rng.standard_normal(20000))
    assert deviation == pytest.approx((path * np.log(beam / 20)).std(), rel=0.05)
    assert ice_thickness(replace(known, incident_intensity_relative_sd=0.1), LENS)[1] > 2 * deviation


@pytest.mark.parametrize("mean", [25.0, 24.0])
def test_a_beam_that_loses_nothing_met_no_ice(mean):
    assert ice_thickness(Circumstances(mean_intensity=mean, incident_intensity=24.0), LENS)[0] == pytest.approx(
        0, abs=1
    )


@pytest.mark.parametrize(
    "known",
    [
        Circumstances(),
        Circumstances(mean_intensity=20.0),
        Circumstances(incident_intensity=20.0),
        Circumstances(mean_intensity=-3.0, incident_intensity=20.0),
        Circumstances(mean_intensity=3.0, incident_intensity=0.0),
    ],
)
def test_thickness_is_unknown_without_both_intensities(known):
    assert ice_thickness(known, LENS) is None


def test_the_level_of_the_ice_scales_with_thickness_and_intensity():
    def level(mean: float, beam: float, scale: float = 1.0) -> float:
        return ice_level(LENS, Circumstances(mean_intensity=mean, incident_intensity=beam), 1.5, scale)[0]

    thin, thick = 1000 * math.exp(-400 / _PATH), 1000 * math.exp(-800 / _PATH)
    assert level(thick, 1000) - level(thin, 1000) == pytest.approx(math.log(2) - 2 * 400 / _PATH, abs=1e-3)
    assert level(2 * thin, 2000) - level(thin, 1000) == pytest.approx(2 * math.log(2), abs=1e-3)
    assert level(thin, 1000, 7.0) - level(thin, 1000) == pytest.approx(-math.log(7), abs=1e-3)
    # Poisson counts have their mean as variance: the same level follows from the exposure alone.
    exposure = 40.0
    counts = exposure * 1.5**2
    stated = ice_level(LENS, Circumstances(exposure_in_electrons_per_square_angstrom=exposure), 1.5, counts)
    measured = ice_level(
        LENS,
        Circumstances(
            exposure_in_electrons_per_square_angstrom=exposure,
            mean_intensity=counts,
            incident_intensity=counts * math.exp(400 / _PATH),
        ),
        1.5,
        counts,
    )
    assert stated[0] == pytest.approx(measured[0], abs=1e-3)
    assert stated[1] > measured[1]


def test_known_transfers_are_those_that_were_stated():
    grid = blank().grid
    assert known_log_transfer(grid, LENS, Circumstances()) == {}
    damage = known_log_transfer(grid, LENS, Circumstances(exposure_in_electrons_per_square_angstrom=50.0))
    assert set(damage) == {"damage"}
    torch.testing.assert_close((0.5 * damage["damage"]).exp(), damage_envelope(grid.k, 300.0, 0.0, 50.0))
    weighted = Circumstances(exposure_in_electrons_per_square_angstrom=50.0, exposure_weighted=True)
    assert known_log_transfer(grid, LENS, weighted) == {}
    curve = (torch.tensor([0.0, 0.25, 0.5]), torch.tensor([1.0, 0.6, 0.1]))
    detector = known_log_transfer(grid, LENS, Circumstances(mtf_squared=curve))["detector"].exp()
    expected = np.interp((grid.k * 1.5).numpy(), curve[0].numpy(), curve[1].numpy())
    np.testing.assert_allclose(detector.numpy(), expected, rtol=1e-4)


def test_coherence_multiplies_source_and_spread():
    grid = blank().grid

    def fading(**stated: float) -> torch.Tensor:
        return known_log_transfer(grid, LENS, Circumstances(**stated), 15000.0)["coherence"]

    source, spread = fading(semi_angle_in_milliradians=0.05), fading(focal_spread_in_angstroms=60.0)
    both = fading(semi_angle_in_milliradians=0.05, focal_spread_in_angstroms=60.0)
    torch.testing.assert_close(both, source + spread, atol=1e-4, rtol=1e-4)
    wavelength = LENS.wavelength_in_angstroms
    closed = -((math.pi * wavelength * 60.0 * grid.k.square()) ** 2)
    torch.testing.assert_close(spread, closed, atol=1e-4, rtol=1e-3)


def _with_ring(factor: float, sectors: slice, seed: int = 3) -> tuple[Spectrum, torch.Tensor]:
    base = blank()
    spectrum = drawn(model_of(base), parameters(), base, seed)
    ring = torch.zeros_like(spectrum.power, dtype=torch.bool)
    ring[(base.grid.k - 1 / 3.67).abs() < 1.5 * base.grid.shell_width, sectors] = True
    return replace(spectrum, power=torch.where(ring, factor * spectrum.power, spectrum.power)), ring


@pytest.mark.parametrize(("factor", "sectors"), [(1.6, slice(None)), (12.0, slice(5, 6))])
def test_rings_and_spots_of_crystalline_ice_are_seen_with_their_power(factor, sectors):
    spectrum, ring = _with_ring(factor, sectors)
    estimate = estimate_causes(spectrum, LENS)
    assert estimate.excess_significance > 6
    assert (estimate.excess[~ring_windows(spectrum.grid, RING_REACH)] == 0).all()
    smooth = spectrum.power[ring].sum() / factor
    added = spectrum.power[ring].sum() - smooth
    assert float(estimate.excess[ring].sum()) * estimate.scale == pytest.approx(float(added), rel=0.25)
    # Bins beside a spot count only where noise lifts them.
    assert float(estimate.excess[~ring].sum()) < float(estimate.excess[ring].sum())
    # The rest of the micrograph is fitted as without the crystal.
    assert estimate.fit.value("defocus") == pytest.approx(150, abs=5 * estimate.fit.deviation("defocus"))


def _with_powder(seed: int) -> tuple[Spectrum, Spectrum]:
    """A spectrum without crystals, and the same with broad rings of a powder and spots hundreds of times above it."""
    base = blank()
    smooth = drawn(model_of(base), parameters(signal=3.0), base, seed)
    rings = sum(torch.exp(-0.5 * ((base.grid.k - 1 / d) / 0.004) ** 2) for d in (3.90, 3.67, 3.44))
    factor = 1 + 5 * rings[:, None].expand_as(smooth.power).clone()
    factor[int((base.grid.k - 1 / 3.9).abs().argmin()), ::6] = 400.0
    changed = {"power": smooth.power * factor, "halves": smooth.halves * factor, "regions": smooth.regions * factor}
    return smooth, replace(smooth, **changed)


@pytest.mark.parametrize("seed", range(3))
def test_strong_crystals_neither_spoil_the_fit_nor_hide_their_price(seed):
    smooth, crystals = (estimate_causes(spectrum, LENS) for spectrum in _with_powder(seed))
    grid = smooth.spectrum.grid
    beside = ~ring_windows(grid, RING_REACH)
    # Shells beside the rings keep their weight and their fit.
    assert (crystals.fit.freedom[beside] > 0.3 * crystals.spectrum.freedom[beside]).all()
    expected = [e.scale * e.fit.model.log_power(e.fit.theta, e.fit.damping).exp() for e in (smooth, crystals)]
    assert float((expected[1] / expected[0])[beside].log().abs().mean()) < 0.03
    # Without the crystals there would be what the twin has; that they take is theirs and of no other cause.
    left, restored = (information_under(crystals.observation, ideal) for ideal in ((), ("crystalline_ice",)))
    assert restored == pytest.approx(information_under(smooth.observation), rel=0.15)
    assert 0.05 * restored < restored - left < 0.3 * restored


def test_smooth_spectra_hold_no_crystals():
    for seed in range(8):
        estimate = estimate_of(parameters(), seed)
        assert estimate.excess_significance < 6
        assert not estimate.excess.any()


def test_power_beside_the_windows_is_no_crystal():
    base = blank()
    spectrum = drawn(model_of(base), parameters(), base, 3)
    power = spectrum.power.clone()
    power[(base.grid.k - 0.2).abs() < 0.004] *= 1.6
    estimate = estimate_causes(replace(spectrum, power=power), LENS)
    excess, significance = ring_excess(replace(spectrum, power=power), estimate.fit, estimate.scale)
    assert significance < 6
    assert not excess.any()


def test_ring_windows_hold_the_known_spacings():
    grid = blank().grid
    windows = ring_windows(grid)
    for spacing in (3.90, 3.67, 3.44):
        assert bool(windows[(grid.k - 1 / spacing).abs().argmin()])
    assert not windows[grid.k < 0.2].any()
    assert not ring_windows(blank(512, 2.8).grid).any()


def _tilted(degrees: float, along: int, size: int, signal: float = 8.0) -> Spectrum:
    """One noise image seen at 13 defoci and blended along an axis, as a tilted field would show it."""
    pixel, strips = 2.8, 13
    reach = size * pixel / 2
    offsets = torch.linspace(-reach, reach, strips)
    images = [
        micrograph(
            5,
            defocus=15000.0 + math.tan(math.radians(degrees)) * float(at),
            size=(size, size),
            pixel=pixel,
            signal=signal,
        )
        for at in offsets
    ]
    where = ((torch.arange(size) + 0.5) * pixel - reach - offsets[0]) / (offsets[1] - offsets[0])
    share = (1 - (where[None] - torch.arange(strips)[:, None]).abs()).clamp_min(0)
    share = share[:, :, None] if along == 0 else share[:, None, :]
    return measure_spectrum((torch.stack(images) * share).sum(0), pixel)


@pytest.mark.parametrize(("degrees", "along", "signal"), [(10, 1, 8.0), (25, 0, 8.0), (-40, 1, 1.0)])
def test_the_gradient_of_a_tilted_field_is_recovered(degrees, along, signal):
    estimate = estimate_causes(_tilted(degrees, along, 1024, signal), LENS)
    tilt = estimate.tilt
    slopes = (tilt.gradient_y, tilt.gradient_x)
    wanted = math.tan(math.radians(degrees))
    assert tilt.significant
    assert slopes[along] == pytest.approx(wanted, rel=0.08)
    assert abs(slopes[1 - along]) < 0.05
    assert tilt.tilt_in_degrees == pytest.approx(abs(degrees), abs=3)
    middle = tilt.regions[1, 1]
    assert abs(float(middle)) < 60


def test_a_level_field_has_no_significant_gradient():
    for seed in range(6):
        spectrum = measure_spectrum(micrograph(seed, size=(1024, 1024), pixel=2.8), 2.8)
        tilt = estimate_causes(spectrum, LENS).tilt
        assert not tilt.significant
        assert math.hypot(tilt.gradient_y, tilt.gradient_x) < 6 * tilt.deviation


def test_a_small_field_abstains_from_tilt():
    assert not estimate_causes(_tilted(40, 1, 512), LENS).tilt.significant
