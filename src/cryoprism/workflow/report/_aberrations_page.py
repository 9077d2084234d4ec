"""The report of ``ctf-refine``: what changed in the defocus, the beam tilt, and what motion left of the signal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from cryoprism import __version__
from cryoprism.structure import AstigmatismRefinement, BeamTilt, DefocusRefinement, MicrographSignal
from cryoprism.workflow.jobs.files import write_text

from ._aberrations_plots import change_histogram, micrograph_changes, tilt_plane
from ._map_plots import legend
from ._model_page import STAGE_CSS
from ._numbers import UNKNOWN, escape, plain, with_error
from ._style import CSS, SCRIPT

__all__ = ["aberrations_report"]


def aberrations_report(
    folder: Path,
    *,
    title: str,
    sentences: Sequence[str],
    warnings: Sequence[str],
    facts: dict[str, str],
    micrograph: Sequence[int],
    names: Sequence[str],
    tilts: Sequence[BeamTilt] = (),
    defocus: DefocusRefinement | None = None,
    astigmatism: AstigmatismRefinement | None = None,
    signal: MicrographSignal | None = None,
) -> Path:
    """Write ``report.html`` of a refinement of aberrations.

    Parameters
    ----------
    folder
        Job folder.
    title, sentences, warnings, facts
        Heading, what was found and what to be careful about in words, and words to values.
    micrograph
        (n,) number of each particle's micrograph.
    names
        (m,) of the micrographs.
    tilts, defocus, astigmatism, signal
        What was refined; what was not has no section.
    """
    numbers = np.asarray(micrograph, dtype=int)
    notices = "".join(f'<p class="notice"><b>Careful:</b> {escape(text)}</p>' for text in warnings)
    listed = "".join(
        f'<div class="fact"><b>{escape(value)}</b><span>{escape(words)}</span></div>' for words, value in facts.items()
    )
    first = "".join(f"<li>{escape(text)}</li>" for text in sentences)
    sections = "".join(
        (
            "" if defocus is None else _defocus(defocus, numbers),
            _tilts(tilts) if tilts else "",
            _table(names, numbers, defocus, astigmatism, signal),
        )
    )
    body = (
        f'<header><h1>{escape(title)}</h1><ul class="headline">{first}</ul>{notices}<div class="facts">{listed}</div>'
        f"</header><main>{sections}</main><footer><p>Written by CryoPrism {escape(__version__)}. ± is one standard "
        "deviation. What the data do not determine keeps the value that the table had.</p></footer>"
    )
    path = Path(folder) / "report.html"
    write_text(
        path,
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><style>{CSS}{STAGE_CSS}</style></head><body>\n{body}\n<script>{SCRIPT}</script>'
        "</body></html>\n",
    )
    return path


def _defocus(defocus: DefocusRefinement, micrograph: np.ndarray) -> str:
    determined = defocus.determined.numpy()
    offset = defocus.offset_in_angstroms.double().numpy()
    keys = legend([("aberrations", "determined by the particle itself"), ("kept", "as its micrograph, or unchanged")])
    means = legend(
        [
            ("aberrations", "mean change of a micrograph ± one standard deviation"),
            ("image", "not determined: 0 is kept"),
            ("kept", "its particles"),
        ]
    )
    return (
        '<section id="defocus"><h2>Change of defocus</h2><div class="grid two"><div class="box"><h3>Of the particles'
        f"</h3>{change_histogram(offset, determined)}{keys}"
        '<p class="quiet small">Positive: further underfocus than before.</p></div><div class="box"><h3>By micrograph'
        f"</h3>{micrograph_changes(defocus, micrograph)}{means}</div></div></section>"
    )


def _tilts(tilts: Sequence[BeamTilt]) -> str:
    rows = ""
    for tilt in tilts:
        (x, y), (sx, sy) = tilt.beam_tilt_in_milliradians, tilt.standard_deviation_in_milliradians
        outcome = "applied" if tilt.determined else "not determined: the old value is kept"
        rows += (
            f'<tr{"" if tilt.determined else " class=abstained"}><th scope="row">{tilt.group}</th>'
            f'<td class="number">{tilt.particles}</td><td class="number">{with_error(x, sx)}</td>'
            f'<td class="number">{with_error(y, sy)}</td><td class="number">{tilt.significance:.1f}</td>'
            f'<td class="number">{plain(tilt.scatter, 3)}</td><td>{outcome}</td></tr>'
        )
    heads = ("particles", "tilt x [mrad]", "tilt y [mrad]", "significance", "scatter")
    head = "".join(f'<th scope="col" class="number">{name}</th>' for name in heads)
    return (
        '<section id="tilt"><h2>Beam tilt</h2><div class="grid two"'
        ' style="grid-template-columns:minmax(0,420px) minmax(0,1fr)"><div class="box">'
        f"{tilt_plane(tilts)}"
        + legend([("aberrations", "optics group, with one and three standard deviations"), ("image", "not determined")])
        + '</div><div class="box scroll"><table><thead><tr><th scope="col">optics group</th>'
        f'{head}<th scope="col">outcome</th></tr></thead><tbody>{rows}</tbody></table><p class="quiet small">'
        "Significance: standard deviations from no tilt; 3 are needed. Scatter: variance of the phases over what noise "
        "makes; far above 1 something else is wrong with them.</p></div></div></section>"
    )


def _table(
    names: Sequence[str],
    micrograph: np.ndarray,
    defocus: DefocusRefinement | None,
    astigmatism: AstigmatismRefinement | None,
    signal: MicrographSignal | None,
) -> str:
    columns: list[tuple[str, list[tuple[float, str]]]] = []
    counts = np.bincount(micrograph, minlength=len(names)).tolist()
    columns.append(("particles", [(float(count), str(count)) for count in counts]))

    def measured(title: str, values: list[float], deviations: list[float], determined: list[bool]) -> None:
        cells = [
            (value, with_error(value, deviation) if known else UNKNOWN)
            for value, deviation, known in zip(values, deviations, determined, strict=True)
        ]
        columns.append((title, cells))

    if defocus is not None:
        measured(
            "change of defocus [Å]",
            defocus.micrograph_offset_in_angstroms.tolist(),
            defocus.micrograph_standard_deviation_in_angstroms.tolist(),
            defocus.micrograph_determined.tolist(),
        )
    if astigmatism is not None:
        for part, title in enumerate(("mean defocus [Å]", "astigmatism along 0° [Å]", "along 45° [Å]")):
            measured(
                title,
                astigmatism.change_in_angstroms[:, part].tolist(),
                astigmatism.standard_deviation_in_angstroms[:, part].tolist(),
                astigmatism.determined[:, part].tolist(),
            )
    if signal is not None:
        every = [True] * len(names)
        measured("signal", signal.scale.tolist(), signal.scale_deviation.tolist(), every)
        measured(
            "B-factor [Å²]", signal.b_factor_in_square_angstroms.tolist(), signal.b_factor_deviation.tolist(), every
        )
        measured(
            "drift [Å]",
            signal.drift_in_angstroms.norm(dim=1).tolist(),
            signal.drift_deviation.tolist(),
            signal.drift_determined.tolist(),
        )
    head = "".join(
        f'<th scope="col" class="number"><button type="button">{escape(title)}</button></th>' for title, _ in columns
    )
    rows = "".join(
        f'<tr><td class="number">{number + 1}</td><th scope="row">{escape(PurePosixPath(name).name)}</th>'
        + "".join(
            f'<td class="number"><data value="{cells[number][0]:.6g}">{cells[number][1]}</data></td>'
            for _, cells in columns
        )
        + "</tr>"
        for number, name in enumerate(names)
    )
    return (
        '<section id="micrographs"><h2>Micrographs</h2><div class="box tall"><table class="compact sortable"><thead>'
        '<tr><th scope="col" class="number">no.</th><th scope="col"><button type="button">micrograph</button></th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        f'<p class="quiet small">{UNKNOWN}: the data do not determine it.'
        + ("" if signal is None else " Signal (at low resolution), B-factor and drift are relative to the half maps.")
        + "</p></section>"
    )
