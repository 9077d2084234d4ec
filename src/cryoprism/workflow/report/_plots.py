"""Small crisp plots as inline SVG; the style sheet of the page colours them, in light and in dark mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._numbers import escape, plain

__all__ = ["Frame", "bar", "bar_axis", "curve", "distribution", "drift_plot", "marks", "session_bars", "svg", "ticks"]

_MOST_DOTS: Final = 60
_MOST_BARS: Final = 240


def svg(width: float, height: float, body: str, label: str) -> str:
    """Return a drawing that scales with the page; ``label`` is read to those who do not see it."""
    head = f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" aria-label="{escape(label)}">'
    return f"{head}{body}</svg>"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between ``low`` and ``high``, about ``count`` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Frame:
    """A rectangle of a drawing with data coordinates: x to the right, y upwards."""

    left: float
    top: float
    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at_x(self, value: float) -> float:
        """Horizontal position of a value."""
        low, high = self.x
        return self.left + self.width * (value - low) / ((high - low) or 1.0)

    def at_y(self, value: float) -> float:
        """Vertical position of a value."""
        low, high = self.y
        return self.top + self.height * (1 - (value - low) / ((high - low) or 1.0))

    def axes(
        self, x_label: str, y_label: str, *, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]]
    ) -> str:
        """Axes with ticks and labels; an empty label draws none."""
        bottom, right = self.top + self.height, self.left + self.width
        parts = [f'<path class="axis" d="M{self.left:g} {self.top:g}V{bottom:g}H{right:g}"/>']
        for value, text in x_ticks:
            x = self.at_x(value)
            parts.append(f'<path class="axis" d="M{x:.1f} {bottom:g}v4"/>')
            if text:
                parts.append(
                    f'<text class="tick" x="{x:.1f}" y="{bottom + 16:g}" text-anchor="middle">{escape(text)}</text>'
                )
        for value, text in y_ticks:
            y = self.at_y(value)
            parts.append(f'<path class="gridline" d="M{self.left:g} {y:.1f}H{right:g}"/>')
            parts.append(
                f'<text class="tick" x="{self.left - 5:g}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'
            )
        if x_label:
            parts.append(
                f'<text class="quiet-text" x="{self.left + self.width / 2:g}" y="{bottom + 32:g}" text-anchor="middle">'
                f"{escape(x_label)}</text>"
            )
        if y_label:
            x, y = self.left - 38, self.top + self.height / 2
            parts.append(
                f'<text class="quiet-text" transform="translate({x:g} {y:g}) rotate(-90)" text-anchor="middle">'
                f"{escape(y_label)}</text>"
            )
        return "".join(parts)


def curve(frame: Frame, x: ArrayLike, y: ArrayLike, colour: str, *, width: float = 1.4, dash: str = "") -> str:
    """Polyline with gaps where a value is not finite; y is held inside the frame."""
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    low, high = frame.y
    path, pen_down = [], False
    for a, b in zip(xs, ys, strict=True):
        if not (math.isfinite(a) and math.isfinite(b)):
            pen_down = False
            continue
        path.append(f"{'L' if pen_down else 'M'}{frame.at_x(a):.1f} {frame.at_y(min(max(b, low), high)):.1f}")
        pen_down = True
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path class="curve" style="stroke:var(--{colour})" stroke-width="{width:g}"{dashes} d="{"".join(path)}"/>'


def marks(values: Sequence[float], digits: int = 3) -> list[tuple[float, str]]:
    """Tick values with their text; all with the same number of decimals."""
    if len(values) > 1:
        decimals = max(0, -math.floor(math.log10(abs(values[1] - values[0])) + 1e-9))
        return [(value, f"{value:,.{decimals}f}".replace(",", "\u202f").replace("-", "\u2212")) for value in values]
    return [(value, plain(value, digits)) for value in values]


def bar(
    mean: float, deviation: float, low: float, high: float, family: str, *, label: str, width: float = 260.0
) -> str:
    """Horizontal bar from zero with an error bar of one standard deviation, on the scale ``low`` … ``high``."""
    frame = Frame(2, 0, width - 4, 20, (low, high), (0, 1))
    zero, end = frame.at_x(0), frame.at_x(mean)
    first, last = (min(max(frame.at_x(v), 1), width - 1) for v in (mean - deviation, mean + deviation))
    body = (
        f'<path class="gridline" d="M{zero:.1f} 0V20"/>'
        f'<rect class="fill" x="{min(zero, end):.1f}" y="4" width="{abs(end - zero):.1f}" height="12" rx="1.5"/>'
        f'<path class="whisker" d="M{first:.1f} 10H{last:.1f}M{first:.1f} 6.5v7M{last:.1f} 6.5v7"/>'
    )
    return svg(width, 20, f'<g class="f-{escape(family)}">{body}</g>', label)


def bar_axis(low: float, high: float, unit: str, *, divide_by: float, width: float = 260.0) -> str:
    """Scale below a column of ``bar``."""
    frame = Frame(2, 0, width - 4, 2, (low / divide_by, high / divide_by), (0, 1))
    body = frame.axes("", "", x_ticks=marks(ticks(*frame.x, 4)), y_ticks=[])
    return svg(width, 22, body, f"scale in {unit}")


def distribution(values: Sequence[float], unit: str, title: str) -> str:
    """Dots stacked in bins, or a histogram for many values; a line at the median."""
    data: NDArray[np.float64] = np.asarray(values, dtype=float)
    low, high = float(data.min()), float(data.max())
    pad = 0.08 * (high - low) or max(abs(high) * 0.05, 0.5)
    low, high = (0.0 if low >= 0 and low - pad < 0 else low - pad), high + pad
    many = len(data) > _MOST_DOTS
    bins = min(40, max(12, round(2 * math.sqrt(len(data))))) if many else 24
    counts, edges = np.histogram(data, bins=bins, range=(low, high))
    most = int(counts.max())
    frame = Frame(34, 8, 250, 84, (low, high), (0, max(most, 1 if many else 4) * 1.08))
    y_ticks = [t for t in ticks(0, float(most), 3) if t == int(t)] if many else []
    parts = [
        frame.axes(
            f"{title} [{unit}]" if unit else title, "", x_ticks=marks(ticks(low, high, 4)), y_ticks=marks(y_ticks)
        )
    ]
    if many:
        for count, a, b in zip(counts, edges[:-1], edges[1:], strict=True):
            x, y = frame.at_x(a), frame.at_y(float(count))
            height = frame.top + frame.height - y
            parts.append(
                f'<rect class="fill" x="{x:.1f}" y="{y:.1f}" width="{frame.at_x(b) - x - 0.6:.1f}" '
                f'height="{height:.1f}"/>'
            )
    else:
        radius = min(4.0, frame.height / (2.1 * max(most, 1)))
        stack = [0] * bins
        for value in np.sort(data):
            column = min(int((value - low) / (high - low) * bins), bins - 1)
            y = frame.top + frame.height - radius * (1.2 + 2.1 * stack[column])
            stack[column] += 1
            parts.append(
                f'<circle class="fill" cx="{frame.at_x(float(value)):.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>'
                f"{plain(float(value), 4)} {escape(unit)}"
                "</title></circle>"
            )
    middle = float(np.median(data))
    parts.append(
        f'<path class="whisker" stroke-dasharray="3 2" d="M{frame.at_x(middle):.1f} {frame.top:g}v{frame.height:g}"/>'
    )
    first, last = (plain(float(value), 4) for value in (data.min(), data.max()))
    text = f"{title}: {len(data)} values from {first} to {last} {unit}, median {plain(middle, 4)}"
    return svg(308, 130, f'<g class="f-scattering">{"".join(parts)}</g>', text)


def drift_plot(vectors: Sequence[tuple[float, float]]) -> str:
    """Drift (x, y) [Å] of every micrograph as a line through the middle: a spectrum cannot tell its two ends apart."""
    size, middle = 294.0, 147.0
    reach = max(math.hypot(*vector) for vector in vectors) / 2 or 1.0
    rings = [t for t in ticks(0, reach, 3) if t > 0]
    scale = 118 / max(reach, rings[-1] if rings else reach)
    parts = [f'<path class="gridline" d="M{middle} 20V274M20 {middle}H274"/>']
    for ring in rings:
        radius = ring * scale
        parts.append(f'<circle class="gridline" cx="{middle}" cy="{middle}" r="{radius:.1f}"/>')
        parts.append(f'<text class="tick" x="{middle + 3}" y="{middle - radius - 2:.1f}">{2 * ring:g} Å</text>')
    opacity = max(0.04, min(0.85, 30 / len(vectors)))
    for x, y in vectors:
        dx, dy = x * scale / 2, y * scale / 2
        parts.append(
            f'<path class="stroke" stroke-width="2.2" stroke-linecap="round" opacity="{opacity:.2f}" '
            f'd="M{middle - dx:.1f} {middle - dy:.1f}L{middle + dx:.1f} {middle + dy:.1f}"><title>'
            f"{math.hypot(x, y):.1f} Å</title></path>"
        )
    parts.append(
        f'<text class="tick" x="276" y="{middle - 4}" text-anchor="end">x</text><text class="tick" '
        f'x="{middle + 4}" y="288">y (down, as in the image)</text>'
    )
    longest = max(math.hypot(*vector) for vector in vectors)
    return svg(
        size,
        294,
        f'<g class="f-specimen">{"".join(parts)}</g>',
        f"drift of {len(vectors)} micrographs, longest {longest:.1f} Å",
    )


def session_bars(
    kept: Sequence[float], lost: Sequence[Sequence[float]], families: Sequence[str], unit: str, divide_by: float
) -> str:
    """Stacked bars, one per micrograph in the order of the session: information kept, then what each family took.

    Parameters
    ----------
    kept
        Bits kept, one per micrograph.
    lost
        Bits lost per micrograph to each of ``families``; below zero counts as zero.
    """
    table = (
        np.column_stack([np.asarray(kept, dtype=float), np.asarray(lost, dtype=float).reshape(len(kept), -1)])
        / divide_by
    )
    table = np.clip(np.nan_to_num(table), 0, None)
    step = max(1, math.ceil(len(table) / _MOST_BARS))
    groups = [table[i : i + step].mean(0) for i in range(0, len(table), step)]
    top = max((float(group.sum()) for group in groups), default=1.0) or 1.0
    frame = Frame(62, 8, 1100, 150, (0.5, len(table) + 0.5), (0, top * 1.04))
    numbers = sorted({max(1, round(t)) for t in ticks(1, len(table), min(10, len(table)))} | {1})
    parts = [
        frame.axes(
            "micrograph, in the order of the session",
            unit,
            x_ticks=[(n, f"{n}") for n in numbers],
            y_ticks=marks(ticks(0, top, 4)),
        )
    ]
    for index, group in enumerate(groups):
        middle = frame.at_x(index * step + 0.5 + 0.5 * min(step, len(table) - index * step))
        width = min(0.86 * frame.width * step / len(table), 60.0)
        left, right, bottom = middle - width / 2, middle + width / 2, 0.0
        for value, family in zip(group, ("kept", *families), strict=True):
            if value > 0:
                y = frame.at_y(bottom + float(value))
                parts.append(
                    f'<rect class="fill f-{escape(family)}" x="{left:.1f}" y="{y:.1f}" '
                    f'width="{max(right - left, 0.8):.1f}" '
                    f'height="{frame.at_y(bottom) - y:.1f}"/>'
                )
                bottom += float(value)
    each = "" if step == 1 else f" Each bar is the mean of {step} neighbours."
    return svg(1180, 196, "".join(parts), f"Information of {len(table)} micrographs in {unit}.{each}")
