"""Plots of the report of ``ctf-refine`` as inline SVG: changes of defocus, and beam tilt with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cryoprism.structure import BeamTilt, DefocusRefinement

from ._plots import Frame, marks, svg, ticks

__all__ = ["change_histogram", "micrograph_changes", "tilt_plane"]

_BINS: Final = 41
_DOTS: Final = 6000
_WIDTH: Final = 520


def change_histogram(offset_in_angstroms: NDArray[np.float64], determined: NDArray[np.bool_]) -> str:
    """Histogram of the particles' changes of defocus; those that determined their own stand on the others."""
    reach = float(np.abs(offset_in_angstroms).max(initial=0.0)) or 1.0
    edges = np.linspace(-reach, reach, _BINS + 1)
    own = np.histogram(offset_in_angstroms[determined], edges)[0]
    rest = np.histogram(offset_in_angstroms[~determined], edges)[0]
    most = float((own + rest).max())
    frame = Frame(52, 10, _WIDTH - 66, 220, (-1.04 * reach, 1.04 * reach), (0.0, 1.08 * most))
    whole = [tick for tick in ticks(0.0, most) if tick == int(tick)]
    parts = [
        frame.axes("change of defocus [Å]", "particles", x_ticks=marks(ticks(-reach, reach, 6)), y_ticks=marks(whole))
    ]
    for low, high, own_count, rest_count in zip(edges[:-1], edges[1:], own, rest, strict=True):
        left, width = frame.at_x(low), frame.at_x(high) - frame.at_x(low) - 0.6
        for bottom, top, colour in ((0, rest_count, "kept"), (rest_count, rest_count + own_count, "aberrations")):
            if top > bottom:
                y = frame.at_y(float(top))
                parts.append(
                    f'<rect x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" '
                    f'height="{frame.at_y(float(bottom)) - y:.1f}" style="fill:var(--{colour})"/>'
                )
    words = f"change of defocus of {len(offset_in_angstroms)} particles, at most {reach:.0f} Å"
    return svg(_WIDTH, 280, "".join(parts), words)


def micrograph_changes(defocus: DefocusRefinement, micrograph: NDArray[np.int_]) -> str:
    """Change of every micrograph with its error bar, before the changes of its particles."""
    offset = defocus.offset_in_angstroms.double().numpy()
    mean = defocus.micrograph_offset_in_angstroms.double().numpy()
    deviation = defocus.micrograph_standard_deviation_in_angstroms.double().numpy()
    known = defocus.micrograph_determined.numpy()
    bars = np.abs(mean[known]) + deviation[known]
    reach = 1.06 * (max(float(np.abs(offset).max(initial=0.0)), float(bars.max(initial=0.0))) or 1.0)
    count = len(mean)
    frame = Frame(58, 10, _WIDTH - 72, 220, (0.4, count + 0.6), (-reach, reach))
    numbers = [tick for tick in ticks(1.0, float(count), 8) if tick == int(tick) and tick >= 1] or [1.0]
    parts = [
        frame.axes("micrograph (no. in the table)", "change of defocus [Å]", x_ticks=marks(numbers),
                   y_ticks=marks(ticks(-reach, reach, 5))),
        f'<path class="axis" d="M{frame.left:g} {frame.at_y(0):.1f}h{frame.width:g}"/>',
    ]  # fmt: skip
    shown = np.arange(0, len(offset), max(1, math.ceil(len(offset) / _DOTS)))
    # Spread over the column in the order of the table, so that equal values do not hide each other.
    place = (shown * 0.6180339887) % 1.0 - 0.5
    dots = "".join(
        f"M{frame.at_x(1 + micrograph[i] + 0.6 * p):.1f} {frame.at_y(offset[i]):.1f}h0"
        for i, p in zip(shown, place, strict=True)
    )
    parts.append(f'<path d="{dots}" style="stroke:var(--kept)" stroke-width="2.6" stroke-linecap="round" fill="none"/>')
    size = min(3.2, max(1.4, 0.25 * frame.width / count))
    for number, (value, error, sure) in enumerate(zip(mean, deviation, known, strict=True), 1):
        x, y = frame.at_x(number), frame.at_y(value)
        colour = "aberrations" if sure else "image"
        fill = f"var(--{colour})" if sure else "var(--paper)"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" stroke-width="1.3" '
            f'style="stroke:var(--{colour});fill:{fill}"/>'
        )
        if sure:  # over the dot, which may be larger
            low, high = (frame.at_y(value + sign * error) for sign in (-1, 1))
            cap = f"M{x - size:.1f} {low:.1f}h{2 * size:.1f}M{x - size:.1f} {high:.1f}h{2 * size:.1f}"
            parts.append(f'<path class="whisker" d="M{x:.1f} {low:.1f}V{high:.1f}{cap}"/>')
    words = f"change of defocus of {count} micrographs, {int(known.sum())} of them determined"
    return svg(_WIDTH, 280, "".join(parts), words)


def tilt_plane(tilts: Sequence[BeamTilt]) -> str:
    """Beam tilt of every optics group in the plane, inside ellipses of one and three standard deviations."""
    spans = [
        max(abs(tilt.beam_tilt_in_milliradians[i]) + 3.2 * tilt.standard_deviation_in_milliradians[i] for i in (0, 1))
        for tilt in tilts
    ]
    reach = 1.05 * max(*spans, 1e-3) if len(spans) > 1 else 1.05 * max(spans[0], 1e-3)
    frame = Frame(62, 10, 300, 300, (-reach, reach), (-reach, reach))
    places = marks(ticks(-reach, reach, 5))
    parts = [
        frame.axes("beam tilt x [mrad]", "beam tilt y [mrad]", x_ticks=places, y_ticks=places),
        f'<path class="axis" d="M{frame.left:g} {frame.at_y(0):.1f}h{frame.width:g}M{frame.at_x(0):.1f} '
        f'{frame.top:g}v{frame.height:g}"/>',
    ]
    scale = frame.width / (2 * reach)
    for tilt in tilts:
        x, y = tilt.beam_tilt_in_milliradians
        values, vectors = np.linalg.eigh(tilt.covariance[:2, :2].double().numpy())
        radii = np.sqrt(np.clip(values, 0, None)) * scale
        turn = -math.degrees(math.atan2(vectors[1, 0], vectors[0, 0]))  # y points down in a drawing
        colour = "aberrations" if tilt.determined else "image"
        at = f"{frame.at_x(x):.1f} {frame.at_y(y):.1f}"
        for times, opacity in ((3, 0.14), (1, 0.35)):
            parts.append(
                f'<ellipse rx="{max(times * radii[0], 0.8):.2f}" ry="{max(times * radii[1], 0.8):.2f}" '
                f'transform="translate({at}) rotate({turn:.1f})" style="fill:var(--{colour})" opacity="{opacity}"/>'
            )
        parts.append(
            f'<circle cx="{frame.at_x(x):.1f}" cy="{frame.at_y(y):.1f}" r="3" style="fill:var(--{colour})"/>'
            f'<text x="{frame.at_x(x) + 7:.1f}" y="{frame.at_y(y) - 7:.1f}">{tilt.group}</text>'
        )
    return svg(380, 356, "".join(parts), f"beam tilt of {len(tilts)} optics groups")
