"""The page: headline, session, best and worst, table of all micrographs, cards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cryoprism.workflow.jobs.files import write_text
from cryoprism.workflow.micrographs.narrative import session_sentences

from ._cards import NOT_FOR_RECONSTRUCTION, card, flags_of, limit_of, thumbnail
from ._numbers import UNKNOWN, bit_unit, escape, flag_words, label_of, measured
from ._panels import read_panel
from ._session import leading, lost_bits, session_sections, what_to_fix
from ._style import CSS, SCRIPT

__all__ = ["MOST_CARDS", "write_report"]

#: Sessions with more micrographs show cards of the worst and best 20 only.
MOST_CARDS: Final = 60
_EACH_END: Final = 20
_PODIUM: Final = 3
_BYTES_OF_PICTURES: Final = 16_000_000  # four thirds of it on the page: base64


def write_report(folder: Path, document: Mapping[str, Any], *, title: str | None = None) -> Path:
    """Write ``report.html``: one file that needs no network and no other file.

    Parameters
    ----------
    folder
        Job folder. Pictures and curves come from ``panels/<stem>.npz`` in it, with the arrays that ``Panel`` lists.
        A missing or unreadable one leaves a note.
    document
        Content of ``causes.json``.
    title
        Heading; by default the folder's name.

    Returns
    -------
    Path
        The page. It is written whole or not at all.
    """
    folder = Path(folder)
    heading = title if title is not None else f"CryoPrism session {folder.resolve().name}"
    micrographs = document["micrographs"]
    ranked = sorted(range(len(micrographs)), key=lambda i: -float(micrographs[i]["information_in_bits"]["mean"]))
    chosen = ranked if len(ranked) <= MOST_CARDS else [*ranked[:_EACH_END], *ranked[-_EACH_END:]]
    files = _panel_files([entry["name"] for entry in micrographs])
    budget = min(120_000, _BYTES_OF_PICTURES // max(4 * len(chosen), 1))
    cards = {}
    small = {}
    podium = _podium(ranked)
    for place, index in enumerate(ranked):
        if index not in set(chosen):
            continue
        paths = (folder / "panels" / file for file in files[index])
        panel = next((found for path in paths if (found := read_panel(path)) is not None), None)
        rank = f"{place + 1} of {len(ranked)} by information"
        cards[index] = card(index + 1, micrographs[index], panel, document["session"]["graph"], rank, budget)
        if index in podium[0] + podium[1]:
            small[index] = thumbnail(micrographs[index]["name"], panel, 40_000)
    body = [
        _head(heading, document),
        "<main>",
        session_sections(document),
        _best_and_worst(micrographs, podium, small),
        _all_micrographs(micrographs, set(chosen)),
        _cards(cards, len(ranked)),
        "</main>",
        f"<footer><p>Written by CryoPrism {escape(document['cryoprism_version'])} from causes.json, which holds "
        f"every number of this page. "
        f"Pictures are a {NOT_FOR_RECONSTRUCTION}.</p></footer>",
    ]
    path = folder / "report.html"
    write_text(
        path,
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(heading)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" '
        'content="light dark">'
        f"<style>{CSS}</style></head><body>\n{''.join(body)}\n<script>{SCRIPT}</script></body></html>\n",
    )
    return path


def _panel_files(names: Sequence[str]) -> list[list[str]]:
    """File names to look for: the name itself, then without its suffix where no other micrograph could mean that."""
    whole, stems = [Path(name).name for name in names], [Path(name).stem for name in names]
    taken, twins = Counter(whole), Counter(stems)
    return [
        [f"{name}.npz"] * (taken[name] == 1) + [f"{stem}.npz"] * (twins[stem] == 1 and stem not in taken)
        for name, stem in zip(whole, stems, strict=True)
    ]


def _podium(ranked: Sequence[int]) -> tuple[list[int], list[int]]:
    worst = min(_PODIUM, len(ranked) // 2)
    best = min(_PODIUM, len(ranked) - worst)
    return list(ranked[:best]), list(ranked[::-1][:worst])


def _head(heading: str, document: Mapping[str, Any]) -> str:
    session, micrographs = document["session"], document["micrographs"]
    flagged = [(i + 1, entry) for i, entry in enumerate(micrographs) if entry["flags"]]
    unit = bit_unit([session["ideal_information_in_bits"]["mean"]])
    lost, ideal = lost_bits(session), float(session["ideal_information_in_bits"]["mean"])
    of_all = f" ({100 * lost / ideal:.0f} %)" if ideal > 0 else ""
    estimated = "" if session["micrographs"] == len(micrographs) else f", {session['micrographs']} estimated"
    facts = (
        (f'<data value="{len(micrographs)}">{len(micrographs)}</data>', f"micrographs{estimated}"),
        (f'<data value="{len(flagged)}">{len(flagged)}</data>', "flagged: look at these"),
        (unit.html(session["information_in_bits"]), "coherent information in the session"),
        (measured(lost, None, unit.name, divide_by=unit.bits) + of_all, "lost to all causes together"),
    )
    shown = "".join(f'<div class="fact"><b>{value}</b><span>{words}</span></div>' for value, words in facts)
    notice = ""
    if flagged:
        links = "; ".join(f"{escape(entry['name'])} ({escape(flag_words(entry['flags']))})" for _, entry in flagged[:8])
        more = f" and {len(flagged) - 8} more, see the table" if len(flagged) > 8 else ""
        notice = f'<p class="notice"><b>Flagged:</b> {links}{more}.</p>'
    links = "".join(
        f'<a href="#{target}">{words}</a>'
        for target, words in (
            ("ledger", "ledger"),
            ("graph", "causal graph"),
            ("course", "course"),
            ("distributions", "distributions"),
            ("loop", "loop"),
            ("priors", "priors"),
            ("podium", "best and worst"),
            ("all", "all micrographs"),
            ("cards", "cards"),
        )
    )
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in session_sentences(document))
    return (
        f'<header><h1>{escape(heading)}</h1><nav class="small" aria-label="sections">{links}</nav><div '
        f'class="facts">{shown}</div>{notice}'
        f'<div class="grid two"><section class="box"><h3>In short</h3><ul class="headline">{sentences}</ul></section>'
        f'<section class="box"><h3>What to fix first</h3>{what_to_fix(document)}</section></div></header>'
    )


def _best_and_worst(
    micrographs: Sequence[Mapping[str, Any]], podium: tuple[list[int], list[int]], small: Mapping[int, str]
) -> str:
    if not podium[0]:
        return ""
    halves = []
    for heading, indices in (("Most information", podium[0]), ("Least information", podium[1])):
        items = ""
        for index in indices:
            entry = micrographs[index]
            unit = bit_unit([entry["information_in_bits"]["mean"]])
            bits = unit.html(entry["information_in_bits"])
            words = f"<b>{escape(entry['name'])}</b>{bits} {flags_of(entry)}"
            items += f'<a href="#m{index + 1}">{small[index]}{words}</a>'
        if items:
            halves.append(f'<div class="box"><h3>{heading}</h3><div class="podium">{items}</div></div>')
    return (
        f'<section id="podium"><h2>Best and worst micrographs</h2><div class="grid two">{"".join(halves)}</div>'
        f'<p class="quiet small">{NOT_FOR_RECONSTRUCTION}</p></section>'
    )


def _all_micrographs(micrographs: Sequence[Mapping[str, Any]], shown: set[int]) -> str:
    unit = bit_unit([entry["ideal_information_in_bits"]["mean"] for entry in micrographs])
    rows = []
    for index, entry in enumerate(micrographs):
        name = escape(entry["name"])
        link = f'<a href="#m{index + 1}">{name}</a>' if index in shown else name
        losses = {
            cause: value["bits_lost"]["mean"]
            for cause, value in entry["causes"].items()
            if value["bits_lost"] is not None
        }
        worst = max(losses, key=lambda cause: losses[cause], default="")
        defocus = leading(entry, "defocus")
        cells = (
            unit.html(entry["information_in_bits"], unit=False),
            measured(lost_bits(entry), divide_by=unit.bits),
            UNKNOWN if defocus is None else measured(defocus[0], None, defocus[1], decimals=0),
            limit_of(entry),
            measured(entry.get("correlation"), decimals=2),
        )
        numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        largest = escape(label_of(worst)) if worst and losses[worst] > 0 else UNKNOWN
        rows.append(
            f'<tr><td class="number"><data value="{index + 1}">{index + 1}</data></td><th scope="row">{link}</th>'
            f"{numbers}"
            f"<td>{largest}</td><td>{flags_of(entry)}</td></tr>"
        )
    words = (
        "#",
        "micrograph",
        f"information [{unit.name}]",
        f"lost [{unit.name}]",
        "defocus",
        "fit limit",
        "correlation",
        "largest loss",
        "flags",
    )
    numeric = (0, 2, 3, 4, 5, 6)
    heads = "".join(
        f'<th scope="col"{" class=number" if i in numeric else ""}><button type="button" title="sort">'
        f"{word}</button></th>"
        for i, word in enumerate(words)
    )
    return (
        '<section id="all"><h2>All micrographs</h2><div class="box tall"><table class="compact '
        'sortable"><caption>Click a heading to sort.</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _cards(cards: Mapping[int, str], total: int) -> str:
    if len(cards) < total:
        note = (
            f'<p class="notice">Shown are the {_EACH_END} micrographs with the least and the {_EACH_END} with the '
            f"most information of {total}. "
            "The numbers of all others are in the table above and, in full, in causes.json.</p>"
        )
    else:
        note = '<p class="quiet small">In the order of the session.</p>'
    switch = (
        '<label class="small mask-switch"><input type="checkbox" class="mask-all"> show all artefact masks</label>'
        if cards
        else ""
    )
    body = "".join(cards[index] for index in sorted(cards))
    head = f'<section id="cards"><h2>Micrographs one by one</h2>{note}{switch}'
    return f'{head}<div style="margin-top:10px">{body}</div></section>'
