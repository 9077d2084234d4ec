"""The report of a novelty query: the verdict, and the nearest known shapes beside the query as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryoprism import __version__
from cryoprism.evaluation.novelty import AROUND, Entry, Neighbour, Novelty, shipped_calibration
from cryoprism.workflow.jobs.files import write_text

from ._map_pictures import grey, png_source
from ._numbers import UNKNOWN, escape, plain
from ._style import CSS

__all__ = ["NOVELTY_CSS", "novelty_pictures", "novelty_report", "ratio"]

#: Style of the pictures, beside that of all pages.
NOVELTY_CSS = """
.verdict{font-size:21px;line-height:1.35;font-weight:600;margin:8px 0 4px;max-width:62em}
.shape{display:grid;grid-template-columns:minmax(170px,230px) repeat(3,minmax(0,1fr));gap:10px;align-items:center;
margin-bottom:10px;max-width:880px}
.shape.heads{margin-bottom:2px}
.shape .cell{background:#000;border-radius:6px;aspect-ratio:1;display:grid;place-items:center;max-width:200px}
.shape .cell img{display:block;height:auto}
.shape h3{overflow-wrap:anywhere}
.asked>div:first-child{border-left:4px solid var(--accent);padding-left:8px;margin-left:-12px}
"""
_SIDE = 240
_MOST_PICTURES = 10
# A pixel of a picture in radii of gyration.
_PIXEL_IN_GYRATIONS = 3.6 / 48


def novelty_report(folder: Path, novelty: Novelty, *, title: str) -> Path:
    """Write ``report.html``: one file that needs no network and no other file."""
    path = Path(folder) / "report.html"
    sentences = novelty.sentences()
    verdict = sentences[0] if novelty.value is not None else f"Not available. {sentences[0]}"
    rest = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences[1:])
    body = (
        f'<header><h1>{escape(title)}</h1><p class="verdict">{escape(verdict)}</p>{_facts(novelty)}'
        f"<ul>{rest}</ul></header><main>{novelty_pictures(novelty)}{_table(novelty)}{_folds(novelty)}{_meaning()}</main>"
        f"<footer><p>Written by CryoPrism {escape(__version__)}; novelty.json holds every number of this page.</p>"
        "</footer>"
    )
    write_text(
        path,
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><style>{CSS}{NOVELTY_CSS}</style></head><body>\n{body}\n</body></html>\n',
    )
    return path


def _facts(novelty: Novelty) -> str:
    interval = novelty.interval
    spread = "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"
    facts = [
        (UNKNOWN if novelty.value is None else f"{novelty.value:.2f}{spread}", "novelty, 0 known to 1 new, 5 to 95 %"),
        (escape(novelty.neighbours[0].entry.name) if novelty.neighbours else UNKNOWN, "nearest known shape"),
        (f"{novelty.entries:,}".replace(",", "\u202f"), "known shapes in the index"),
    ]
    if novelty.query is not None:
        size = novelty.query.entry.radius_of_gyration_in_angstroms
        facts.append((f"{size:.1f}\u202fÅ", "radius of gyration of the query"))
    shown = "".join(f'<div class="fact"><b>{value}</b><span>{words}</span></div>' for value, words in facts)
    return f'<div class="facts">{shown}</div>'


def _row(entry: Entry, heading: str, words: str, largest: float, kind: str = "") -> str:
    name = f"<div><h3>{escape(heading)}</h3><p class='small quiet'>{words}</p></div>"
    if entry.pictures is None:
        cells = '<div class="nothing">no picture</div>' * 3
    else:
        # One scale in Å for all: a small molecule is shown small.
        width = 100 * _width(entry) / largest
        cells = "".join(
            f'<div class="cell"><img src="{_source(picture)}" '
            f'style="width:{width:.1f}%" alt="{escape(heading)} along principal axis {axis}"></div>'
            for axis, picture in zip((3, 2, 1), entry.pictures, strict=True)
        )
    return f'<div class="shape {kind}">{name}{cells}</div>'


def _width(entry: Entry) -> float:
    """Width of its pictures [Å]."""
    side = 48 if entry.pictures is None else entry.pictures.shape[-1]
    return _PIXEL_IN_GYRATIONS * side * entry.radius_of_gyration_in_angstroms


def _source(picture: NDArray[np.uint8]) -> str:
    return png_source(grey(picture.astype(np.float32), low=0.0, high=255.0, size=_SIDE))


def novelty_pictures(novelty: Novelty, *, most: int = _MOST_PICTURES) -> str:
    """Section with pictures of the query and of its nearest shapes, ``most`` of them; empty where there are none."""
    if novelty.query is None or not novelty.neighbours:
        return ""
    shown = novelty.neighbours[:most]
    entries = [novelty.query.entry, *(one.entry for one in shown)]
    largest = max(map(_width, entries)) or 1.0
    asked = novelty.query.entry
    heads = ("", "long axis upright, broad side", "long axis upright, narrow side", "down the long axis")
    rows = [f'<div class="shape heads small quiet">{"".join(f"<div>{head}</div>" for head in heads)}</div>']
    rows += [_row(asked, asked.name, f"asked about ({asked.kind})", largest, "asked")]
    rows += [_row(one.entry, one.entry.name, _words(one), largest) for one in shown]
    return (
        '<section id="pictures"><h2>The shape and its nearest</h2><div class="box">'
        f"{''.join(rows)}"
        '<p class="quiet small">Projections of the envelopes along their principal axes: the longest axis upright in '
        f"the first two. Every field is {largest:.0f} Å wide. Rows may differ by half a turn "
        f"about an axis. {_distances()}</p></div></section>"
    )


def _distances() -> str:
    half, most, strange = shipped_calibration().usual_distances()
    return (
        f"Distances: half of all views of one molecule lie within {half:.2f} of each other and 95 % within {most:.2f}; "
        f"of different proteins 1 % lie within {strange:.2f}."
    )


def _words(one: Neighbour) -> str:
    parts = [f"{one.entry.kind}, distance {one.distance:.3f}"]
    if one.probability is not None:
        parts.append(f"probability {_probability(one.probability)}")
    return "; ".join(parts)


def ratio(value: float | None) -> str:
    """Return a likelihood ratio in words; beyond a million it says no more."""
    return "over a million" if value is not None and value > 1e6 else plain(value, 2)


def _probability(value: float) -> str:
    return f"{value:.2f}" if value >= 0.005 else "below 0.005"


def _table(novelty: Novelty) -> str:
    if not novelty.neighbours:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(one.entry.name)}</th><td>{escape(one.entry.kind)}</td>'
        f'<td class="number"><data value="{one.distance!r}">{one.distance:.3f}</data></td>'
        f'<td class="number">{ratio(one.likelihood_ratio)}</td>'
        f'<td class="number">{UNKNOWN if one.probability is None else _probability(one.probability)}</td>'
        f'<td class="number">{UNKNOWN if one.state_similarity is None else f"{one.state_similarity:.2f}"}</td>'
        f'<td class="number">{one.entry.radius_of_gyration_in_angstroms:.1f}</td>'
        f'<td class="small">{escape(one.entry.source)}</td></tr>'
        for one in novelty.neighbours
    )
    heads = (
        ("nearest shape", ""),
        ("kind", ""),
        ("distance", "number"),
        ("likelihood ratio", "number"),
        ("probability", "number"),
        ("3Di similarity", "number"),
        ("radius of gyration [Å]", "number"),
        ("file", ""),
    )
    return _section("neighbours", "Nearest in shape", heads, rows)


def _folds(novelty: Novelty) -> str:
    if not novelty.fold_neighbours:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(one.entry.name)}</th><td class="number">{one.state_similarity:.2f}</td>'
        f'<td class="number">{one.distance:.3f}</td></tr>'
        for one in novelty.fold_neighbours
    )
    heads = (("most alike in 3Di states", ""), ("similarity, 0 to 1", "number"), ("distance in shape", "number"))
    return _section("folds", "Most alike in 3Di states", heads, rows)


def _section(name: str, heading: str, heads: Sequence[tuple[str, str]], rows: str) -> str:
    shown = "".join(f'<th scope="col" class="{kind}">{word}</th>' for word, kind in heads)
    return (
        f'<section id="{name}"><h2>{heading}</h2><div class="box scroll"><table><thead><tr>{shown}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _meaning() -> str:
    return (
        '<section id="meaning"><h2>What this can and cannot say</h2><div class="box small">'
        "<p>Compared are outer shape and size at the resolution of the index, and for models of proteins the states "
        "of their backbone (3Di) where the index has them; not the sequence. A shape and its mirror image have the "
        "same invariants: the hand is not seen. The likelihood ratio says how much likelier a distance is for two "
        "views of one molecule (turned, filtered, uneven, bent, with noise) than for two proteins. The more shapes an "
        f"index holds, and the more of them lie around the query (at distances of {AROUND[0]:g} to {AROUND[1]:g}), the "
        "more are near by chance, and the probability counts that in. What the index does not hold is not known to it: "
        "new here means new against these files.</p></div></section>"
    )
