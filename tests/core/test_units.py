"""Physical constants against published tables."""

from __future__ import annotations

import math

import pytest

from cryoprism.core import electron_wavelength_in_angstroms, interaction_constant


@pytest.mark.parametrize(("voltage", "wavelength"), [(100.0, 0.0370144), (200.0, 0.0250793), (300.0, 0.0196875)])
def test_wavelength_is_the_tabulated_one(voltage: float, wavelength: float):
    """Kirkland (2010), Advanced Computing in Electron Microscopy, table of electron wavelengths."""
    assert electron_wavelength_in_angstroms(voltage) == pytest.approx(wavelength, abs=1e-6)


@pytest.mark.parametrize("voltage", [100.0, 200.0, 300.0])
def test_wavelength_from_momentum_and_rest_energy(voltage: float):
    """λ = hc / √(T² + 2 T mc²) with hc = 12.398420 keV Å and mc² = 510.99895 keV."""
    want = 12.39841984 / math.sqrt(voltage**2 + 2 * voltage * 510.99895)
    assert electron_wavelength_in_angstroms(voltage) == pytest.approx(want, rel=1e-8)


@pytest.mark.parametrize(("voltage", "sigma"), [(100.0, 9.244e-4), (200.0, 7.288e-4), (300.0, 6.526e-4)])
def test_interaction_constant_is_the_tabulated_one(voltage: float, sigma: float):
    """Kirkland (2010): 0.9244, 0.7288 and 0.6526 rad/(kV Å)."""
    assert interaction_constant(voltage) == pytest.approx(sigma, rel=2e-4)


def test_interaction_constant_from_the_relativistic_mass():
    """σ = 2π m e λ / h² with the relativistic mass m."""
    voltage = 300.0
    gamma = 1 + voltage / 510.99895
    mass, charge, planck = 9.1093837015e-31 * gamma, 1.602176634e-19, 6.62607015e-34
    wavelength = electron_wavelength_in_angstroms(voltage) * 1e-10
    want = 2 * math.pi * mass * charge * wavelength / planck**2 * 1e-10  # per V m to per V Å
    assert interaction_constant(voltage) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("voltage", [0.0, -300.0, float("nan")])
def test_voltages_that_cannot_be_are_refused(voltage: float):
    with pytest.raises(ValueError, match="voltage_in_kilovolts"):
        electron_wavelength_in_angstroms(voltage)
