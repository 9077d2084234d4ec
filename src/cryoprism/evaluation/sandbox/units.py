"""Units of the field and the check of dimensions: what may be added, what a function takes, what comes out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from cryoprism.core import InputError

__all__ = ["DIMENSIONLESS", "Unit", "parse_unit"]

_SUPERSCRIPTS: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
#: Name to factor and dimension; the base of each dimension is the unit with factor 1. An angle is a number (radian).
_KNOWN: Final[dict[str, tuple[float, str]]] = {
    "Å": (1.0, "Å"),
    "pm": (1e-2, "Å"),
    "nm": (10.0, "Å"),
    "µm": (1e4, "Å"),
    "mm": (1e7, "Å"),
    "cm": (1e8, "Å"),
    "m": (1e10, "Å"),
    "V": (1e-3, "kV"),
    "kV": (1.0, "kV"),
    "e": (1.0, "e"),
    "s": (1.0, "s"),
    "ms": (1e-3, "s"),
    "min": (60.0, "s"),
    "px": (1.0, "px"),
    "Da": (1.0, "Da"),
    "kDa": (1e3, "Da"),
    "MDa": (1e6, "Da"),
    "K": (1.0, "K"),
    "°": (math.pi / 180, ""),
    "rad": (1.0, ""),
    "mrad": (1e-3, ""),
    "%": (0.01, ""),
    "1": (1.0, ""),
}
_OTHER_NAMES: Final = {
    "A": "Å", "Ang": "Å", "angstrom": "Å", "angstroms": "Å", "Å": "Å", "um": "µm", "μm": "µm", "deg": "°",
    "degree": "°", "degrees": "°", "pixel": "px", "pixels": "px", "electron": "e", "electrons": "e",
    "dimensionless": "1", "radian": "rad", "percent": "%",
}  # fmt: skip
_FACTOR: Final = re.compile(r"(?P<name>[^\W\d_]+|°|%|1)(?:\^?(?P<power>[+-]?\d+(?:/\d+)?))?$")


@dataclass(frozen=True)
class Unit:
    """A unit, or the dimension of an expression.

    Attributes
    ----------
    factor
        How many of the base units (Å, kV, e, s, px, Da, K; radians for angles) it is.
    powers
        Power of each base unit, without zeros, by name.
    """

    factor: float = 1.0
    powers: tuple[tuple[str, Fraction], ...] = ()

    def times(self, other: Unit, power: Fraction = Fraction(1)) -> Unit:
        """Return the product with a power of another unit."""
        powers = dict(self.powers)
        for name, exponent in other.powers:
            powers[name] = powers.get(name, Fraction(0)) + exponent * power
        kept = tuple(sorted((name, exponent) for name, exponent in powers.items() if exponent))
        return Unit(self.factor * other.factor ** float(power), kept)

    def to_the(self, power: Fraction) -> Unit:
        """Return a power of it."""
        return Unit().times(self, power)

    def is_like(self, other: Unit) -> bool:
        """Whether values in both can be added."""
        return self.powers == other.powers

    @property
    def base(self) -> Unit:
        """The unit of the same dimension that is made of base units."""
        return Unit(1.0, self.powers)

    def __str__(self) -> str:
        """Return the base units as one writes them: ``e/Å²``; ``dimensionless`` where there are none."""
        above = [_power(name, exponent) for name, exponent in self.powers if exponent > 0]
        below = [_power(name, -exponent) for name, exponent in self.powers if exponent < 0]
        if not above and not below:
            return "dimensionless"
        return "/".join(["·".join(above) or "1", *below])


DIMENSIONLESS: Final = Unit()


def _power(name: str, exponent: Fraction) -> str:
    digits = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
    if exponent == 1:
        return name
    return name + str(exponent).translate(digits) if exponent.denominator == 1 else f"{name}^({exponent})"


def parse_unit(text: str, where: str = "unit") -> Unit:
    """Read a unit such as ``e/Å²``, ``1/Å^2``, ``kV``, ``°``, ``Å·px^-1``; nothing is ``dimensionless``.

    Raises
    ------
    InputError
        A part of it is unknown.
    """
    unit = DIMENSIONLESS
    plain = text.strip().translate(_SUPERSCRIPTS).replace("**", "^").replace("×", "·").replace("*", "·")
    if not plain:
        return unit
    for number, divided in enumerate(plain.split("/") if not re.search(r"\^[+-]?\d+/\d", plain) else [plain]):
        for part in re.split(r"[·\s]+", divided.strip()):
            found = _FACTOR.match(part)
            name = None if found is None else _OTHER_NAMES.get(found["name"], found["name"])
            if found is None or name not in _KNOWN:
                raise InputError(
                    where, f"'{part}' in '{text}' is no known unit", f"Known are {', '.join(sorted(_KNOWN))}."
                )
            factor, base = _KNOWN[name]
            powers: Mapping[str, Fraction] = {base: Fraction(1)} if base else {}
            power = Fraction(found["power"] or 1) * (-1 if number else 1)
            if abs(power) > 12:
                raise InputError(where, f"'{part}' has a power beyond 12", "Give a smaller one.")
            unit = unit.times(Unit(factor, tuple(powers.items())), power)
    return unit
