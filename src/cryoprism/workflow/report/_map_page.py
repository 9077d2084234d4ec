"""The report of a map: the verdict first, then pictures, and every curve behind the verdict."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cryoprism import __version__
from cryoprism.core import point_group_matrices
from cryoprism.workflow.jobs.files import write_text

from ._map_pictures import (
    SIZE,
    central_slices,
    colour_ramp,
    grey,
    png_source,
    projections,
    render_surface,
    surface_level,
    tinted,
    window_of,
    without_dust,
)
from ._map_plots import colour_bar, direction_globe, fsc_plot, guinier_figure, resolution_histogram, viewing_globe
from ._numbers import UNKNOWN, escape, plain
from ._style import CSS

if TYPE_CHECKING:
    from cryoprism.workflow.maps.resolution import ResolutionSummary

__all__ = ["map_report", "map_sections"]

_MAP_CSS = """
.verdict{font-size:21px;line-height:1.35;font-weight:600;margin:8px 0 4px;max-width:62em}
.facts{grid-template-columns:repeat(auto-fit,minmax(250px,1fr))}
.three{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:14px}
.three img{display:block;width:100%;height:auto;border-radius:6px}
.three .dark img{background:#000}
.wide{grid-template-columns:minmax(0,3fr) minmax(0,2fr)}
.bar-line{display:flex;justify-content:center;margin-top:6px}
pre{background:var(--soft);border-radius:6px;padding:10px 12px;overflow-x:auto;font-size:13px;margin:8px 0}
@media (max-width:900px){.wide{grid-template-columns:minmax(0,1fr)}}
"""
_LAYOUT = (
    "along z: x to the right, y up",
    "along y: x to the right, z up",
    "along x: y to the right, z up",
)


def map_report(folder: Path, summary: ResolutionSummary, *, title: str, extra: str = "") -> Path:
    """Write ``report.html``: one file that needs no network and no other file.

    Parameters
    ----------
    folder
        Job folder.
    summary
        What the half maps say.
    title
        Heading.
    extra
        HTML sections of the calling job (how the refinement went …), placed behind the map's own.

    Returns
    -------
    Path
        The page. It is written whole or not at all.
    """
    path = Path(folder) / "report.html"
    body = f"{_head(title, summary)}<main>{map_sections(summary)}{extra}</main>{_foot()}"
    write_text(
        path,
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><style>{CSS}{_MAP_CSS}</style></head><body>\n{body}\n</body></html>\n',
    )
    return path


def map_sections(summary: ResolutionSummary) -> str:
    """HTML sections of a map, for a page that has the styles of :func:`map_report`."""
    span = _span(summary)
    sections = [_surfaces(summary, span), _fsc(summary), _slices(summary)]
    sections += [_places(summary, span), _directions(summary), _guinier(summary), _opening(summary, span)]
    return "".join(sections)


def _span(summary: ResolutionSummary) -> tuple[float, float] | None:
    if summary.local is None:
        return None
    low, high = torch.quantile(summary.local.points, torch.tensor([0.02, 0.98])).tolist()
    return float(low), float(max(high, low + 0.5))


def _angstroms(value: float | None, at_nyquist: bool = False) -> str:
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f'<data value="{value!r}">{"≤ " if at_nyquist else ""}{value:.2f}\u202fÅ</data>'


def _head(title: str, summary: ResolutionSummary) -> str:
    sentences = summary.sentences()
    crossing = summary.fsc.crossing()
    box = " × ".join(str(n) for n in reversed(summary.mean.data.shape))
    b_factor = summary.sharpening.weighted.b_factor_in_square_angstroms
    # A curve that never falls, for noise that the halves share, gives no figure.
    endless = crossing.at_nyquist and summary.few is not None
    facts = [
        (
            UNKNOWN if endless else _angstroms(crossing.resolution_in_angstroms, crossing.at_nyquist),
            "resolution, FSC = 0.143 corrected",
        ),
        (_angstroms(summary.fsc.crossing("unmasked").resolution_in_angstroms), "without any mask"),
        (_angstroms(summary.fsc.crossing("corrected", 0.5).resolution_in_angstroms), "at FSC = 0.5"),
        (UNKNOWN if b_factor is None else f"{plain(b_factor, 3)}\u202fÅ²", "B-factor for sharpening"),
    ]
    if summary.particles_count is not None:
        facts.append((plain(float(summary.particles_count), len(str(summary.particles_count))), "particles"))
    facts.append((escape(summary.symmetry), "symmetry"))
    facts.append((f"{summary.mean.voxel_size_in_angstroms:.4g}\u202fÅ", f"voxel, box of {box}"))
    if summary.model is not None:
        facts.append((f"{summary.model.q_score:.2f}", "mean Q-score of the model"))
    shown = "".join(f'<div class="fact"><b>{value}</b><span>{words}</span></div>' for value, words in facts)
    warnings = "".join(f'<p class="notice"><b>Careful:</b> {escape(text)}</p>' for text in summary.warnings)
    rest = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences[1:])
    more = f'<div class="box"><ul class="todo">{rest}</ul></div>' if rest else ""
    return (
        f'<header><h1>{escape(title)}</h1><p class="verdict">{escape(sentences[0])}</p>{warnings}'
        f'<div class="facts">{shown}</div>{more}</header>'
    )


def _foot() -> str:
    return (
        f"<footer><p>Written by CryoPrism {escape(__version__)} from resolution.json and the maps beside it. "
        "Resolution is "
        "computed from half maps that were never filtered or denoised.</p></footer>"
    )


def _figure(source: str, caption: str, description: str, kind: str = "") -> str:
    return (
        f'<figure class="{kind}"><img src="{source}" width="{SIZE}" alt="{escape(description)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _surfaces(summary: ResolutionSummary, span: tuple[float, float] | None) -> str:
    window = window_of(summary.mask, summary.mask)
    level = surface_level(summary.sharpening.data, summary.mask)
    volume = without_dust((summary.sharpening.data * summary.mask)[window], level)
    colour = summary.local.data[window] if summary.local is not None else None
    figures = ""
    for view, words in enumerate(_LAYOUT):
        seen = render_surface(volume, level, view, colour_by=colour, colour_range=span or (0.0, 1.0))
        figures += _figure(png_source(seen.picture), f"Seen {words}", f"surface of the map {words}")
    bar = f'<div class="bar-line">{colour_bar(span, "local resolution [Å]")}</div>' if span is not None else ""
    return (
        f'<section id="surface"><h2>What it looks like</h2><div class="box"><div class="three">{figures}</div>{bar}'
        f'<p class="quiet small">Surface of the {_treated(summary)} map inside the mask at level {level:.3g}.</p>'
        "</div></section>"
    )


def _treated(summary: ResolutionSummary) -> str:
    """Say what was done to the map that is shown."""
    if summary.resolution_in_angstroms is None:
        return "untreated"
    return "weighted" if summary.sharpening.weighted.b_factor_in_square_angstroms is None else "sharpened"


def _slices(summary: ResolutionSummary) -> str:
    window = window_of(summary.mask, summary.mask, margin=8)
    data = summary.sharpening.data[window]
    shown = summary.mean.data[window] if summary.resolution_in_angstroms is None else data
    # One scale for the three, so that they can be compared.
    values = shown[(summary.mask[window] > 0.5)] if bool((summary.mask[window] > 0.5).any()) else shown
    low, high = np.quantile(values.float().cpu().numpy(), (0.005, 0.997))
    first = "".join(
        _figure(png_source(grey(picture, low=float(low), high=float(high))), f"Slice {words}", "central slice", "dark")
        for picture, words in zip(central_slices(shown), _LAYOUT, strict=True)
    )
    inside = shown * summary.mask[window]
    second = "".join(
        _figure(png_source(grey(picture)), f"Projection {words}", "projection", "dark")
        for picture, words in zip(projections(inside), _LAYOUT, strict=True)
    )
    side = max(data.shape) * summary.mean.voxel_size_in_angstroms
    return (
        '<section id="slices"><h2>Slices and projections</h2><div class="box">'
        f'<div class="three">{first}</div><div class="three" style="margin-top:12px">{second}</div>'
        f'<p class="quiet small">Central slices of the {_treated(summary)} map, and its sums along the three axes '
        "inside the mask. "
        f"Each picture is {side:.0f} Å wide; protein is bright.</p></div></section>"
    )


def _fsc(summary: ResolutionSummary) -> str:
    fsc = summary.fsc
    rows = ""
    curves = (("unmasked", "unmasked"), ("masked", "masked"), ("corrected", "corrected for the mask"))
    for name, words in curves:
        cells = ""
        for threshold in (0.143, 0.5):
            crossing = fsc.crossing(name, threshold)
            cells += f'<td class="number">{_angstroms(crossing.resolution_in_angstroms, crossing.at_nyquist)}</td>'
        rows += f'<tr><th scope="row">{words}</th>{cells}</tr>'
    if summary.model is not None:
        agreed = _angstroms(summary.model.crossing().resolution_in_angstroms)
        rows += f'<tr><th scope="row">map against model</th><td></td><td class="number">{agreed}</td></tr>'
    randomised = fsc.randomised_beyond_in_angstroms
    words = (
        f"Phases were randomised beyond {randomised:.1f} Å, separately in each half: what still correlates there is "
        "the "
        "mask's doing and is taken off."
        if randomised is not None
        else "The effect of the mask was not measured."
    )
    made = "as given" if summary.mask_given else summary.mask_made
    order = int(point_group_matrices(summary.symmetry).shape[0])
    model = None if summary.model is None else summary.model.fsc
    return (
        '<section id="fsc"><h2>How far the halves agree</h2><div class="grid wide"><div class="box">'
        f"{fsc_plot(fsc, model=model, symmetry_order=order)}</div>"
        '<div class="box"><table><thead><tr><th scope="col">curve</th><th scope="col" class="number">FSC = 0.143</th>'
        f'<th scope="col" class="number">FSC = 0.5</th></tr></thead><tbody>{rows}</tbody></table>'
        f'<p class="small">Two maps were made from two halves of the particles. Where their Fourier shells correlate, '
        f"there is structure that both have; where they do not, there is noise. {words}</p>"
        f'<p class="quiet small">The mask ({made}) lets {100 * summary.mask_fraction:.0f} % of the box through; it is '
        "mask.mrc: look at it together with the map.</p></div></div></section>"
    )


def _places(summary: ResolutionSummary, span: tuple[float, float] | None) -> str:
    if summary.local is None or span is None:
        return ""
    window = window_of(summary.mask, summary.mask)
    inside, values = summary.sharpening.data[window] * summary.mask[window], summary.local.data[window]
    figures = ""
    low, high = np.quantile(inside[summary.mask[window] > 0.5].float().cpu().numpy(), (0.05, 0.99))
    slices = (central_slices(part) for part in (inside, values, summary.mask[window]))
    for picture, local, cover, words in zip(*slices, _LAYOUT, strict=True):
        base = grey(picture, low=float(low), high=float(high))
        share = grey(local, low=span[0], high=span[1]) / 255
        seen = tinted(base, colour_ramp(share), (grey(cover, low=0.0, high=1.0) / 255).astype(np.float32))
        figures += _figure(png_source(seen), f"Slice {words}", "local resolution", "dark")
    histogram = resolution_histogram(summary.local.points.cpu(), span, summary.resolution_in_angstroms)
    middle = float(summary.local.points.median())
    return (
        f'<section id="local"><h2>Resolution by place</h2><div class="box"><div class="three">{figures}</div>'
        f'<div class="grid two" style="margin-top:12px;align-items:center"><div>{histogram}</div><div>'
        f"<p>Half of the molecule is better than {middle:.1f} Å. Blue parts are well determined, red ones move or "
        "are seen "
        "by few particles: do not build into them what the colour does not allow.</p>"
        f'<p class="quiet small">FSC = {summary.local.threshold:g} of the half maps in a soft sphere of '
        f"{summary.local.window_in_angstroms:.0f} Å that slides over the molecule. This threshold is stricter than "
        "0.143, "
        "so that values lie above the resolution of the whole map.</p></div></div></div></section>"
    )


def _directions(summary: ResolutionSummary) -> str:
    boxes = []
    if summary.viewing is not None:
        viewing = summary.viewing
        boxes.append(
            f'<div class="box"><h3>From where the particles were seen</h3>{viewing_globe(viewing)}'
            f'<p class="small">Sampling compensation factor {viewing.sampling_compensation_factor:.2f} (1: Fourier '
            "space "
            f"is covered evenly; below 0.5 views are missing). The most crowded tenth of the sphere holds "
            f"{100 * viewing.largest_share:.0f} % of the views; {100 * viewing.missing_fraction:.0f} % of Fourier "
            "directions have less than a tenth of the mean sampling.</p></div>"
        )
    if summary.directional is not None:
        by = summary.directional.resolution_in_angstroms
        finite = by[torch.isfinite(by)]
        if finite.numel():
            low, high = float(finite.min()), float(finite.max())
            middle = 0.5 * (low + high)
            reach = max(0.5 * (high - low), 0.05 * middle)
            sphericity = summary.directional.sphericity
            words = "" if sphericity is None else f" Sphericity of the surface FSC = 0.5: {sphericity:.3f} (1 is even)."
            boxes.append(
                f'<div class="box"><h3>Resolution along every direction</h3>'
                f"{direction_globe(summary.directional, (middle - reach, middle + reach))}"
                f'<p class="small">FSC = 0.143 in cones of ±{summary.directional.cone_in_degrees:g}°: best {low:.2f} '
                "Å, "
                f"poorest {high:.2f} Å.{words}</p></div>"
            )
    if not boxes:
        return ""
    two = "grid two" if len(boxes) > 1 else "grid"
    return f'<section id="directions"><h2>Directions</h2><div class="{two}">{"".join(boxes)}</div></section>'


def _guinier(summary: ResolutionSummary) -> str:
    figure = guinier_figure(summary.sharpening)
    if not figure:
        return ""
    fit = summary.sharpening.weighted
    if fit.b_factor_in_square_angstroms is None:
        words = f"No B-factor: {escape(fit.reason)}. The map was weighted by the FSC but not sharpened."
    else:
        words = (
            f"B = {fit.b_factor_in_square_angstroms:.0f} ± {fit.standard_deviation_in_square_angstroms or 0:.0f} Å², "
            "from "
            f"{fit.fitted_from_in_angstroms:.3g} to {fit.fitted_to_in_angstroms:.3g} Å. Motion, radiation damage, "
            "errors of "
            "the poses and of the CTF all add to it. The sharpened map has this fall-off taken out, weighted so that "
            "noise is not sharpened with it."
        )
    return (
        '<section id="guinier"><h2>Fall-off and sharpening</h2><div class="box"><div class="grid two" '
        f'style="align-items:center"><div>{figure}</div><p>{words}</p></div></div></section>'
    )


def _opening(summary: ResolutionSummary, span: tuple[float, float] | None) -> str:
    level = surface_level(summary.sharpening.data, summary.mask)
    lines = ["open map_sharpened.mrc", f"volume #1 level {level:.4g}"]
    if span is not None:
        low, high = span
        middle = 0.5 * (low + high)
        lines += [
            "open local_resolution.mrc",
            "hide #2 models",
            f"color sample #1 map #2 palette {low:.3g},#314fae:{middle:.3g},#faf2b8:{high:.3g},#cc2b2e",
        ]
    return (
        '<section id="open"><h2>Open it in ChimeraX</h2><div class="box"><p>The maps carry their voxel size and '
        "origin. Start "
        f"ChimeraX in this folder and type:</p><pre>{escape(chr(10).join(lines))}</pre></div></section>"
    )
