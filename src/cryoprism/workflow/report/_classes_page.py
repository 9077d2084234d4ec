"""The report of a classification: the classes as a sorted gallery, and what they are judged by."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from cryoprism import __version__
from cryoprism.workflow.jobs.files import write_text

from ._map_pictures import grey, png_source
from ._numbers import escape, plain
from ._plots import Frame, curve, marks, svg, ticks
from ._style import CSS

if TYPE_CHECKING:
    from cryoprism.structure import Classification
    from cryoprism.workflow.particles.classify_session import ClassifySummary

__all__ = ["classes_report"]

_SIDE = 190
_CSS = """
.verdict{font-size:21px;line-height:1.35;font-weight:600;margin:8px 0 4px;max-width:62em}
.classes{display:grid;grid-template-columns:repeat(auto-fill,minmax(176px,1fr));gap:14px}
.class{background:var(--paper);border:1px solid var(--line);border-radius:8px;padding:8px;position:relative}
.class.kept{border:2px solid var(--specimen);padding:7px}
.class img{display:block;width:100%;height:auto;border-radius:4px;background:#000}
.class .line{display:flex;justify-content:space-between;gap:6px;margin-top:5px;font-size:13.5px;white-space:nowrap}
.class .line b{font-weight:650}
.class .line span{color:var(--quiet)}
.class .line .badge{font-size:12px;border-radius:9px;padding:0 8px;background:var(--soft);color:var(--quiet)}
.class.kept .line .badge{background:var(--specimen);color:var(--paper);font-weight:600}
"""


def classes_report(
    folder: Path,
    result: Classification,
    members: Tensor,
    chosen: Tensor,
    summary: ClassifySummary,
    pixel_size_in_angstroms: float,
    least_score: float,
) -> Path:
    """Write ``report.html``: one file that needs no network and no other file.

    Parameters
    ----------
    folder
        Job folder.
    result
        Classes, the largest first.
    members, chosen
        (K,) particles whose likeliest class it is, and whether the class was selected.
    summary
        Counts.
    pixel_size_in_angstroms
        Of the averages.
    least_score
        Of a selected class.
    """
    path = Path(folder) / "report.html"
    title = "Classes of particles"
    body = (
        _head(title, result, summary)
        + f"<main>{_gallery(result, members, chosen, pixel_size_in_angstroms)}"
        + _rule(result, least_score)
        + _curves(result, members, pixel_size_in_angstroms)
        + f"</main><footer><p>Written by CryoPrism {escape(__version__)}. The numbers are in classification.json, the "
        "averages in classes.mrcs.</p></footer>"
    )
    write_text(
        path,
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><style>{CSS}{_CSS}</style></head><body>\n{body}\n</body></html>\n',
    )
    return path


def _head(title: str, result: Classification, summary: ClassifySummary) -> str:
    best = summary.best_resolution_in_angstroms
    share = summary.selected_particles / max(summary.particles, 1)
    verdict = (
        "No class shows structure that independent halves prove."
        if best is None
        else f"{summary.selected_classes} of {summary.classes} classes are good; they hold {100 * share:.0f} % of the "
        "particles."
    )
    facts = [
        (plain(float(summary.particles), len(str(summary.particles))), "particles"),
        (str(summary.classes), "classes with particles"),
        (plain(float(summary.selected_particles), len(str(max(summary.selected_particles, 1)))), "particles selected"),
        ("–" if best is None else f"{best:.1f}\u202fÅ", "best class"),
        (str(summary.iterations), "iterations" + ("" if result.converged else ", stopped by their number")),
    ]
    shown = "".join(f'<div class="fact"><b>{value}</b><span>{words}</span></div>' for value, words in facts)
    return f'<header><h1>{title}</h1><p class="verdict">{verdict}</p><div class="facts">{shown}</div></header>'


def _gallery(result: Classification, members: Tensor, chosen: Tensor, pixel: float) -> str:
    cards = ""
    for i, count in enumerate(members.tolist()):
        if count == 0:
            continue
        resolution = float(result.resolution_in_angstroms[i])
        proven = math.isfinite(resolution)
        words = f"{resolution:.1f}\u202fÅ" if proven else "not resolved"
        kept = bool(chosen[i])
        picture = grey(result.averages[i].numpy().astype(np.float32), size=_SIDE)
        cards += (
            f'<figure class="class{" kept" if kept else ""}"><img src="{png_source(picture)}" width="{_SIDE}" '
            f'alt="class {i + 1}"><div class="line"><b>{i + 1}</b><span>{count} · '
            f"{100 * float(result.fraction[i]):.1f}\u202f%</span></div>"
            f'<div class="line"><b>{words}</b><span>score {float(result.score[i]):.2f}</span></div>'
            f'<div class="line"><span class="badge">{"selected" if kept else "left out"}</span></div></figure>'
        )
    empty = int((members == 0).sum())
    none = f" {empty} classes ended up without particles and are not shown." if empty else ""
    side = result.averages.shape[-1] * pixel
    return (
        f'<section id="classes"><h2>The classes, largest first</h2><div class="classes">{cards}</div>'
        f'<p class="quiet small">Each picture is {side:.0f} Å wide, protein is bright, and each has its own grey '
        f"scale. Under it: number, particles and their share, resolution, score.{none}</p></section>"
    )


def _rule(result: Classification, least_score: float) -> str:
    joint = result.joint_resolution_in_angstroms
    return (
        '<section id="rule"><h2>How they are judged</h2><div class="box"><p>The particles were split into two halves. '
        f"Up to {joint:.0f} Å both were compared with the same averages; there even noise takes on the shape of what "
        "it is compared with, so agreement proves nothing. Beyond it each half only ever saw averages of its "
        f"own. There the halves agree by {plain(result.proof, 2)} standard deviations of pure noise, all classes "
        "together; 3.5 prove that there are particles. Without that no class gets a resolution and none is selected. "
        "The resolution is where the agreement of a class falls below 0.143, or below two standard deviations of "
        "noise where that is more.</p>"
        f"<p>The score is the mean correlation of the halves from {joint:.0f} Å to the resolution of the best class; "
        f"noise has 0. Selected are classes with a score of at least {least_score:g}. Larger classes score higher: a "
        "small class that looks right may be worth keeping by hand.</p></div></section>"
    )


def _curves(result: Classification, members: Tensor, pixel: float) -> str:
    side = result.averages.shape[-1] * pixel
    shells = np.arange(result.frc.shape[1])
    frame = Frame(52, 12, 480, 240, (0.0, float(shells[-1] / side)), (-0.1, 1.02))
    places = [(v, f"{1 / v:.3g}") for v in ticks(0.0, frame.x[1], 6) if v > 0]
    parts = [
        frame.axes(
            "resolution [Å]",
            "correlation of the halves",
            x_ticks=places,
            y_ticks=[(v, f"{v:.1f}") for v in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)],
        )
    ]
    x = frame.at_x(1 / result.joint_resolution_in_angstroms)
    parts.append(
        f'<rect x="{frame.left}" y="{frame.top}" width="{x - frame.left:.1f}" height="{frame.height}" '
        'style="fill:var(--quiet)" opacity="0.12"/>'
    )
    for i in reversed(range(len(members))):
        if int(members[i]):
            proven = math.isfinite(float(result.resolution_in_angstroms[i]))
            values = result.frc[i].double().numpy()
            last = int(np.flatnonzero(values)[-1]) + 1
            colour = "specimen" if proven else "kept"
            parts.append(curve(frame, shells[1:last] / side, values[1:last], colour, width=1.2))
    first = svg(545, 300, "".join(parts), "Correlation of the halves of each class against resolution")
    trace = result.trace.double().numpy()
    span = (float(min(0.0, trace.min())), float(trace.max()) * 1.05 or 1.0)
    frame = Frame(56, 12, 480, 240, (1.0, float(max(2, trace.size))), span)
    body = frame.axes(
        "iteration",
        "log-likelihood over noise",
        x_ticks=marks([v for v in ticks(1, frame.x[1], 6) if v == int(v)]),
        y_ticks=marks(ticks(*span, 5)),
    ) + curve(frame, np.arange(1, trace.size + 1), trace, "scattering", width=2.0)
    second = svg(545, 300, body, "Mean log-likelihood of a particle over noise alone against iteration")
    return (
        '<section id="curves"><h2>Halves and course</h2><div class="grid two">'
        f'<div class="box"><h3>Do the halves agree?</h3>{first}<p class="quiet small">Green: classes with a '
        "resolution. Shaded: where the halves shared their averages.</p></div>"
        f'<div class="box"><h3>Did it converge?</h3>{second}<p class="quiet small">Mean over the particles. It jumps '
        "where finer detail is let in.</p></div></div></section>"
    )
