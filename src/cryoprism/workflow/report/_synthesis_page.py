"""The report of a synthetic set: what it looks like beside real micrographs, how far they can be told apart, labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoprism import __version__
from cryoprism.core import frequency_magnitude, irfft2, rfft2
from cryoprism.formats import read_image
from cryoprism.synthesis import Gallery, SessionMatch
from cryoprism.workflow.jobs.files import write_text
from cryoprism.workflow.synthesis.match_agreement import LEAST_AGREEMENT, agreement_words

from ._map_pictures import png_source
from ._numbers import escape, plain
from ._style import CSS

__all__ = ["picture_bytes", "synthesis_report"]

_FINEST_SHOWN = 15.0  # Å: finer noise hides the particles from the eye
_SHOWN_SIDE = 560
_EXTENT = 3.2  # standard deviations between black and white
_MEASURES = (
    ("two_sample_auc", "classifier AUC", "0.5: cannot be told apart"),
    ("spectrum_distance_in_decibels", "spectrum [dB]", "0: the same"),
    ("patch_statistics_in_real_deviations", "patch statistics", "deviations between real micrographs"),
    ("kernel_distance", "kernel distance", "0: the same"),
)
_ADVANTAGES = (
    ("two_sample_auc_above_half", "AUC above 0.5"),
    ("squared_spectrum_distance_in_square_decibels", "spectrum [dB²]"),
    ("squared_patch_statistics_in_square_real_deviations", "patch statistics [deviations²]"),
    ("kernel_distance", "kernel distance"),
)
_PAGE_CSS = """
.verdict{font-size:21px;line-height:1.35;font-weight:600;margin:8px 0 4px;max-width:62em}
.six{display:grid;grid-template-columns:repeat(6,minmax(0,1fr));gap:8px}
.pair{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:14px}
.three{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:12px}
.six img,.pair img,.three img{display:block;width:100%;height:auto;border-radius:4px;background:#000}
details summary{cursor:pointer;margin-top:8px}
"""


def synthesis_report(
    folder: Path,
    names: Sequence[str],
    match: SessionMatch,
    realism: Mapping[str, Any] | None,
    shown: Gallery | None,
    learned: str = "",
) -> Path:
    """Write ``report.html`` of a synthetic set.

    Parameters
    ----------
    folder
        Job folder, with the micrographs and masks in it.
    names
        Of the synthetic micrographs.
    match
        What they were matched to.
    learned
        Section on learned noise, if any.
    realism, shown
        Content of ``realism.json`` and the gallery; None where they were not made.
    """
    path = Path(folder) / "report.html"
    verdict = _verdict(len(names), realism)
    if doubt := agreement_words(match):
        verdict = f"{verdict} {doubt}."
    body = (
        f'<header><h1>Synthetic micrographs</h1><p class="verdict">{escape(verdict)}</p>'
        f"{_facts(names, match)}</header><main>"
        f"{_gallery_section(shown, match)}{_measures_section(realism)}{learned}{_label_section(folder, names)}"
        f"{_match_section(match)}</main>"
        f"<footer><p>Written by CryoPrism {escape(__version__)}. These micrographs are simulated: never deposit or "
        "refine them as data.</p></footer>"
    )
    write_text(
        path,
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Synthetic micrographs</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><style>{CSS}{_PAGE_CSS}</style></head><body>\n{body}\n</body></html>\n',
    )
    return path


def _verdict(count: int, realism: Mapping[str, Any] | None) -> str:
    words = f"{count} synthetic micrograph{'s' if count != 1 else ''} with all labels."
    row = _made(realism)
    if row is None:
        return f"{words} How real they look was not measured."
    auc = row["two_sample_auc"]
    interval = f"{_figure(auc['value'])} [{_figure(auc['low'])}, {_figure(auc['high'])}]"
    against = "real ones that nothing was fitted to" if realism and realism["kept_apart"] else "the ones matched"
    return f"{words} A classifier tells them from {against} with an AUC of {interval}; 0.5 would be not at all."


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _made(realism: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    measures = {} if realism is None else realism["measures"]
    return next((row for name, row in measures.items() if name.startswith("made")), None)


def _facts(names: Sequence[str], match: SessionMatch) -> str:
    scenes = [one.scene for one in match.micrographs]
    defoci = [s.defocus_in_angstroms for s in scenes]
    facts = {
        "micrographs": str(len(names)),
        "matched to": f"{len(scenes)} real",
        "pixel": f"{scenes[0].pixel_size_in_angstroms:.3g} Å",
        "defocus of the real ones": f"{min(defoci) / 1e4:.2f} to {max(defoci) / 1e4:.2f} µm",
    }
    listed = "".join(f'<div class="fact"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for k, v in facts.items())
    return f'<div class="facts">{listed}</div>'


def picture_bytes(image: Tensor, pixel: float) -> NDArray[np.uint8]:
    """Bytes of a micrograph low-passed to 15 Å, black to white over a fixed number of deviations, for a screen."""
    shape = (int(image.shape[0]), int(image.shape[1]))
    k = frequency_magnitude(shape, pixel)
    smooth = irfft2(rfft2(image) * torch.exp(-((k * _FINEST_SHOWN) ** 2)), shape)
    smooth = (smooth - smooth.median()) / smooth.std().clamp_min(1e-12)
    step = max(1, math.ceil(max(smooth.shape) / _SHOWN_SIDE))
    shown: NDArray[np.uint8] = ((smooth[::step, ::step] / (2 * _EXTENT) + 0.5).clamp(0, 1) * 255).byte().numpy()
    return shown


def _picture(image: Tensor, pixel: float) -> str:
    return png_source(picture_bytes(image, pixel))


def _gallery_section(shown: Gallery | None, match: SessionMatch) -> str:
    if shown is None:
        return ""
    pixel = match.micrographs[0].scene.pixel_size_in_angstroms
    pictures = "".join(
        f'<figure><img src="{_picture(patch, pixel)}" alt="patch {i}"><figcaption>{i}</figcaption></figure>'
        for i, patch in enumerate(shown.patches, 1)
    )
    real = [str(i) for i, answer in enumerate(shown.is_real.tolist(), 1) if answer]
    answer = f"Real: {', '.join(real)}." if real else "None of them is real."
    width = shown.patches.shape[-1] * pixel
    return (
        '<section id="gallery"><h2>Which of these are real?</h2><div class="box">'
        f'<div class="six">{pictures}</div><p class="quiet small">Each {width:.0f} Å wide, low-passed to '
        f"{_FINEST_SHOWN:g} Å.</p><details><summary>The answer</summary><p>{escape(answer)}</p></details></div>"
        "</section>"
    )


def _measures_section(realism: Mapping[str, Any] | None) -> str:
    if realism is None:
        return ""
    if "not_measured" in realism:
        return (
            f'<section id="realism"><h2>How real?</h2><p class="notice">{escape(realism["not_measured"])}</p></section>'
        )
    head = "".join(
        f'<th scope="col" class="number" title="{escape(hint)}">{escape(words)}</th>' for _, words, hint in _MEASURES
    )
    rows = ""
    for name, row in realism["measures"].items():
        cells = "".join(_cell(row[key]) for key, _, _ in _MEASURES)
        rows += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    real, made = len(realism["real_micrographs"]), len(realism["synthetic_micrographs"])
    note = (
        f"{made} synthetic against {real} real micrographs "
        + (
            "that nothing was fitted to. "
            if realism["kept_apart"]
            else "that were matched themselves, since too few were given to keep some apart: the figures flatter. "
        )
        + "In brackets 95 % intervals. The AUC is that of a small convolutional classifier on patches of 128 pixels of "
        "micrographs that it was not trained on: 0.5 means that it finds no difference, 1 that it finds one every "
        "time. With few micrographs it also learns what sets these apart; the row of real against real shows by how "
        "much. The other rows are the same clean images with other noise."
        + (f" Left out, for want of ordinary field: {', '.join(left)}." if (left := realism["left_out"]) else "")
    )
    return (
        '<section id="realism"><h2>How real?</h2><div class="box scroll"><table><thead><tr><th scope="col">set</th>'
        f'{head}</tr></thead><tbody>{rows}</tbody></table><p class="quiet small">{escape(note)}</p>'
        f"{_advantages(realism)}</div></section>"
    )


def _advantages(realism: Mapping[str, Any]) -> str:
    """Table of the differences in pairs, folded away."""
    found = realism.get("advantages", {})
    if not found:
        return ""
    head = "".join(f'<th scope="col" class="number">{escape(words)}</th>' for _, words in _ADVANTAGES)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(_cell(row[key]) for key, _ in _ADVANTAGES)}</tr>'
        for name, row in found.items()
    )
    return (
        "<details><summary>Compared with simpler noise in pairs</summary>"
        f'<table><thead><tr><th scope="col">noise</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
        '<p class="quiet small">By how much the set that was made is nearer to the real micrographs: above 0 it is the '
        "better one. Both come from the same clean images, so these differences are sharper than the figures above."
        "</p></details>"
    )


def _cell(measure: Mapping[str, Any]) -> str:
    return (
        f'<td class="number">{_figure(measure["value"])} '
        f'<span class="quiet">[{_figure(measure["low"])}, {_figure(measure["high"])}]</span></td>'
    )


def _label_section(folder: Path, names: Sequence[str]) -> str:
    name = names[0]
    image = read_image(folder / "micrographs" / f"{name}.mrc")
    mask = read_image(folder / "masks" / f"{name}.mrc").data
    pixel = image.pixel_size_in_angstroms or 1.0
    step = max(1, math.ceil(max(mask.shape) / _SHOWN_SIDE))
    small = mask[::step, ::step].numpy().astype(np.int64)
    # Neighbours in number get colours far apart.
    colours = np.stack([(small * 37 % 97) / 97, (small * 61 % 89) / 89, (small * 17 % 83) / 83], -1) * 0.6 + 0.4
    colours[small == 0] = 0.08
    mask_source = png_source((255 * colours).astype(np.uint8))
    return (
        '<section id="labels"><h2>Labels</h2><div class="box"><div class="pair">'
        f'<figure><img src="{_picture(image.data, pixel)}" alt="micrograph {escape(name)}"><figcaption>Micrograph '
        f"{escape(name)}, low-passed to {_FINEST_SHOWN:g} Å</figcaption></figure>"
        f'<figure><img src="{mask_source}" alt="mask {escape(name)}">'
        "<figcaption>Its mask: each particle has its number</figcaption></figure></div>"
        '<p class="quiet small">particles.star has coordinates, Euler angles, own defocus and conformation of every '
        f"particle; truth/ has everything else that was drawn.{_extras(folder, names)}</p></div></section>"
    )


def _extras(folder: Path, names: Sequence[str]) -> str:
    """Sentences about artefacts and movies, where there are any."""
    words = ""
    if dirty := sum((folder / "masks" / f"{name}_artefacts.mrc").is_file() for name in names):
        words += f" {dirty} of {len(names)} have contamination or carbon film: masks/NAME_artefacts.mrc."
    if (folder / "movies.star").is_file():
        words += " movies.star names the frames; those of a movie add up to its micrograph."
    return words


def _match_section(match: SessionMatch) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(one.name)}</th>'
        f'<td class="number">{one.scene.defocus_in_angstroms / 1e4:.3f} ± '
        f"{one.deviations['defocus_in_angstroms'] / 1e4:.3f}</td>"
        f'<td class="number">{plain(one.scene.envelope_b_factor_in_square_angstroms)}</td>'
        f'<td class="number">{plain(math.hypot(one.scene.drift_y_in_angstroms, one.scene.drift_x_in_angstroms))}</td>'
        f'<td class="number">{plain(one.density_in_inverse_square_micrometers)}</td>'
        f'<td class="number">{plain(one.noise.gain)}</td><td class="number">{one.agreement:.2f}</td></tr>'
        for one in match.micrographs
    )
    titles = (
        "defocus [µm]", "B-factor [Å²]", "drift [Å]", "particles per µm²", "grey values per contrast", "agreement",
    )  # fmt: skip
    head = "".join(f'<th scope="col" class="number">{escape(title)}</th>' for title in titles)
    return (
        '<section id="match"><h2>What was matched</h2><div class="box scroll"><table><thead><tr><th scope="col">real '
        f'micrograph</th>{head}</tr></thead><tbody>{rows}</tbody></table><p class="quiet small">Agreement is the '
        f"correlation of the mean particle there with the map's own. Below {LEAST_AGREEMENT:g} look at the map, the "
        "diameter and the picks first.</p></div></section>"
    )
