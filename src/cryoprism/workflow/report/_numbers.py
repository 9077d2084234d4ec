"""Numbers and words as a reader wants them, with the exact value kept beside them for programs."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryoprism.causes.graph import CAUSES
from cryoprism.workflow.micrographs.narrative import cause_in_words

__all__ = [
    "UNKNOWN",
    "BitUnit",
    "bit_unit",
    "escape",
    "family_of",
    "flag_words",
    "label_of",
    "measured",
    "plain",
    "remedies",
    "share",
    "with_error",
]

UNKNOWN: Final = '<span class="quiet">–</span>'
_MINUS: Final = "\u2212"
_THIN: Final = "\u202f"


def escape(text: object) -> str:
    """Text that came from outside, safe in HTML and in attributes."""
    return html.escape(str(text), quote=True)


def _grouped(value: float, decimals: int) -> str:
    text = f"{abs(value):,.{decimals}f}".replace(",", _THIN)
    return (_MINUS if value < 0 and float(f"{value:.{decimals}f}") != 0 else "") + text


def plain(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits; thousands apart, no exponent between 1e-4 and 1e7."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size > 7:
        return f"{value:.{digits - 1}e}".replace("-", _MINUS)
    return _grouped(value, max(digits - 1 - size, 0))


def with_error(mean: float, deviation: float | None, most_decimals: int = 8) -> str:
    """Return ``mean ± deviation``, both to two digits of the deviation but no more decimals than allowed."""
    if not math.isfinite(mean):
        return "–"
    if not deviation or not math.isfinite(deviation):
        return plain(mean, 4)
    size = math.floor(math.log10(deviation))
    if size > 7 or (size < -5 and most_decimals > 5):
        return f"{mean:.3g} ± {deviation:.2g}".replace("-", _MINUS)
    decimals = min(max(1 - size, 0), most_decimals)
    return f"{_grouped(mean, decimals)} ± {_grouped(deviation, decimals)}"


def measured(
    mean: float | None,
    deviation: float | None = None,
    unit: str = "",
    *,
    divide_by: float = 1.0,
    decimals: int | None = None,
) -> str:
    """HTML of a number: rounded for the reader, exact in ``value`` and ``data-deviation``.

    Parameters
    ----------
    mean, deviation
        As in ``causes.json``; None gives a dash.
    unit
        Written behind it; ``1`` and the empty text are left out.
    divide_by
        Size of the unit that is shown, for example 1000 for kbit; the exact value stays in bits.
    decimals
        Fixed number of decimals for a number without deviation.
    """
    if mean is None or not math.isfinite(mean):
        return UNKNOWN
    spread = "" if deviation is None else f' data-deviation="{deviation!r}"'
    shown = with_error(mean / divide_by, None if deviation is None else deviation / divide_by)
    if decimals is not None:
        shown = _grouped(mean / divide_by, decimals)
    tail = "" if unit in ("", "1") else "°" if unit == "degrees" else f"{_THIN}{escape(unit)}"
    return f'<data value="{mean!r}"{spread}>{shown}{tail}</data>'


@dataclass(frozen=True)
class BitUnit:
    """A multiple of the bit for one table or plot."""

    name: str
    bits: float

    def html(self, quantity: Mapping[str, float] | None, *, unit: bool = True) -> str:
        """Return mean ± standard deviation of a quantity in bits."""
        if quantity is None:
            return UNKNOWN
        mean, deviation = quantity["mean"], quantity["standard_deviation"]
        tail = f"{_THIN}{self.name}" if unit else ""
        return f'<data value="{mean!r}" data-deviation="{deviation!r}">{self.text(quantity)}{tail}</data>'

    def text(self, quantity: Mapping[str, float]) -> str:
        """Return mean ± standard deviation in this unit, to a hundredth of it at most."""
        return with_error(quantity["mean"] / self.bits, quantity["standard_deviation"] / self.bits, 2)


def bit_unit(values: Sequence[float]) -> BitUnit:
    """Return the unit in which the largest value has at most four digits before the point."""
    largest = max((abs(value) for value in values), default=0.0)
    for name, bits in (("Tbit", 1e12), ("Gbit", 1e9), ("Mbit", 1e6), ("kbit", 1e3)):
        if largest >= 2 * bits:
            return BitUnit(name, bits)
    return BitUnit("bit", 1.0)


def share(quantity: Mapping[str, float] | None, lost: float) -> str:
    """Loss in percent of the lost bits, or a dash where nothing is lost."""
    if quantity is None or lost <= 0:
        return UNKNOWN
    mean, deviation = (100 * quantity[key] / lost for key in ("mean", "standard_deviation"))
    decimals = 0 if deviation >= 1 else 1 if deviation >= 0.05 else 2
    shown = f"{_grouped(mean, decimals)} ± {_grouped(deviation, decimals)}"
    return f'<data value="{mean!r}">{shown}{_THIN}%</data>'


def flag_words(flags: Sequence[str]) -> str:
    """Write flags as a reader says them, separated by commas."""
    return ", ".join(flag.replace("_", " ").replace("thon", "Thon") for flag in flags)


def label_of(cause: str) -> str:
    """Words for a cause."""
    return CAUSES[cause].label if cause in CAUSES else cause_in_words(cause)


def family_of(cause: str, graph: Mapping[str, Any] | None = None) -> str:
    """Family of a cause: by the session's graph, or by the graph of this version."""
    for node in (graph or {}).get("nodes", ()):
        if node["name"] == cause:
            return str(node["family"])
    return CAUSES[cause].family if cause in CAUSES else "image"


def remedies(cause: str) -> tuple[str, str]:
    """Return what to do about a cause in processing and at the microscope; empty where nothing helps."""
    if cause not in CAUSES:
        return "", ""
    found = CAUSES[cause]
    processing, microscope = ("" if t == "none" else t for t in (found.remedy_processing, found.remedy_microscope))
    return processing, microscope
