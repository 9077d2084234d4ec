"""The report of the proofs about a model: verdict, rules, offenders in words, and a strip of its residues."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryoprism import __version__
from cryoprism.evaluation.consistency import TRUSTED, Consistency, RuleResult
from cryoprism.formats import Volume
from cryoprism.workflow.jobs.files import write_text

from ._model_picture import PICTURE_CSS, model_section
from ._numbers import UNKNOWN, escape, plain, with_error
from ._residue_strip import STRIP_CSS, cells_of, residue_strips
from ._style import CSS

__all__ = ["CHECK", "CONSISTENCY_CSS", "LOGIC_SCORE", "consistency_pictures", "consistency_report"]

#: Style of what :func:`consistency_pictures` returns.
CONSISTENCY_CSS: Final = STRIP_CSS + PICTURE_CSS
CHECK: Final = (
    "A check is what one rule asks of one residue, one bond or one centre, for example that this bond has a possible "
    "length."
)
LOGIC_SCORE: Final = (
    "LogicScore is the share of the checks that are proved, each with the weight of its rule: 1 where all are."
)

_STYLE: Final = """
.facts{grid-template-columns:repeat(auto-fit,minmax(205px,1fr))}
.stack>section+section{margin-top:18px}
.verdict{font-size:21px;line-height:1.35;font-weight:600;margin:8px 0 4px;max-width:62em}
"""
_COLOURS: Final = {"proved": "#7fb2d6", "refuted": "#c8440a", "unknown": "#f0b429"}
_MOST_OFFENDERS = 60


def consistency_pictures(result: Consistency, volume: Volume | None) -> str:
    """Return the model in its map and the strips of residues, as sections for a page."""
    return model_section(result, volume) + residue_strips(cells_of(result))


def consistency_report(folder: Path, result: Consistency, volume: Volume | None = None, notice: str = "") -> Path:
    """Write ``report.html``: one file that needs no network and no other file; it is written whole or not at all.

    Parameters
    ----------
    folder
        Of the job.
    result
        What the rules say.
    volume
        The map, where one was given.
    notice
        What to see before all else; it is one of the result's remarks.
    """
    path = Path(folder) / "report.html"
    title = f"Consistency of {result.model.path.name}"
    pictures = consistency_pictures(result, volume)
    body = (
        _head(title, result, notice)
        + f'<main><h2>Where it is</h2><div class="stack">{pictures}</div>{_rules(result)}{_offenders(result)}{_trust()}'
        "</main>"
    )
    write_text(
        path,
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><style>{CSS}{CONSISTENCY_CSS}{_STYLE}</style></head><body>\n{body}\n<footer>'
        f"<p>Written by CryoPrism {escape(__version__)} from consistency.json beside it.</p></footer></body></html>\n",
    )
    return path


def _head(title: str, result: Consistency, notice: str) -> str:
    sentences = [text for text in result.sentences() if text != notice]
    score = UNKNOWN if result.score is None else with_error(result.score, result.deviation, 4)
    facts = [
        (score, "LogicScore, from 0 to 1"),
        (f"{result.count('proved'):,}", "checks proved"),
        (f"{result.count('refuted'):,}", "refuted"),
        (f"{result.count('unknown'):,}", "unknown"),
        (f"{len(result.model):,}", "atoms"),
        (escape(result.prover), "checked every verdict" if result.prover.startswith("Coq") else "nothing is proved"),
        (f"{plain(result.cpu_seconds, 2)}\u202fs", "CPU time, everything"),
    ]
    shown = "".join(f'<div class="fact"><b>{value}</b><span>{words}</span></div>' for value, words in facts)
    rest = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences[1:])
    more = f'<div class="box"><ul class="todo">{rest}</ul></div>' if rest else ""
    warning = f'<p class="notice">{escape(notice)}</p>' if notice else ""
    links = (
        '<p class="small"><a href="consistency.json">consistency.json</a> · <a href="certificate/README.md">certificate'
        "</a>: <code>sh certificate/check.sh</code> checks every proof again</p>"
    )
    return (
        f'<header><h1>{escape(title)}</h1><p class="verdict">{escape(sentences[0])}</p>'
        f"{warning}<div class='facts'>{shown}</div><p class='quiet small'>{CHECK} {LOGIC_SCORE}</p>{more}{links}"
        "</header>"
    )


def _bar(rule: RuleResult) -> str:
    parts, start = "", 0.0
    for name in ("proved", "refuted", "unknown"):
        count = getattr(rule, name)
        # A single failure among thousands has to be seen.
        width = max(120 * count / rule.obligations, 3.0) if count else 0.0
        parts += f'<rect x="{start:.1f}" y="1" width="{width:.1f}" height="10" fill="{_COLOURS[name]}"/>'
        start += width
    return f'<svg viewBox="0 0 130 12" width="130" height="12" role="img" aria-label="shares">{parts}</svg>'


def _rules(result: Consistency) -> str:
    rows = ""
    for rule in result.rules:
        note = " ".join(text for text in (rule.note, rule.why_unknown) if text)
        small = f'<br><span class="quiet small">{escape(note)}</span>' if note else ""
        rows += (
            f'<tr><th scope="row">{escape(rule.title)}{small}</th><td>{escape(rule.unit)}</td>'
            f'<td class="number">{rule.obligations:,}</td><td class="number">{rule.proved:,}</td>'
            f'<td class="number">{rule.refuted:,}</td><td class="number">{rule.unknown:,}</td>'
            f'<td class="number">{rule.weight:.3g}</td><td>{_bar(rule)}</td></tr>'
        )
    return (
        '<section id="rules"><h2>Rule by rule</h2><div class="box scroll"><table><thead><tr><th scope="col">rule</th>'
        '<th scope="col">one check is a</th><th scope="col" class="number">all</th><th scope="col" class="number">'
        'proved</th><th scope="col" class="number">refuted</th><th scope="col" class="number">unknown</th>'
        f'<th scope="col" class="number">weight</th><th scope="col"></th></tr></thead><tbody>{rows}</tbody></table>'
        '<p class="quiet small">LogicScore = Σ weight · proved / Σ weight · all; unknown never counts as proved. Its '
        "standard deviation takes the checks of each rule as draws (Beta posterior, Jeffreys' prior) and adds "
        "the spread that unknown ones leave.</p></div></section>"
    )


def _offenders(result: Consistency) -> str:
    boxes = ""
    for rule in result.rules:
        if not rule.offenders or rule.name == "envelope":  # those stand by the picture, as ranges
            continue
        shown = "".join(f"<li>{escape(one.words)}.</li>" for one in rule.offenders[:_MOST_OFFENDERS])
        left = len(rule.offenders) - _MOST_OFFENDERS
        more = f'<p class="quiet small">… and {left:,} more in consistency.json.</p>' if left > 0 else ""
        unchecked = "" if rule.refuted else ' <span class="flag">not checked by the prover</span>'
        boxes += f'<div class="box"><h3>{escape(rule.title)}{unchecked}</h3><ul>{shown}</ul>{more}</div>'
    if not boxes:
        return ""
    return f'<section id="offenders"><h2>What is wrong, and where</h2><div class="grid">{boxes}</div></section>'


def _trust() -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in TRUSTED)
    return (
        '<section id="trust"><h2>What you have to trust beside the proofs</h2><div class="box"><ul>'
        f"{items}</ul></div></section>"
    )
