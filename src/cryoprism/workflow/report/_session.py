"""The part of the page about the session as a whole."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cryoprism.causes.graph import CAUSES, FAMILIES, STAGES
from cryoprism.core import InputError
from cryoprism.workflow.jobs.files import write_text

from ._graph import draw_graph, graph_legend
from ._numbers import (
    UNKNOWN,
    bit_unit,
    escape,
    family_of,
    label_of,
    measured,
    plain,
    remedies,
    share,
)
from ._plots import bar, bar_axis, distribution, drift_plot, session_bars
from ._style import CSS

__all__ = ["abstained_causes", "leading", "ledger_table", "lost_bits", "session_sections", "what_to_fix"]

_CLEAR: Final = 2.0  # standard deviations above zero before a loss is called one
_WORTH: Final = 0.01  # of the loss: nobody mends what costs less
_GATES: Final = (
    ("bounds", "π"),
    ("information", "i"),
    ("repeatability", "△"),
    ("stability", "⋄"),
    ("in_distribution", "∞"),
)
#: Title, cause, unit; the cause's leading parameter is shown.
_DISTRIBUTIONS: Final = (
    ("defocus", "defocus"),
    ("astigmatism", "astigmatism"),
    ("drift length", "motion"),
    ("B-factor", "envelope"),
    ("ice thickness", "ice_thickness"),
    ("tilt", "tilt"),
    ("phase shift", "phase_shift"),
)


def lost_bits(part: Mapping[str, Any]) -> float:
    """Bits between what a session or a micrograph holds and what it could hold."""
    return float(part["ideal_information_in_bits"]["mean"]) - float(part["information_in_bits"]["mean"])


def abstained_causes(document: Mapping[str, Any]) -> frozenset[str]:
    """Causes of which no micrograph tells anything; without any micrograph, all."""
    known = {
        name for entry in document["micrographs"] for name, cause in entry["causes"].items() if cause["identifiable"]
    }
    every = {node["name"] for node in document["session"]["graph"]["nodes"]} | {
        name for entry in document["micrographs"] for name in entry["causes"]
    }
    return frozenset(every - known - set(document["session"]["ledger"]) - set(STAGES))


def leading(entry: Mapping[str, Any], cause: str) -> tuple[float, str] | None:
    """Leading parameter of a cause and its unit, if it is identifiable: the one called a mean, or the first."""
    parameters = entry["causes"].get(cause, {"parameters": {}})["parameters"]
    names = sorted(parameters, key=lambda name: not name.startswith("mean_"))
    for value in (parameters[name] for name in names):
        if value["identifiable"] and value["mean"] is not None:
            return float(value["mean"]), str(value["unit"])
    return None


def what_to_fix(document: Mapping[str, Any]) -> str:
    """Remedies for the three largest clear losses."""
    session, lost = document["session"], lost_bits(document["session"])
    clear = [
        (name, loss)
        for name, loss in sorted(session["ledger"].items(), key=lambda item: -item[1]["mean"])
        if loss["mean"] > max(_WORTH * lost, _CLEAR * loss["standard_deviation"]) and any(remedies(name))
    ][:3]
    if not clear or lost <= 0:
        return '<p class="quiet">No cause took a clear amount of information.</p>'
    items = []
    for name, loss in clear:
        rows = "".join(
            f"<dt>{where}</dt><dd>{escape(text[0].upper() + text[1:])}.</dd>"
            for where, text in zip(
                ("in processing", "at the microscope"), (t.rstrip(".") for t in remedies(name)), strict=True
            )
            if text
        )
        key = f'<span class="dot key f-{family_of(name, session["graph"])}"></span>'
        items.append(f"<li>{key}<b>{escape(label_of(name))}</b> ({share(loss, lost)} of the loss)<dl>{rows}</dl></li>")
    return f'<ol class="todo">{"".join(items)}</ol>'


def ledger_table(
    ledger: Mapping[str, Mapping[str, float]],
    lost: float,
    graph: Mapping[str, Any],
    abstained: Sequence[str],
    caption: str,
) -> str:
    """Ledger as bars with error bars beside their numbers."""
    rows = sorted(ledger.items(), key=lambda item: -item[1]["mean"])
    unit = bit_unit([loss["mean"] for _, loss in rows])
    low, high = scale_of(ledger)
    lines = []
    for name, loss in rows:
        family = family_of(name, graph)
        picture = bar(
            loss["mean"], loss["standard_deviation"], low, high, family, label=f"{label_of(name)}: bar", width=380
        )
        lines.append(
            f'<tr><th scope="row"><span class="dot key f-{family}"></span>{escape(label_of(name))}</th><td>'
            f"{picture}</td>"
            f'<td class="number">{unit.html(loss)}</td><td class="number">{share(loss, lost)}</td></tr>'
        )
    lines += [
        f'<tr class="abstained"><th scope="row">{escape(label_of(name))}</th><td colspan="3">cannot be told from '
        f"these data"
        f"{_why(name)}</td></tr>"
        for name in abstained
    ]
    axis = bar_axis(low, high, unit.name, divide_by=unit.bits, width=380)
    return (
        f'<table class="ledger"><caption>{caption}</caption><thead><tr><th scope="col">cause</th><th scope="col">'
        f"information lost [{unit.name}], "
        'error bar: 1 standard deviation</th><th scope="col" class="number">lost</th><th scope="col" '
        'class="number">of the loss</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody><tfoot><tr><td></td><td>{axis}</td><td></td><td></td></tr></tfoot></table>"
    )


def scale_of(ledger: Mapping[str, Mapping[str, float]]) -> tuple[float, float]:
    """Range of bars that holds every mean with its error bar, and zero."""
    ends = [loss["mean"] + sign * loss["standard_deviation"] for loss in ledger.values() for sign in (-1, 1)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    # A bar that is all error would squeeze the others: to the left nothing reaches further than half of the largest.
    largest = max((abs(loss["mean"]) for loss in ledger.values()), default=0.0)
    return max(low, -0.5 * largest), (high or 1.0)


def _why(cause: str) -> str:
    return (
        f": {escape(CAUSES[cause].unidentifiable_when)}"
        if cause in CAUSES and CAUSES[cause].unidentifiable_when != "never"
        else ""
    )


def session_sections(document: Mapping[str, Any]) -> str:
    """Ledger, graph, course of the session, distributions, loop and priors."""
    session, micrographs = document["session"], document["micrographs"]
    abstained = abstained_causes(document)
    order = [name for name in CAUSES if name in abstained] + sorted(abstained - set(CAUSES))
    lost = lost_bits(session)
    unit = bit_unit([loss["mean"] for loss in session["ledger"].values()])
    total = measured(lost, None, unit.name, divide_by=unit.bits)
    caption = f"{total} lost in all; the shares of all causes add up to it (Shapley values)."
    parts = [
        '<section id="ledger"><h2>Where the information went</h2><div class="box scroll">',
        ledger_table(session["ledger"], lost, session["graph"], order, caption),
        '</div></section><section id="graph"><h2>How the causes act</h2><div class="box scroll">',
        draw_graph(session["graph"], session["ledger"], abstained, unit),
        graph_legend(),
        "</div></section>",
    ]
    if micrographs:
        parts.append(_course(document))
        parts.append(_distributions(micrographs))
    parts += [_loop(session["loop"], session["graph"]), _priors(session["priors"])]
    return "".join(parts)


def write_graph(document: Mapping[str, Any], path: str | Path) -> None:
    """Write the causal graph of a session as a drawing of its own (.svg): edges as heavy as their cause's loss.

    Raises
    ------
    InputError
        The suffix is not .svg.
    """
    if Path(path).suffix.lower() != ".svg":
        raise InputError("--graph", f"'{path}' does not end in .svg", "The graph is drawn as SVG: name such a file.")
    session = document["session"]
    unit = bit_unit([loss["mean"] for loss in session["ledger"].values()])
    drawing = draw_graph(session["graph"], session["ledger"], abstained_causes(document), unit)
    # A page gives the drawing its colours; on its own it brings them along, in their light form.
    style = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", CSS)
    head, body = drawing.split(">", 1)
    head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    paper = '<rect width="100%" height="100%" fill="#fff"/>'
    write_text(path, f"{head}><style>{style}svg{{font-family:system-ui,sans-serif}}</style>{paper}{body}\n")


def _course(document: Mapping[str, Any]) -> str:
    micrographs, graph = document["micrographs"], document["session"]["graph"]
    kept = [entry["information_in_bits"]["mean"] for entry in micrographs]
    lost = []
    for entry in micrographs:
        sums = dict.fromkeys(FAMILIES, 0.0)
        for name, cause in entry["causes"].items():
            family = family_of(name, graph)
            if cause["bits_lost"] is not None and family in sums:
                sums[family] += cause["bits_lost"]["mean"]
        lost.append(list(sums.values()))
    unit = bit_unit([entry["ideal_information_in_bits"]["mean"] for entry in micrographs])
    keys = "".join(f'<span><span class="dot key f-{family}"></span>lost to {family}</span>' for family in FAMILIES)
    return (
        '<section id="course"><h2>Through the session</h2><div class="box scroll"><div '
        'class="legend"><span><span class="dot key f-kept"></span>'
        f"information kept</span>{keys}</div>{session_bars(kept, lost, FAMILIES, unit.name, unit.bits)}</div></section>"
    )


def _distributions(micrographs: Sequence[Mapping[str, Any]]) -> str:
    plots: list[str] = []
    unknown: list[str] = []
    for title, cause in _DISTRIBUTIONS:
        if not any(cause in entry["causes"] for entry in micrographs):
            continue
        found = [value for entry in micrographs if (value := leading(entry, cause)) is not None]
        if not found:
            unknown.append(title)
            continue
        plots.append(_figure([value for value, _ in found], found[0][1], title, len(micrographs)))
    limits = [float(e["fit_limit_in_angstroms"]) for e in micrographs if e.get("fit_limit_in_angstroms") is not None]
    if limits:
        plots.insert(2, _figure(limits, "Å", "fit limit", len(micrographs)))
    vectors = [vector for entry in micrographs if (vector := _drift(entry)) is not None]
    if vectors:
        plots.insert(
            0,
            f'<figure class="box high">{drift_plot(vectors)}<figcaption>Drift of {len(vectors)} of '
            f"{len(micrographs)} micrographs: length and axis. "
            "A spectrum cannot tell forwards from backwards.</figcaption></figure>",
        )
    note = f'<p class="quiet small">Known for no micrograph: {escape(", ".join(unknown))}.</p>' if unknown else ""
    body = f'<div class="multiples">{"".join(plots)}</div>{note}'
    return f'<section id="distributions"><h2>Distributions</h2>{body}</section>'


def _figure(values: Sequence[float], unit: str, title: str, every: int) -> str:
    known = "" if len(values) == every else f" Known for {len(values)} of {every}."
    median = (
        sorted(values)[len(values) // 2]
        if len(values) % 2
        else sum(sorted(values)[len(values) // 2 - 1 : len(values) // 2 + 1]) / 2
    )
    shown = "" if unit == "1" else unit
    return (
        f'<figure class="box">{distribution(values, shown, title)}<figcaption>Median {plain(median)} '
        f"{escape(shown)} (dashed).{known}</figcaption>"
        "</figure>"
    )


def _drift(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    """Drift (x, y) [Å] from its components, or from length and direction (degrees from x towards y)."""
    parameters = entry["causes"].get("motion", {"parameters": {}})["parameters"]
    means = {name: p for name, p in parameters.items() if p["identifiable"] and p["mean"] is not None}
    x = next((p["mean"] for name, p in means.items() if _component(name, "x")), None)
    y = next((p["mean"] for name, p in means.items() if _component(name, "y")), None)
    if x is not None and y is not None:
        return float(x), float(y)
    length = next((p["mean"] for p in means.values() if p["unit"] == "Å"), None)
    angle = next((p["mean"] for p in means.values() if p["unit"] in ("degrees", "°")), None)
    if length is None or angle is None:
        return None
    return length * math.cos(math.radians(angle)), length * math.sin(math.radians(angle))


def _component(name: str, axis: str) -> bool:
    return axis in name.removesuffix("_in_angstroms").split("_")


def _loop(loop: Mapping[str, Any], graph: Mapping[str, Any]) -> str:
    explained = (
        "Each cause is judged by five gates from 0 to 1, and their product is its weight: <b>π</b> inside "
        "physical bounds · <b>i</b> its share of the "
        "information at stake · <b>△</b> repeated by independent halves of the image · <b>⋄</b> stable between "
        "passes · <b>∞</b> typical for the "
        "session. The loop ends when no cause moves by more than 1 σ."
    )
    trace = loop["trace"]
    notice = (
        ""
        if loop["converged"]
        else (
            f'<p class="notice"><b>The loop did not settle</b> within {escape(loop["passes"])} passes: take error '
            f"bars as too small.</p>"
        )
    )
    head = f'<section id="loop"><h2>Self-evaluation loop</h2><div class="box">{notice}<p class="small">{explained}</p>'
    if not trace:
        return f'{head}<p class="quiet">No pass was recorded.</p></div></section>'
    names = list(dict.fromkeys(name for step in trace for name in step["causes"]))
    moves = "".join(f"<tr>{_largest_move(step)}</tr>" for step in trace)
    settled = "" if notice else f"Settled after {escape(loop['passes'])} pass{'' if loop['passes'] == 1 else 'es'}."
    passes = (
        f'<table class="compact"><caption>{settled}</caption><thead><tr><th scope="col">pass</th>'
        '<th scope="col" class="number">largest move [σ]</th><th scope="col">of</th></tr></thead>'
        f"<tbody>{moves}</tbody></table>"
    )
    rows = []
    for name in names:
        weights = [step["causes"].get(name, {}).get("weight") for step in trace]
        cells = [trace[-1]["causes"].get(name, {}).get(key) for key, _ in _GATES] + weights
        key = f'<span class="dot key f-{family_of(name, graph)}"></span>'
        numbers = "".join(f'<td class="number">{measured(value, decimals=2)}</td>' for value in cells)
        rows.append(f'<tr><th scope="row">{key}{escape(label_of(name))}</th>{numbers}</tr>')
    heads = [symbol for _, symbol in _GATES] + [f"weight, pass {escape(step['pass'])}" for step in trace]
    shown = "".join(f'<th scope="col" class="number">{head}</th>' for head in heads)
    gates = (
        '<table class="compact"><caption>Gates in the last pass, and weights by pass.</caption>'
        f'<thead><tr><th scope="col">cause</th>{shown}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )
    return f'{head}<div class="loop"><div>{passes}</div><div class="scroll">{gates}</div></div></div></section>'


def _largest_move(step: Mapping[str, Any]) -> str:
    number = f'<th scope="row">{escape(step["pass"])}</th>'
    if not step["causes"]:
        return f'{number}<td class="number">{UNKNOWN}</td><td></td>'
    name, judged = max(step["causes"].items(), key=lambda item: float(item[1]["shift_in_standard_deviations"]))
    move = measured(judged["shift_in_standard_deviations"], decimals=2)
    return f'{number}<td class="number">{move}</td><td>{escape(label_of(name))}</td>'


def _priors(priors: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(label_of(cause))}</th><td>{escape(name.replace("_", " "))}</td>'
        f'<td class="number">{measured(value["mean"], value["standard_deviation"], value["unit"])}</td></tr>'
        for cause, parameters in priors.items()
        for name, value in parameters.items()
    )
    if not rows:
        return ""
    return (
        '<section id="priors"><h2>What the session teaches</h2><div class="box scroll"><table '
        'class="compact"><caption>Expected value and spread of a '
        "micrograph of this session before it is looked at (empirical Bayes).</caption>"
        '<thead><tr><th scope="col">cause</th><th scope="col">parameter</th><th scope="col" class="number">mean '
        "± standard deviation</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></section>"
    )
