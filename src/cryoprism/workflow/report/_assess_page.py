"""The page of an assessment: verdict, answers, one score, each question with its evidence, weights, and data."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cryoprism import __version__
from cryoprism.evaluation.fusion import SYMBOLS, impact_bound_in_citations
from cryoprism.workflow.jobs.files import write_text
from cryoprism.workflow.judgement.assess_words import QUESTIONS

from ._assess_tables import EVIDENCE, perturbation_table
from ._consistency_page import CHECK, CONSISTENCY_CSS, LOGIC_SCORE
from ._map_plots import legend
from ._novelty_page import NOVELTY_CSS
from ._numbers import UNKNOWN, escape, with_error
from ._score_page import Row, interval_chart
from ._style import CSS

__all__ = ["assess_report"]

_ASSESS_CSS: Final = """
.absent{border-left:4px solid var(--kept)}
.answer{display:flex;flex-wrap:wrap;gap:4px 16px;align-items:baseline}
.answer h2{margin-bottom:6px}
.answer b{font-size:17px}
.evidence li{margin:3px 0}
.evidence li:first-child{font-weight:600}
.box+.box,section>section,section>section+.box{margin-top:10px}
section>section h3{margin:14px 0 6px}
.grid .box+.box{margin-top:0}
.facts{grid-template-columns:repeat(auto-fit,minmax(290px,1fr))}
.fact span b{display:inline;font-size:inherit}
.score{font-size:17px;margin:2px 0 4px}
"""
_SCORES: Final = (
    "V adds up the answers to the five questions, each times its weight: 0 where nothing speaks for the work. "
    "HyperScore is V on a scale that begins at 100 and never reaches 200; more is better."
)
#: What the words of a question mean, said once, where they first stand.
_MEANING: Final = {
    "logic": f"{LOGIC_SCORE} {CHECK}",
    "meta": "This measures whether the estimate of what the microscope did (defocus, drift, background …) stood still "
    "in the last pass and has one solution. A restoration goes on until it does, so the answer is close to 1 for "
    "nearly every one that finished: it tells a failed estimate from another, and nothing about the model.",
}
_DATA: Final = {
    "assessment.json": "every number of this page; its schema comes with the package",
    "consistency.json": "every rule and every offender",
    "certificate/README.md": "how to check the proofs again",
    "certificate/transcript.txt": "what the prover said",
}


def assess_report(
    folder: Path, document: Mapping[str, Any], *, pictures: Mapping[str, str], files: Sequence[str]
) -> Path:
    """Write ``report.html``: one file that needs no network and, but for what it links to, no other file.

    Parameters
    ----------
    folder
        Of the job.
    document
        Content of ``assessment.json``.
    pictures
        HTML to show with the evidence, by question.
    files
        What else lies in the folder, relative to it.
    """
    path = Path(folder) / "report.html"
    title = f"Assessment of {Path(document['inputs']['model']).name}"
    sections = "".join(_question(name, document[name], pictures.get(name, "")) for name in QUESTIONS)
    score, *rest = document["sentences"]
    listed = "".join(f"<li>{escape(text)}</li>" for text in rest)
    notes = "".join(f'<p class="notice">{escape(text)}</p>' for text in document["notes"])
    body = (
        f'<header><h1>{escape(title)}</h1><p class="verdict">{escape(document["verdict"])}</p>'
        f"{notes}</header>"
        f"<main>{_overview(document)}"
        f'<section id="score"><h2>One score from them</h2><p class="score">{escape(score)}</p>{_facts(document)}'
        f'<p class="quiet small">{_SCORES}</p><ul>{listed}</ul></section>'
        f"{sections}{_fragile(document)}{_weights(document)}{_data(document, files)}</main>"
        f"<footer><p>Written by CryoPrism {escape(__version__)}; assessment.json holds every number of this page.</p>"
        "</footer>"
    )
    write_text(
        path,
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><style>{CSS}{NOVELTY_CSS}{CONSISTENCY_CSS}{_ASSESS_CSS}</style></head><body>\n{body}\n'
        "</body></html>\n",
    )
    return path


def _facts(document: Mapping[str, Any]) -> str:
    found = sum(document[name]["status"] == "available" for name in QUESTIONS)
    judgements = document["judgements"]
    facts = [
        *_range(document),
        (_interval(document["hyperscore"], 1), f"HyperScore of {_those(document)}, 95 % interval"),
        (_interval(document["v"], 3), f"V of {_those(document)}, 95 % interval" + _v_range(document)),
        *([] if document["missing"] else [(f"{found} of {len(QUESTIONS)}", "questions that have an answer")]),
        (f"{judgements}" if judgements else "none", "judgements behind the weights"),
    ]
    shown = "".join(f'<div class="fact"><b>{value}</b><span>{words}</span></div>' for value, words in facts)
    return f'<div class="facts">{shown}</div>'


def _those(document: Mapping[str, Any]) -> str:
    return "the answers that there are alone" if document["missing"] else "all answers"


def _missing(document: Mapping[str, Any]) -> str:
    many = len(document["missing"])
    counted = f" (impact up to {impact_bound_in_citations():g} citations)" if "impact" in document["missing"] else ""
    return f"{'the missing answer' if many == 1 else f'the {many} missing answers'} anywhere{counted}"


def _range(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say first between what the score lies with the missing answers anywhere, which its interval does not hold."""
    ends = document["hyperscore_range"]
    if ends is None:
        return []
    return [(f"{ends[0]:.1f} to {ends[1]:.1f}", f"HyperScore with {_missing(document)}")]


def _v_range(document: Mapping[str, Any]) -> str:
    ends = document["v_range"]
    return "" if ends is None else f"; with {_missing(document)} <b>{ends[0]:.3f} to {ends[1]:.3f}</b>"


def _interval(one: Mapping[str, float] | None, decimals: int) -> str:
    if one is None:
        return UNKNOWN
    return f"{one['value']:.{decimals}f} ({one['lower']:.{decimals}f} to {one['upper']:.{decimals}f})"


def _overview(document: Mapping[str, Any]) -> str:
    """Every question with its answer in words and numbers, and the answers from 0 to 1 as a chart."""
    rows: list[Row] = []
    listed = ""
    for name in QUESTIONS:
        one = document[name]
        counts = one["status"] == "available"
        listed += (
            f'<tr><th scope="row"><a href="#{name}">{escape(QUESTIONS[name])}</a></th><td class="number">'
            f"{UNKNOWN if one['value'] is None else _value(name, one['value'], one['standard_deviation'])}"
            f"{' citations' if name == 'impact' and one['value'] is not None else ''}</td>"
            f"<td>{'' if counts else escape(one['status'])}</td></tr>"
        )
        if one["value"] is None or name == "impact":
            continue
        low, high = (one["value"] + sign * 1.96 * one["standard_deviation"] for sign in (-1, 1))
        label = f"{name} ({SYMBOLS[name]})" + ("" if counts else ", not counted")
        rows.append((label, [(one["value"], max(low, 0.0), min(high, 1.0), "aberrations" if counts else "kept")]))
    chart = ""
    if rows:
        chart = interval_chart(rows, "answer, 0 to 1, with 95 % interval", "answers with their intervals")
        chart = f'<div class="box">{chart}</div>'
    return (
        '<section id="answers"><h2>The answers</h2><div class="grid two"><div class="box scroll">'
        f'<table class="compact"><tbody>{listed}</tbody></table></div>{chart}</div></section>'
    )


def _question(name: str, part: Mapping[str, Any], picture: str) -> str:
    known = part["value"] is not None
    counts = part["status"] == "available"
    value = f"<b>{_value(name, part['value'], part['standard_deviation'])}</b>" if known else ""
    value += "" if counts else f' <span class="flag">{escape(part["status"])}</span>'
    unit = "citations" if name == "impact" and known else ""
    # What is missing stands in the table under it.
    told = [text for text in part["sentences"] if not (known and text.startswith("Missing"))]
    listed = "".join(f"<li>{escape(text)}</li>" for text in told)
    table = EVIDENCE[name](part["evidence"]) if known else ""
    meaning = f'<p class="quiet small">{_MEANING[name]}</p>' if name in _MEANING else ""
    return (
        f'<section id="{name}"><div class="answer"><h2>{escape(QUESTIONS[name])}</h2>{value} {unit}'
        f'<span class="quiet">{name} ({SYMBOLS[name]})</span></div>'
        f'<div class="box{"" if counts else " absent"}"><ul class="evidence">{listed}</ul>{meaning}</div>'
        f"{picture}{table}</section>"
    )


def _value(name: str, value: float, deviation: float) -> str:
    if name == "impact":
        return with_error(value, deviation)
    return f"{value:.3f} ± {deviation:.3f}" if deviation >= 0.0005 else f"{value:.3f} ± less than 0.001"


def _fragile(document: Mapping[str, Any]) -> str:
    part = document["perturbation"]
    known = part["status"] == "available"
    listed = "".join(f"<li>{escape(text)}</li>" for text in part["sentences"])
    flag = "" if known else '<span class="flag">not available</span>'
    table = perturbation_table(part["evidence"]) if known else ""
    return (
        '<section id="perturbation"><div class="answer"><h2>Which conclusion hangs on which parameter?</h2>'
        f"{flag}</div>"
        f'<div class="box{"" if known else " absent"}"><ul class="evidence">{listed}</ul></div>{table}</section>'
    )


def _weights(document: Mapping[str, Any]) -> str:
    rows: list[Row] = []
    listed = ""
    for name, one in document["weight_intervals"].items():
        used = document["weights"][name]
        rows.append(
            (
                f"{name} ({SYMBOLS[name]})",
                [(one["weight"], one["lower"], one["upper"], "aberrations"), (used, used, used, "noise")],
            )
        )
        adds = document["contributions"][name]
        listed += (
            f'<tr><th scope="row">{name} ({SYMBOLS[name]})</th><td class="number">{one["weight"]:.3f}</td>'
            f'<td class="number">{one["lower"]:.3f} to {one["upper"]:.3f}</td><td class="number">{used:.3f}</td>'
            f'<td class="number">{UNKNOWN if adds is None else f"{adds:.3f}"}</td></tr>'
        )
    shape = document["shape"]
    chart = interval_chart(rows, "weight", "weights with their intervals")
    keys = legend(
        [("aberrations", "weight, 95 % interval"), ("noise", "as used, after missing answers were shared out")]
    )
    return (
        f'<section id="weights"><h2>What weighs how much</h2><div class="grid two"><div class="box">{chart}{keys}</div>'
        '<div class="box scroll"><table><thead><tr><th>answer</th><th class="number">weight</th>'
        '<th class="number">95 % interval</th><th class="number">as used</th><th class="number">adds to V</th></tr>'
        f'</thead><tbody>{listed}</tbody></table><p class="quiet small">V is the sum of weight × answer, impact as '
        "ln(citations + 1); HyperScore = 100·[1 + σ(β·ln V + γ)^κ] with "
        f"β {shape['beta']:.3g}, γ {shape['gamma']:.3g}, κ {shape['kappa']:.3g}.</p></div></div></section>"
    )


def _data(document: Mapping[str, Any], files: Sequence[str]) -> str:
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    inside = base64.b64encode(text.encode()).decode()
    there = [name for name in _DATA if name == "assessment.json" or name in files]
    items = "".join(f'<li><a href="{escape(name)}">{escape(name)}</a>: {_DATA[name]}</li>' for name in there)
    items += (
        '<li><a download="assessment.json" href="data:application/json;base64,'
        f'{inside}">assessment.json as it stands in this page</a>, where the page was sent alone</li>'
    )
    proofs = ""
    if document["certificate"] is not None:
        trusted = "".join(f"<li>{escape(text)}</li>" for text in document["logic"]["evidence"]["trusted"])
        proofs = (
            '<div class="box"><h3>Check the proofs again</h3><p><code>sh certificate/check.sh</code>, with Coq 8.16 or '
            f'later. Trusted beside the proofs:</p><ul class="small">{trusted}</ul></div>'
        )
    given = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{UNKNOWN if path is None else escape(path)}</td></tr>'
        for name, path in document["inputs"].items()
    )
    return (
        f'<section id="data"><h2>Certificate and data</h2>{proofs}<div class="box"><h3>Files</h3><ul>{items}</ul></div>'
        f'<div class="box scroll"><h3>What was given</h3><table><tbody>{given}</tbody></table></div></section>'
    )
