"""The report of an initial model: what it looks like, and how it came to be chosen among the starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cryoprism import __version__
from cryoprism.core import InputError
from cryoprism.formats import Volume
from cryoprism.structure import mask_from_map, soft_sphere
from cryoprism.workflow.jobs.files import write_text

from ._map_pictures import (
    SIZE,
    central_slices,
    grey,
    png_source,
    projections,
    render_surface,
    surface_level,
    window_of,
    without_dust,
)
from ._numbers import escape, plain
from ._style import CSS

__all__ = ["STAGE_CSS", "model_report", "model_sections"]

STAGE_CSS = """
.verdict{font-size:21px;line-height:1.35;font-weight:600;margin:8px 0 4px;max-width:62em}
.three{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:14px}
.three img{display:block;width:100%;height:auto;border-radius:6px}
.three .dark img{background:#000}
"""


def model_report(
    folder: Path,
    volume: Volume,
    *,
    title: str,
    verdict: str,
    diameter_in_angstroms: float,
    facts: Mapping[str, str],
    scores: Sequence[float],
    chosen: int,
) -> Path:
    """Write ``report.html`` of an initial model.

    Parameters
    ----------
    folder
        Job folder.
    volume
        The model.
    title, verdict
        Heading, and the outcome in a sentence.
    diameter_in_angstroms
        Of the particle.
    facts
        Words to values.
    scores, chosen
        Mean log evidence of a particle for every start, and which one was kept (from 0).
    """
    path = Path(folder) / "report.html"
    listed = "".join(
        f'<div class="fact"><b>{escape(value)}</b><span>{escape(words)}</span></div>' for words, value in facts.items()
    )
    rows = "".join(
        f'<tr><th scope="row">start {i + 1}{" (kept)" if i == chosen else ""}</th>'
        f'<td class="number">{plain(score, 4)}</td></tr>'
        for i, score in enumerate(scores)
    )
    table = (
        '<section id="starts"><h2>The starts</h2><div class="box"><table><thead><tr><th scope="col">start</th>'
        f'<th scope="col" class="number">log evidence of a particle</th></tr></thead><tbody>{rows}</tbody></table>'
        '<p class="small">Every start begins from other noise. Starts that end at about the same value have most '
        "likely found the same molecule; the mirror image of a model explains particles just as well, so the hand is "
        "not known.</p></div></section>"
    )
    body = (
        f'<header><h1>{escape(title)}</h1><p class="verdict">{escape(verdict)}</p>'
        f'<div class="facts">{listed}</div></header>'
        f"<main>{model_sections(volume, diameter_in_angstroms)}{table}</main>"
        f"<footer><p>Written by CryoPrism {escape(__version__)}. A starting point: refine it.</p></footer>"
    )
    write_text(
        path,
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><style>{CSS}{STAGE_CSS}</style></head><body>\n{body}\n</body></html>\n',
    )
    return path


def model_sections(volume: Volume, diameter_in_angstroms: float) -> str:
    """Surfaces, slices and projections of a map along its three axes, as HTML sections."""
    voxel = volume.voxel_size_in_angstroms
    z, y, x = (int(n) for n in volume.data.shape)
    try:
        mask = mask_from_map(volume.data, voxel).data
    except InputError:  # no molecule stands out: show all that may be one
        mask = soft_sphere((z, y, x), voxel, 0.5 * diameter_in_angstroms)
    window = window_of(volume.data, mask)
    data, inside = volume.data[window], (volume.data * mask)[window]
    level = surface_level(volume.data, mask)
    solid = without_dust(inside, level)
    words = ("along z", "along y", "along x")

    def row(pictures: Sequence[str], kind: str, dark: str) -> str:
        shown = "".join(
            f'<figure class="{dark}"><img src="{source}" width="{SIZE}" alt="{kind} {axis}">'
            f"<figcaption>{kind} {axis}</figcaption></figure>"
            for source, axis in zip(pictures, words, strict=True)
        )
        return f'<div class="three" style="margin-bottom:12px">{shown}</div>'

    low, high = np.quantile(data.float().cpu().numpy(), (0.005, 0.997))
    surfaces = [png_source(render_surface(solid, level, view).picture) for view in range(3)]
    slices = [png_source(grey(picture, low=float(low), high=float(high))) for picture in central_slices(data)]
    sums = [png_source(grey(picture)) for picture in projections(inside)]
    return (
        '<section id="model"><h2>What it looks like</h2><div class="box">'
        f"{row(surfaces, 'Surface', '')}{row(slices, 'Slice', 'dark')}{row(sums, 'Projection', 'dark')}"
        f'<p class="quiet small">Surface at level {level:.3g}; each picture is {max(data.shape) * voxel:.0f} Å wide; '
        "protein is bright.</p></div></section>"
    )
