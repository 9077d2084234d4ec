"""Pages of ``weights learn`` and ``weights explain``: intervals, and quality measured against foretold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cryoprism import __version__
from cryoprism.evaluation.fusion import SYMBOLS, QualityRegression
from cryoprism.workflow.jobs.files import write_text

from ._map_plots import legend
from ._numbers import escape
from ._plots import Frame, curve, marks, svg, ticks
from ._style import CSS

__all__ = ["interval_chart", "plain_page", "quality_report", "scatter", "weights_report"]

_WIDTH: Final = 560
_ROW: Final = 34
_DOTS: Final = 4000
_FEW: Final = 300

#: Label, and value, lower and upper end with the colour of each of its bars.
Row = tuple[str, Sequence[tuple[float, float, float, str]]]


def interval_chart(
    rows: Sequence[Row], label: str, words: str, *, x_ticks: Sequence[tuple[float, str]] | None = None
) -> str:
    """Values with their intervals, one row each; a line at 0; ``x_ticks`` are values with their text."""
    ends = [end for _, bars in rows for bar in bars for end in bar[:3]]
    low, high = min(0.0, *ends), max(0.0, *ends)
    room = 0.04 * ((high - low) or 1.0)
    height = _ROW * len(rows)
    frame = Frame(210, 6, _WIDTH - 226, height, (low - (room if low < 0 else 0), high + room), (0, 1))
    parts = [frame.axes(label, "", x_ticks=marks(ticks(*frame.x, 6)) if x_ticks is None else x_ticks, y_ticks=[])]
    parts.append(f'<path class="axis" d="M{frame.at_x(0):.1f} {frame.top:g}v{frame.height:g}"/>')
    for number, (name, bars) in enumerate(rows):
        middle = frame.top + _ROW * (number + 0.5)
        parts.append(f'<text x="{frame.left - 8:g}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        for place, (value, lower, upper, colour) in enumerate(bars):
            y = middle + 9 * (place - (len(bars) - 1) / 2)
            parts.append(
                f'<path d="M{frame.at_x(lower):.1f} {y:.1f}H{frame.at_x(upper):.1f}" stroke-width="2.4" '
                f'style="stroke:var(--{colour})"/><circle cx="{frame.at_x(value):.1f}" cy="{y:.1f}" r="3.6" '
                f'style="fill:var(--{colour})"/>'
            )
    return svg(_WIDTH, height + 48, "".join(parts), words)


def scatter(x: NDArray[np.float64], y: NDArray[np.float64], x_label: str, y_label: str, words: str) -> str:
    """Points with the line of equality; a share of them where there are many, large ones where there are few."""
    step = max(1, len(x) // _DOTS)
    width, opacity = (3, 0.35) if len(x) > _FEW else (7, 0.8)
    low = float(min(np.quantile(x, 0.001), np.quantile(y, 0.001)))
    high = float(max(np.quantile(x, 0.999), np.quantile(y, 0.999)))
    frame = Frame(62, 10, 360, 300, (low, high), (low, high))
    places = marks(ticks(low, high, 5))
    parts = [frame.axes(x_label, y_label, x_ticks=places, y_ticks=places)]
    dots = "".join(
        f"M{frame.at_x(min(max(a, low), high)):.1f} {frame.at_y(min(max(b, low), high)):.1f}h0"
        for a, b in zip(x[::step], y[::step], strict=True)
    )
    parts.append(
        f'<path d="{dots}" style="stroke:var(--noise)" stroke-width="{width}" stroke-linecap="round" '
        f'fill="none" opacity="{opacity}"/>'
    )
    parts.append(curve(frame, [low, high], [low, high], "fitted"))
    return svg(440, 354, "".join(parts), words)


def plain_page(
    folder: Path, *, title: str, sentences: Sequence[str], facts: Mapping[str, str], sections: str, footer: str
) -> Path:
    """Write ``report.html`` with the verdict first, facts, sections of HTML and a footer."""
    first = "".join(f"<li>{escape(text)}</li>" for text in sentences)
    listed = "".join(
        f'<div class="fact"><b>{escape(value)}</b><span>{escape(words)}</span></div>' for words, value in facts.items()
    )
    path = Path(folder) / "report.html"
    write_text(
        path,
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><style>{CSS}</style></head><body><header><h1>{escape(title)}</h1>'
        f'<ul class="headline">{first}</ul><div class="facts">{listed}</div></header><main>{sections}</main>'
        f"<footer><p>Written by CryoPrism {escape(__version__)}. {escape(footer)}</p></footer></body></html>\n",
    )
    return path


def weights_report(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write the page of ``weights learn`` from the content of its ``weights.json``."""
    prior = content.get("prior", content)["weights"]
    rows: list[Row] = []
    for name, one in content["weights"].items():
        before = prior[name]
        rows.append(
            (
                f"{name} ({SYMBOLS[name]})",
                [
                    (before["weight"], before["lower"], before["upper"], "kept"),
                    (one["weight"], one["lower"], one["upper"], "aberrations"),
                    (*(3 * [content["policy_gradient"][name]]), "noise"),
                ],
            )
        )
    chart = interval_chart(rows, "weight", "weights before and after the judgements")
    keys = legend(
        [("kept", "before any judgement"), ("aberrations", "Bradley–Terry"), ("noise", "policy gradient, a check")]
    )
    listed = "".join(
        f'<tr><th scope="row">{escape(name or "not named")}</th><td class="number">{one["judgements"]}</td>'
        f'<td class="number">{one["decided"]}</td><td class="number">{one["agreed"]}</td></tr>'
        for name, one in content["judges"].items()
    )
    judges = (
        '<section><h2>Judges</h2><div class="box"><table class="compact"><thead><tr><th>judge</th><th class="number">'
        'judgements</th><th class="number">no ties</th><th class="number">V agrees</th></tr></thead>'
        f"<tbody>{listed}</tbody></table></div></section>"
    )
    shape = content["shape"]
    facts = {
        "judgements": str(content["judgements"]),
        "needed before the weights are used": str(content["judgements_needed"]),
        "β, γ, κ in use": f"{shape['beta']:.3g}, {shape['gamma']:.3g}, {shape['kappa']:.3g}",
    }
    sections = f'<section><h2>Weights</h2><div class="box">{chart}{keys}</div></section>{judges if listed else ""}'
    return plain_page(
        folder,
        title="Weights of the score",
        sentences=content["sentences"],
        facts=facts,
        sections=sections,
        footer="Bars are 95 % intervals; weights.json holds every number of this page.",
    )


def quality_report(folder: Path, found: QualityRegression, *, quality: NDArray[np.float64], name: str) -> Path:
    """Write the page of ``weights explain``."""
    rows: list[Row] = [(one.name, [(one.value, one.lower, one.upper, "aberrations")]) for one in found.coefficients]
    chart = interval_chart(rows, "standard deviations of quality for one of the column", "coefficients")
    points = scatter(
        found.predicted, quality, f"{name}, foretold", f"{name}, measured", f"{name} measured against foretold"
    )
    low, high = found.explained_interval
    facts = {
        "rows": str(found.rows),
        "variance explained on rows not fitted": f"{100 * found.explained:.0f} % ({100 * low:.0f} to {100 * high:.0f})",
    }
    sections = (
        '<section><div class="grid two"><div class="box"><h3>What quality goes with, all others held</h3>'
        f'{chart}</div><div class="box"><h3>Measured against foretold</h3>{points}</div></div></section>'
    )
    return plain_page(
        folder,
        title=f"Weights and {name}",
        sentences=found.sentences,
        facts=facts,
        sections=sections,
        footer="Bars are 95 % intervals over rows drawn with replacement; quality.json holds the numbers.",
    )
