"""The page of ``impact train``: which model foretells best, and what forecasts and their intervals look like."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ._numbers import escape
from ._score_page import Row, interval_chart, plain_page

__all__ = ["impact_report"]

#: Citations that are marked on the axis, which is logarithmic in 1 + citations.
_COUNTS: Final = (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)


def impact_report(folder: Path, content: Mapping[str, Any], *, predicted: Sequence[tuple[float, float, float]]) -> Path:
    """Write ``report.html``.

    Parameters
    ----------
    folder
        Of the job.
    content
        Of ``impact.json``.
    predicted
        Some works, from the least to the most cited: expected citations, lower and upper end.
    """
    sections = [_models(content["works"], "Citations")]
    if content["patents"] is not None:
        sections.append(_models(content["patents"], "Citations by patents"))
    rows: list[Row] = [
        (f"{expected:.1f} expected", [(math.log1p(expected), math.log1p(low), math.log1p(high), "aberrations")])
        for expected, low, high in predicted
    ]
    most = max((high for _, _, high in predicted), default=0.0)
    places = [(math.log1p(count), f"{count:,}".replace(",", "\u202f")) for count in _COUNTS if count <= most]
    chart = interval_chart(rows, "citations in five years", "some forecasts with their intervals", x_ticks=places)
    sections.append(
        f'<section><h2>From the least to the most cited</h2><div class="box">{chart}<p class="quiet small">Works from '
        "all over the range, 95 % conformal intervals.</p></div></section>"
    )
    return plain_page(
        folder,
        title="Forecast of citations",
        sentences=content["sentences"],
        facts={"works with a forecast": str(content["forecasts"]), "forecast from": f"{content['until']:.1f}"},
        sections="".join(sections),
        footer="impact.json holds the numbers, forecasts.sqlite every forecast.",
    )


def _models(told: Mapping[str, Any], heading: str) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="number">{error:.3f}</td>'
        f'<td class="number">{_span(told["mean_absolute_error_interval"][name])}</td>'
        f'<td class="number">{_behind(told["behind_the_chosen"][name], name == told["chosen"])}</td></tr>'
        for name, error in told["mean_absolute_error_of_log1p"].items()
    )
    count, held = told["works"], told["held_out_coverage"]
    return (
        f'<section><h2>{heading}</h2><div class="box"><table class="compact"><caption>Trained on {count["training"]} '
        f"works of earlier years; chosen by {count['choosing']} works from before {told['validation_moment']:.1f}, the "
        f"intervals from {count['intervals']} others of them.</caption><thead><tr><th>model</th>"
        '<th class="number">mean absolute error of ln(1 + c)</th><th class="number">95 %</th>'
        '<th class="number">more than that which is used (95 %)</th></tr></thead>'
        f'<tbody>{rows}</tbody></table><p class="quiet small">Of {held["works"]} works that neither trained nor chose '
        f"the model the 95 % intervals held {100 * held['share']:.1f} % ({100 * held['low']:.1f} to "
        f"{100 * held['high']:.1f} %), each work by the residuals of the others; years to come can differ.</p></div>"
        "</section>"
    )


def _span(ends: Sequence[float]) -> str:
    return f"{ends[0]:.3f} to {ends[1]:.3f}"


def _behind(values: Sequence[float], used: bool) -> str:
    return "used" if used else f"{values[0]:+.3f} ({values[1]:+.3f} to {values[2]:+.3f})"
