"""Strips of residues, one a chain: what is proved, refuted and unknown of each, as inline SVG."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryoprism.evaluation.consistency import Consistency, residue_words

from ._numbers import escape

__all__ = ["STRIP_CSS", "Cell", "cells_of", "residue_strips"]

#: Colours after Okabe and Ito; the height of a bar says the same as its colour.
STRIP_CSS: Final = """
.strip{margin:12px 0 4px}
.strip h4{margin:0 0 3px;font-size:13.5px;font-weight:600}
.strip svg{display:block;max-width:100%;height:auto}
.strip text{font:10px system-ui,sans-serif;fill:var(--quiet)}
.strip text.named{fill:var(--ink);font-size:10.5px}
.s-proved{fill:#7fb2d6}.s-unknown{fill:#f0b429}.s-refuted{fill:#c8440a}
.swatch{display:inline-block;width:12px;margin-right:6px;border-radius:1px;vertical-align:baseline}
"""
_COLOURS: Final = {"proved": "#7fb2d6", "unknown": "#f0b429", "refuted": "#c8440a"}
_HEIGHTS: Final = {"proved": 5.0, "unknown": 9.0, "refuted": 14.0}
_WORDS: Final = {"proved": "all proved", "unknown": "something unknown", "refuted": "something refuted"}
_MARGIN: Final = 46
_WIDTH: Final = 1180
_PER_ROW: Final = 200
_BAR: Final = 15
_LANE: Final = 12
_LANES: Final = 2
_LETTER: Final = 6.3
#: Chains that are shown at once, and folded away behind them; what is left is counted.
_OPEN: Final = 16
_FOLDED: Final = 64
_MOST_NAMED: Final = 80


@dataclass(frozen=True)
class Cell:
    """One residue: its name as ``Ala 12``, its number, the worst verdict on it, and which rules that came from."""

    name: str
    number: int
    kind: str
    what: str


def cells_of(result: Consistency) -> dict[str, list[Cell]]:
    """Return the residues by chain, in the order of the file; waters are left out."""
    chains: dict[str, list[Cell]] = {}
    for index, residue in enumerate(result.model.residues):
        tallies = [(rule.title, rule.by_residue[index]) for rule in result.rules if index in rule.by_residue]
        if residue.role == "water" or not tallies:
            continue
        bad = [title for title, (_, refuted, _) in tallies if refuted]
        left = [title for title, (_, _, unknown) in tallies if unknown]
        kind = "refuted" if bad else "unknown" if left else "proved"
        name = residue_words(residue, chain=False)
        chains.setdefault(residue.chain, []).append(Cell(name, residue.number, kind, "; ".join(bad or left)))
    return chains


def residue_strips(chains: dict[str, list[Cell]]) -> str:
    """Return a section with a strip a chain, those with most refuted residues first."""
    keys = "".join(
        f'<span><i class="swatch" style="height:{_HEIGHTS[kind]:g}px;background:{_COLOURS[kind]}"></i>{words}</span>'
        for kind, words in _WORDS.items()
    )
    troubled = sorted(
        (name for name, cells in chains.items() if any(cell.kind != "proved" for cell in cells)),
        key=lambda name: [-sum(cell.kind == kind for cell in chains[name]) for kind in ("refuted", "unknown")],
    )
    clean = [name for name in chains if name not in set(troubled)]
    ordered = [*troubled, *clean]
    # Clean chains of a large assembly all look alike.
    shown = ordered if len(ordered) <= _OPEN else troubled[:_OPEN]
    behind = [name for name in troubled if name not in set(shown)]
    strips = "".join(_strip(name, chains[name]) for name in shown)
    if behind:
        folded = "".join(_strip(name, chains[name]) for name in behind[:_FOLDED])
        rest = f'<p class="quiet small">Others: {_listed(behind[_FOLDED:], chains)}.</p>' if behind[_FOLDED:] else ""
        strips += f"<details><summary>{len(behind):,} more chains with something refuted or unknown</summary>"
        strips += f"{folded}{rest}</details>"
    if len(shown) + len(behind) < len(ordered):
        strips += f'<p class="small">All proved: chains {_listed(clean, chains)}.</p>'
    return (
        f'<section id="residues"><h3>Residue by residue</h3><div class="box"><div class="legend">{keys}</div>{strips}'
        '<p class="quiet small">One bar a residue, one strip a chain; high bars are refuted and named below. Point at '
        "a bar for what is wrong. A gap is a jump in the numbers; waters are left out.</p></div></section>"
    )


def _listed(names: Sequence[str], chains: dict[str, list[Cell]]) -> str:
    words = [f"{escape(name)} ({len(chains[name]):,})" for name in names[:_MOST_NAMED]]
    more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(words) + more


def _strip(name: str, cells: Sequence[Cell]) -> str:
    count = {kind: sum(cell.kind == kind for cell in cells) for kind in _WORDS}
    tail = ", ".join(f"{count[kind]:,} {kind}" for kind in ("refuted", "unknown") if count[kind]) or "all proved"
    drawn, top = "", 0.0
    # Few residues are drawn wider, but not as wide as the page.
    step = min((_WIDTH - 2 * _MARGIN) / _PER_ROW * 1.6, (_WIDTH - 2 * _MARGIN) / min(_placed(cells)[-1] + 1, _PER_ROW))
    for row in _rows(cells):
        part, height = _row(row, step)
        drawn += f'<g transform="translate(0 {top:g})">{part}</g>'
        top += height
    label = escape(name) if name.strip() else "without a name"
    return (
        f'<div class="strip"><h4>Chain {label}: {len(cells):,} residues, {tail}</h4>'
        f'<svg viewBox="0 0 {_WIDTH} {top:g}" width="{_WIDTH}" role="img" aria-label="chain {label}, {tail}">{drawn}'
        "</svg></div>"
    )


def _placed(cells: Sequence[Cell]) -> list[int]:
    """Place of every residue along the strip: one is left free where the numbers jump."""
    places, at = [0], 0
    for before, cell in itertools.pairwise(cells):
        at += 1 if 0 <= cell.number - before.number <= 1 else 2
        places.append(at)
    return places


def _rows(cells: Sequence[Cell]) -> list[list[tuple[int, Cell]]]:
    rows: list[list[tuple[int, Cell]]] = []
    for place, cell in zip(_placed(cells), cells, strict=True):
        while len(rows) <= place // _PER_ROW:
            rows.append([])
        rows[place // _PER_ROW].append((place % _PER_ROW, cell))
    return [row for row in rows if row]


def _row(row: Sequence[tuple[int, Cell]], step: float) -> tuple[str, float]:
    """Bars and names of one row, and its height."""
    runs: list[list[tuple[int, Cell]]] = []
    for place, cell in row:
        if (
            runs
            and place == runs[-1][-1][0] + 1
            and (cell.kind, cell.what) == (runs[-1][-1][1].kind, runs[-1][-1][1].what)
        ):
            runs[-1].append((place, cell))
        else:
            runs.append([(place, cell)])
    bars, names, ends, hidden = "", "", [-1.0] * _LANES, 0
    for run in runs:
        (place, first), last = run[0], run[-1][1]
        x, height = _MARGIN + step * place, _HEIGHTS[first.kind]
        width = max(step * len(run), 1.5)
        who = first.name if len(run) == 1 else f"{first.name} to {last.name}"
        bars += (
            f'<path class="s-{first.kind}" d="M{x:.1f} {_BAR - height:g}h{width:.1f}v{height:g}h-{width:.1f}z">'
            f"<title>{escape(who)}: {escape(first.what or 'all proved')}</title></path>"
        )
        if first.kind == "refuted":
            text = first.name if len(run) == 1 else f"{first.name}–{last.name.rpartition(' ')[2]}"
            long = _LETTER * len(text)
            left = min(max(x + width / 2 - long / 2, _MARGIN), _WIDTH - long - 82)
            lane = next((k for k in range(_LANES) if left > ends[k] + 5), None)
            if lane is None:
                hidden += len(run)
                continue
            ends[lane] = left + long
            names += f'<text class="named" x="{left:.1f}" y="{_BAR + _LANE * (lane + 1) - 1}">{escape(text)}</text>'
    lanes = sum(end >= 0 for end in ends)
    numbers = (
        f'<text x="{_MARGIN - 6}" y="{_BAR - 1}" text-anchor="end">{row[0][1].number}</text>'
        f'<text x="{_MARGIN + step * (row[-1][0] + 1) + 4:.1f}" y="{_BAR - 1}">{row[-1][1].number}</text>'
    )
    if hidden:
        names += f'<text x="{_WIDTH - 4}" y="{_BAR + _LANE * lanes - 1}" text-anchor="end">and {hidden} more</text>'
    return bars + numbers + names, _BAR + _LANE * lanes + 6.0
