"""Sections of a refinement's report: how resolution and poses settled, and how sure the poses are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ._numbers import UNKNOWN, escape, plain
from ._plots import Frame, curve, marks, svg, ticks

__all__ = ["passes_section", "poses_section"]

_WIDTH, _HEIGHT = 620, 250


def passes_section(history: Sequence[Mapping[str, float]]) -> str:
    """Plot and table of the passes; empty where there were none.

    Parameters
    ----------
    history
        One row a pass: ``resolution_in_angstroms``, ``change_in_degrees``, ``radius``, ``probability``,
        ``cpu_seconds``.
    """
    if not history:
        return ""
    rows = ""
    for number, row in enumerate(history, 1):
        moved = row["change_in_degrees"]
        turned = f"{plain(moved, 2)}°" if math.isfinite(moved) else UNKNOWN
        cells = (
            f"{row['resolution_in_angstroms']:.2f}\u202fÅ",
            turned,
            f"{row['probability']:.2f}",
            f"{row['cpu_seconds']:.0f}\u202fs",
        )
        rows += f'<tr><th scope="row">{number}</th>' + "".join(f'<td class="number">{c}</td>' for c in cells) + "</tr>"
    names = ("resolution", "poses turned by", "certainty", "CPU time")
    heads = "".join(f'<th scope="col" class="number">{name}</th>' for name in names)
    resolution = [row["resolution_in_angstroms"] for row in history]
    change = [row["change_in_degrees"] for row in history]
    return (
        '<section id="passes"><h2>How it settled</h2><div class="grid wide"><div class="box">'
        f"{_course(resolution, 'resolution [Å]', 'scattering')}{_course(change, 'poses turned by [°]', 'specimen')}"
        f'</div><div class="box scroll"><table><thead><tr><th scope="col">pass</th>{heads}</tr></thead>'
        f'<tbody>{rows}</tbody></table><p class="quiet small">Resolution: where the half maps inside the support '
        "correlate by 0.143, before the mask was corrected for. Turned by: the median particle, against the pass "
        "before. Certainty: mean probability of the best orientation among those tried.</p></div></div></section>"
    )


def _course(values: Sequence[float], label: str, colour: str) -> str:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    top = 1.08 * max(finite)
    frame = Frame(52, 10, _WIDTH - 64, _HEIGHT - 56, (0.5, len(values) + 0.5), (0.0, top or 1.0))
    passes = [float(n) for n in range(1, len(values) + 1)]
    every = max(1, math.ceil(len(values) / 12))
    axes = frame.axes(
        "pass",
        label,
        x_ticks=[(n, f"{n:.0f}") for n in passes[::every]],
        y_ticks=marks(ticks(0.0, top or 1.0)),
    )
    dots = "".join(
        f'<circle cx="{frame.at_x(n):.1f}" cy="{frame.at_y(v):.1f}" r="3.5" style="fill:var(--{colour})"/>'
        for n, v in zip(passes, values, strict=True)
        if math.isfinite(v)
    )
    return svg(_WIDTH, _HEIGHT, axes + curve(frame, passes, values, colour, width=2) + dots, f"{label} by pass")


def poses_section(
    probability: NDArray[np.float32], shifts_in_angstroms: NDArray[np.float32], facts: Mapping[str, str]
) -> str:
    """Distributions of certainty and shift over the particles, and what the job did with them.

    Parameters
    ----------
    probability
        (n,) of the best orientation.
    shifts_in_angstroms
        (n,) distance of the particle from the centre of its box.
    facts
        Words to values, shown as a list.
    """
    listed = "".join(f"<tr><th scope='row'>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in facts.items())
    plots = "".join(
        f"<h3>{title}</h3>{_histogram(values, unit)}"
        for title, values, unit in (
            ("Certainty of the orientation", probability, ""),
            ("Distance from the centre of the box", shifts_in_angstroms, "Å"),
        )
    )
    return (
        '<section id="poses"><h2>The particles</h2><div class="grid two"><div class="box">'
        f'{plots}</div><div class="box"><table><tbody>{listed}</tbody></table></div></div></section>'
    )


def _histogram(values: NDArray[np.float32], unit: str) -> str:
    counts, edges = np.histogram(values, bins=32)
    frame = Frame(10, 6, 440, 110, (float(edges[0]), float(edges[-1])), (0.0, float(counts.max() or 1)))
    axes = frame.axes(unit, "", x_ticks=marks(ticks(float(edges[0]), float(edges[-1]))), y_ticks=[])
    bars = "".join(
        f'<rect x="{frame.at_x(left):.1f}" y="{frame.at_y(n):.1f}" width="{frame.width / len(counts) - 1:.1f}" '
        f'height="{frame.top + frame.height - frame.at_y(n):.1f}" style="fill:var(--kept)"/>'
        for left, n in zip(edges[:-1], counts, strict=True)
    )
    return svg(460, 156, axes + bars, "distribution over the particles")
