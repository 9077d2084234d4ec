"""Physical constants and the relativistic electron.

Boundary units everywhere in CryoPrism: Å, kV, mm, degrees and e/Å².
"""

from __future__ import annotations

import math

__all__ = [
    "ANGSTROMS_PER_MILLIMETER",
    "ANGSTROMS_PER_NANOMETER",
    "AVOGADRO",
    "electron_wavelength_in_angstroms",
    "interaction_constant",
]

ANGSTROMS_PER_MILLIMETER = 1.0e7
ANGSTROMS_PER_NANOMETER = 10.0
AVOGADRO = 6.02214076e23

_PLANCK = 6.62607015e-34  # J s
_CHARGE = 1.602176634e-19  # C
_MASS = 9.1093837015e-31  # kg
_LIGHT = 299792458.0  # m/s


def electron_wavelength_in_angstroms(voltage_in_kilovolts: float) -> float:
    """Relativistic de Broglie wavelength of the electron [Å].

    λ = h / sqrt(2 m e V (1 + e V / 2 m c²)); 0.01969 Å at 300 kV.

    Parameters
    ----------
    voltage_in_kilovolts
        Acceleration voltage [kV], positive.
    """
    if not voltage_in_kilovolts > 0:
        raise ValueError(f"voltage_in_kilovolts must be positive, not {voltage_in_kilovolts}")
    energy = _CHARGE * voltage_in_kilovolts * 1e3
    return 1e10 * _PLANCK / math.sqrt(2 * _MASS * energy * (1 + energy / (2 * _MASS * _LIGHT**2)))


def interaction_constant(voltage_in_kilovolts: float) -> float:
    """Interaction constant σ [rad / (V Å)]: phase shift = σ × projected potential [V Å].

    σ = (2π / λ e U) (e U + m c²) / (e U + 2 m c²) (Kirkland, Advanced Computing in Electron
    Microscopy, eq. 5.6); 6.526e-4 rad/(V Å) at 300 kV.
    """
    wavelength = electron_wavelength_in_angstroms(voltage_in_kilovolts)
    volts = voltage_in_kilovolts * 1e3
    rest = _MASS * _LIGHT**2 / _CHARGE  # eV
    return 2 * math.pi / (wavelength * volts) * (volts + rest) / (volts + 2 * rest)
