"""Plots of a map's report: FSC, Guinier, local resolution, and directions on the sphere, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoprism.structure import (
    DirectionalFsc,
    FscCurve,
    Guinier,
    HalfMapFsc,
    Sharpening,
    ViewingDirections,
    noise_limit,
)

from ._map_pictures import colour_ramp, png_source
from ._numbers import escape
from ._plots import Frame, curve, marks, svg, ticks

__all__ = [
    "colour_bar",
    "direction_globe",
    "fsc_plot",
    "guinier_figure",
    "resolution_histogram",
    "viewing_globe",
]

_ROUND: Final = (200, 100, 50, 30, 20, 15, 12, 10, 8, 7, 6, 5, 4.5, 4, 3.5, 3, 2.5, 2.2, 2, 1.8, 1.6, 1.4, 1.2, 1)
_GLOBE: Final = (480, 240)
# From few to many views: pale to dark, one hue, so that it reads without colour too.
_HEAT: Final = np.array(
    [
        (0.97, 0.97, 0.98),
        (0.78, 0.86, 0.93),
        (0.50, 0.72, 0.86),
        (0.22, 0.53, 0.75),
        (0.05, 0.30, 0.57),
        (0.02, 0.14, 0.33),
    ]
)


def _resolution_ticks(frame: Frame, nearest: float = 34.0) -> list[tuple[float, str]]:
    found: list[tuple[float, str]] = []
    for value in _ROUND:
        at = frame.at_x(1 / value)
        if 1 / value <= frame.x[1] and (not found or at - frame.at_x(found[-1][0]) >= nearest):
            found.append((1 / value, f"{value:g}"))
    return found[1:] if found and frame.at_x(found[0][0]) - frame.left < 14 else found


def _level(frame: Frame, y: float, text: str) -> str:
    at, end = frame.at_y(y), frame.left + frame.width
    return (
        f'<path style="stroke:var(--quiet)" stroke-dasharray="5 4" fill="none" d="M{frame.left:g} {at:.1f}H{end:g}"/>'
        f'<text class="tick" x="{end - 4:g}" y="{at - 4:.1f}" text-anchor="end">{escape(text)}</text>'
    )


def fsc_plot(fsc: HalfMapFsc, *, masked: bool = True, model: FscCurve | None = None, symmetry_order: int = 1) -> str:
    """Plot the FSC against resolution: all curves, the thresholds 0.143 and 0.5, and what noise alone would reach."""
    frequency = fsc.frequency.numpy()
    frame = Frame(48, 12, 680, 330, (0.0, float(frequency[-1])), (-0.1, 1.02))
    parts = [
        frame.axes(
            "resolution [Å]",
            "Fourier shell correlation",
            x_ticks=_resolution_ticks(frame),
            y_ticks=[(v, f"{v:.1f}") for v in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)],
        )
    ]
    limit = noise_limit(fsc.count, symmetry=symmetry_order).numpy()[1:]
    xs = [frame.at_x(k) for k in frequency[1:]]
    upper = " ".join(f"{x:.1f},{frame.at_y(min(v, 1.0)):.1f}" for x, v in zip(xs, limit, strict=True))
    lower = " ".join(f"{x:.1f},{frame.at_y(max(-v, -0.1)):.1f}" for x, v in zip(xs[::-1], limit[::-1], strict=True))
    parts.append(f'<polygon points="{upper} {lower}" style="fill:var(--quiet)" opacity="0.13"/>')
    zero = frame.at_y(0)
    parts.append(f'<path class="axis" d="M{frame.left:g} {zero:.1f}H{frame.left + frame.width:g}"/>')
    parts += [_level(frame, 0.5, "0.5"), _level(frame, 0.143, "0.143")]
    crossing = fsc.crossing()
    if crossing.resolution_in_angstroms is not None and not crossing.at_nyquist:
        x = frame.at_x(1 / crossing.resolution_in_angstroms)
        y = frame.at_y(0.143)
        parts.append(
            f'<path style="stroke:var(--scattering)" stroke-width="1.2" fill="none" d="M{x:.1f} '
            f'{y:.1f}V{frame.at_y(-0.1):.1f}"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" style="fill:var(--scattering)"/>'
            f'<text x="{x + 9:.1f}" y="{y - 9:.1f}" style="font-weight:650;font-size:14px">'
            f"{crossing.resolution_in_angstroms:.2f} Å</text>"
        )
    if model is not None:
        parts.append(curve(frame, frequency[1:], model.fsc.numpy()[1:], "detector", width=1.8, dash="7 3"))
    if masked:
        start = fsc.randomised_from_shell
        if start is not None:
            parts.append(
                curve(frame, frequency[start:], fsc.randomised.numpy()[start:], "image", width=1.4, dash="2 3")
            )
        parts.append(curve(frame, frequency[1:], fsc.masked.numpy()[1:], "aberrations", width=1.6))
    parts.append(curve(frame, frequency[1:], fsc.unmasked.numpy()[1:], "specimen", width=1.6))
    if masked:
        parts.append(curve(frame, frequency[1:], fsc.corrected.numpy()[1:], "scattering", width=2.8))
    drawing = svg(740, 384, "".join(parts), "Fourier shell correlation of the half maps against resolution")
    keys = [("scattering", "corrected for the mask"), ("aberrations", "masked")] if masked else []
    keys.append(("specimen", "unmasked"))
    if masked and fsc.randomised_from_shell is not None:
        keys.append(("image", "masked, phases randomised"))
    if model is not None:
        keys.append(("detector", "map against model"))
    return drawing + legend([*keys, ("kept", "within three deviations of pure noise")])


def legend(keys: Sequence[tuple[str, str]]) -> str:
    """Line of coloured keys: (colour of the style sheet, words)."""
    shown = "".join(
        '<span><span class="dot" '
        f'style="background:var(--{"kept" if c == "soft" else c})"></span>{escape(words)}</span>'
        for c, words in keys
    )
    return f'<div class="legend">{shown}</div>'


def guinier_figure(sharpening: Sharpening) -> str:
    """Guinier plot: ln of the mean amplitude against 1/d², before and after weighting and sharpening, and the fit."""
    plots: tuple[Guinier, ...] = (sharpening.original, sharpening.weighted, sharpening.sharpened)
    squared = sharpening.original.frequency.numpy() ** 2
    end = 1.25 / (sharpening.low_pass_in_angstroms or 1e-3) ** 2
    last = min(float(squared[-1]), end)
    shown = squared[1:] <= last
    values = [plot.logarithm.numpy()[1:] for plot in plots]
    inside = np.concatenate([v[shown & np.isfinite(v)] for v in values])
    if inside.size == 0:
        return ""
    low, high = max(float(inside.min()), float(inside.max()) - 14), float(inside.max()) + 0.5
    frame = Frame(48, 12, 480, 270, (0.0, last), (low, high))
    wanted = [t for t in _ROUND if 1 / t**2 <= last]
    x_ticks: list[tuple[float, str]] = []
    for value in wanted:
        if not x_ticks or frame.at_x(1 / value**2) - frame.at_x(x_ticks[-1][0]) >= 34:
            x_ticks.append((1 / value**2, f"{value:g}"))
    parts = [
        frame.axes(
            "resolution [Å], evenly in 1/d²",
            "ln of mean amplitude",
            x_ticks=x_ticks,
            y_ticks=marks(ticks(low, high, 5)),
        )
    ]
    for v, colour, width in zip(values, ("image", "aberrations", "scattering"), (1.6, 1.6, 2.4), strict=True):
        keep = np.where(shown & (v >= low), v, np.nan)
        parts.append(curve(frame, squared[1:], keep, colour, width=width))
    fit = sharpening.weighted
    fitted: list[tuple[str, str]] = []
    if fit.b_factor_in_square_angstroms is not None and fit.intercept is not None:
        ends = np.array([1 / (fit.fitted_from_in_angstroms or 10.0) ** 2, 1 / (fit.fitted_to_in_angstroms or 1.0) ** 2])
        line = fit.intercept + fit.b_factor_in_square_angstroms / 4 * ends
        parts.append(curve(frame, ends, line, "ink", width=2.0, dash="6 3"))
        fitted = [("ink", "fit")]
    keys = [
        ("image", "half maps' mean"),
        ("aberrations", "weighted by the FSC"),
        ("scattering", "sharpened"),
    ]
    return svg(540, 326, "".join(parts), "Guinier plot of the map") + legend([*keys, *fitted])


def resolution_histogram(values: Tensor, span: tuple[float, float], overall: float | None) -> str:
    """Histogram of local resolutions [Å] in the colours of the pictures; a line at the resolution of the whole map."""
    data: NDArray[np.float64] = values.double().numpy()
    low, high = float(data.min()), float(np.quantile(data, 0.995))
    if overall is not None:
        low, high = min(low, overall), max(high, overall)
    pad = 0.06 * (high - low) or 0.5
    frame = Frame(46, 22, 440, 190, (low - pad, high + pad), (0.0, 1.0))
    counts, edges = np.histogram(np.clip(data, None, high), bins=32, range=(low, high))
    share = 100 * counts / max(counts.sum(), 1)
    frame = Frame(46, 22, 440, 190, frame.x, (0.0, float(share.max()) * 1.1))
    parts = [
        frame.axes(
            "local resolution [Å]",
            "molecule [%]",
            x_ticks=marks(ticks(*frame.x, 6)),
            y_ticks=marks(ticks(0, float(share.max()), 4)),
        )
    ]
    colours = colour_ramp(((edges[:-1] + edges[1:]) / 2 - span[0]).astype(np.float32) / max(span[1] - span[0], 1e-9))
    for value, a, b, colour in zip(share, edges[:-1], edges[1:], colours, strict=True):
        y = frame.at_y(float(value))
        red, green, blue = (int(255 * c) for c in colour)
        parts.append(
            f'<rect fill="rgb({red},{green},{blue})" x="{frame.at_x(a):.1f}" y="{y:.1f}" '
            f'width="{frame.at_x(b) - frame.at_x(a) - 0.6:.1f}" height="{frame.top + frame.height - y:.1f}"/>'
        )
    if overall is not None:
        x = frame.at_x(overall)
        parts.append(
            f'<path class="whisker" stroke-dasharray="4 3" d="M{x:.1f} {frame.top - 4:g}v{frame.height + 4:g}"/>'
            f'<text class="tick" x="{x:.1f}" y="{frame.top - 8:g}" text-anchor="middle">whole map {overall:.1f} '
            "Å</text>"
        )
    return svg(500, 250, "".join(parts), f"Local resolution, median {float(np.median(data)):.1f} Å")


def colour_bar(span: tuple[float, float], label: str, *, heat: bool = False) -> str:
    """Bar of the colours between two values, with ticks."""
    colours = _heat(np.linspace(0, 1, 128)) if heat else colour_ramp(np.linspace(0, 1, 128).astype(np.float32))
    picture = (255 * np.clip(colours, 0, 1)).astype(np.uint8)[None]
    frame = Frame(10, 2, 260, 12, span, (0, 1))
    body = (
        f'<image href="{png_source(np.repeat(picture, 2, 0))}" x="10" y="2" width="260" height="12" '
        'preserveAspectRatio="none"/>' + frame.axes(label, "", x_ticks=marks(ticks(*span, 5)), y_ticks=[])
    )
    return svg(282, 52, body, label)


def _heat(share: NDArray[np.float64]) -> NDArray[np.float64]:
    place = np.clip(share, 0, 1) * (len(_HEAT) - 1)
    low = np.minimum(place.astype(int), len(_HEAT) - 2)
    rest = (place - low)[..., None]
    return np.asarray(_HEAT[low] * (1 - rest) + _HEAT[low + 1] * rest)


def _globe_directions() -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the unit vector (h, w, 3) of each pixel of a Mollweide map, rot to the right, and which are on it."""
    width, height = _GLOBE
    x = (np.arange(width) + 0.5) / width * 4 - 2
    y = 1 - (np.arange(height) + 0.5) / height * 2
    on = (x[None] / 2) ** 2 + y[:, None] ** 2 < 1
    angle = np.arcsin(y)[:, None]
    latitude = np.arcsin(np.clip((2 * angle + np.sin(2 * angle)) / math.pi, -1, 1))
    longitude = np.clip(math.pi * x[None] / (2 * np.maximum(np.cos(angle), 1e-6)), -math.pi, math.pi)
    latitude = np.broadcast_to(latitude, longitude.shape)
    vectors = [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)]
    return np.stack(vectors, -1), on


def _globe(colours: NDArray[np.floating], on: NDArray[np.bool_], label: str) -> str:
    width, height = _GLOBE
    picture = np.concatenate([np.clip(colours, 0, 1), on[..., None].astype(float)], -1)
    source = png_source((255 * picture).astype(np.uint8))
    left, top = 34, 20
    lines = []
    for degrees in (-60, -30, 0, 30, 60):
        angle = math.radians(degrees)
        theta = angle
        for _ in range(30):
            theta -= (2 * theta + math.sin(2 * theta) - math.pi * math.sin(angle)) / (
                2 + 2 * math.cos(2 * theta) + 1e-9
            )
        y, reach = top + height / 2 * (1 - math.sin(theta)), width / 2 * math.cos(theta)
        middle = left + width / 2
        lines.append(f'<path class="gridline" opacity="0.7" d="M{middle - reach:.1f} {y:.1f}h{2 * reach:.1f}"/>')
        lines.append(
            f'<text class="tick" x="{middle - reach - 5:.1f}" y="{y + 4:.1f}" text-anchor="end">{90 - degrees}°</text>'
        )
    for degrees in (-120, -60, 0, 60, 120):
        bulge = width / 2 * degrees / 180
        x = left + width / 2
        arc = f"M{x} {top}A{abs(bulge) or 0.01:.1f} {height / 2} 0 0 {int(bulge > 0)} {x} {top + height}"
        lines.append(
            f'<path class="gridline" opacity="0.7" d="{arc}"/>'
            f'<text class="tick" x="{x + bulge:.1f}" y="{top + height / 2 - 4:.1f}" '
            f'text-anchor="middle">{degrees}°</text>'
        )
    outline = (
        f'<ellipse class="axis" cx="{left + width / 2}" cy="{top + height / 2}" rx="{width / 2}" ry="{height / 2}"/>'
        f'<text class="tick" x="{left + width / 2}" y="{top - 6}" text-anchor="middle">tilt 0°, along +z</text>'
        f'<text class="tick" x="{left + width / 2}" y="{top + height + 15}" text-anchor="middle">tilt 180°</text>'
    )
    image = f'<image href="{source}" x="{left}" y="{top}" width="{width}" height="{height}"/>'
    return svg(width + left + 16, height + 44, image + "".join(lines) + outline, label)


def viewing_globe(viewing: ViewingDirections) -> str:
    """Draw views per area on the sphere (Mollweide, equal area): rot to the right, tilt downwards; and its colours."""
    directions, on = _globe_directions()
    density = viewing.density.numpy()
    bands, columns = density.shape
    band = np.clip((np.arccos(np.clip(directions[..., 2], -1, 1)) / math.pi * bands).astype(int), 0, bands - 1)
    turn = np.arctan2(directions[..., 1], directions[..., 0]) / (2 * math.pi) + 0.5
    values = density[band, np.clip((turn * columns).astype(int), 0, columns - 1)]
    top = max(float(np.quantile(values[on], 0.995)), 2.0)
    picture = _globe(_heat(values / top), on, "viewing directions of the particles on the sphere")
    return picture + colour_bar((0.0, top), "views, relative to even coverage", heat=True)


def direction_globe(cones: DirectionalFsc, span: tuple[float, float]) -> str:
    """Draw the resolution by direction on the sphere, opposite directions being the same; and its colours."""
    directions, on = _globe_directions()
    axes = cones.directions
    value = cones.resolution_in_angstroms.double().clamp_max(2 * span[1])
    flat = torch.from_numpy(directions.reshape(-1, 3))
    shown = torch.empty(flat.shape[0], dtype=torch.float64)
    for start in range(0, flat.shape[0], 16384):
        weight = torch.exp(((flat[start : start + 16384] @ axes.T).abs() - 1) / math.radians(7.0) ** 2)
        shown[start : start + 16384] = (weight @ value) / weight.sum(1)
    share = (shown.reshape(on.shape).numpy() - span[0]) / max(span[1] - span[0], 1e-9)
    picture = _globe(colour_ramp(share.astype(np.float32)), on, "resolution by direction")
    return picture + colour_bar(span, "resolution [Å], cones of 20°")
