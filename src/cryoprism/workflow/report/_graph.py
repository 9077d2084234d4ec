"""The causal graph as a drawing: causes above the stage of image formation on which they act."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from cryoprism.causes.graph import CAUSES, FAMILIES, STAGES

from ._numbers import BitUnit, escape, label_of
from ._plots import svg

__all__ = ["draw_graph", "graph_legend"]

_COLUMN: Final = 305
_PILL: Final = (212, 38)
_GAP: Final = 10
_LEFT: Final = 34
_STAGE_HEIGHT: Final = 40


def graph_legend() -> str:
    """Return what colours and lines mean."""
    keys = "".join(f'<span><span class="dot key f-{family}"></span>{family}</span>' for family in FAMILIES)
    return (
        f'<div class="legend">{keys}<span>wider and darker line: heavier weight</span>'
        "<span>dashed grey: cannot be told from these data</span></div>"
    )


def draw_graph(
    graph: Mapping[str, Any],
    ledger: Mapping[str, Mapping[str, float]],
    abstained: Collection[str],
    unit: BitUnit,
) -> str:
    """Draw the directed acyclic graph of a session.

    Parameters
    ----------
    graph
        ``session.graph`` of ``causes.json``.
    ledger
        ``session.ledger``: bits are written into the nodes that have some.
    abstained
        Causes that no micrograph identifies: drawn dashed and grey.
    unit
        For the bits.
    """
    nodes = {node["name"]: node for node in graph["nodes"]}
    edges = [edge for edge in graph["edges"] if edge["from"] in nodes or edge["from"] in STAGES]
    stages = {edge["from"]: edge["to"] for edge in edges if edge["to"] in STAGES and edge["from"] not in STAGES}
    between = [edge for edge in edges if edge["from"] not in STAGES and edge["to"] not in STAGES]
    columns: dict[str, list[str]] = {stage: [] for stage in STAGES}
    for name in nodes:
        if name not in STAGES:
            stage = stages.get(name, CAUSES[name].stage if name in CAUSES else "image")
            columns[stage].append(name)
    # Causes that act on causes stand on top, where their lines pass no other node.
    tied = {edge[end] for edge in between for end in ("from", "to")}
    for names in columns.values():
        names.sort(key=lambda name: name not in tied)
    tallest = max((len(names) for names in columns.values()), default=1)
    lanes = 16 + 8 * len(between)
    base = lanes + tallest * (_PILL[1] + _GAP) + 34
    places = {
        name: (_LEFT + column * _COLUMN, base - 34 - (len(names) - row) * (_PILL[1] + _GAP))
        for column, names in enumerate(columns.values())
        for row, name in enumerate(names)
    }
    parts = [_ties(between, places, nodes, abstained)]
    for column, (stage, names) in enumerate(columns.items()):
        left = _LEFT + column * _COLUMN
        for row, name in enumerate(names):
            weight = next((e.get("weight") for e in edges if e["from"] == name and e["to"] == stage), None)
            weight = float(nodes[name]["weight"]) if weight is None else float(weight)
            # The highest cause takes the outermost lane, so that no line crosses another.
            lane = left + _PILL[0] + 10 + min(7.5, 50 / len(names)) * (len(names) - 1 - row)
            parts.append(_into_stage(places[name], lane, base, nodes[name], weight, name in abstained))
        parts.append(_stage(stage, left, base, column))
    parts += [_pill(nodes[name], place, ledger.get(name), name in abstained, unit) for name, place in places.items()]
    heavy = sorted((n for n in places if n not in abstained), key=lambda n: -float(nodes[n]["weight"]))[:3]
    words = "Causal graph: " + " → ".join(STAGES) + ". Heaviest causes: " + ", ".join(label_of(n) for n in heavy)
    return svg(_LEFT + 4 * _COLUMN - 26, base + _STAGE_HEIGHT + 6, "".join(parts), words)


def _line(family: str, weight: float, abstains: bool) -> str:
    if abstains:
        return 'class="f-image stroke" stroke-width="1.2" stroke-dasharray="4 4" opacity="0.7"'
    return (
        f'class="f-{escape(family)} stroke" stroke-width="{1.2 + 6 * weight:.1f}" opacity="{0.35 + 0.6 * weight:.2f}"'
    )


def _into_stage(
    place: tuple[float, float], lane: float, base: float, node: Mapping[str, Any], weight: float, abstains: bool
) -> str:
    x, y = place[0] + _PILL[0], place[1] + _PILL[1] / 2
    path = f"M{x:g} {y:g}H{lane - 6:g}Q{lane:g} {y:g} {lane:g} {y + 6:g}V{base:g}"
    return f'<path {_line(node["family"], weight, abstains)} d="{path}"/>'


def _ties(
    between: Sequence[Mapping[str, Any]],
    places: Mapping[str, tuple[float, float]],
    nodes: Mapping[str, Any],
    abstained: Collection[str],
) -> str:
    parts = [
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto" '
        'markerUnits="userSpaceOnUse"><path d="M0 0L8 4L0 8z" fill="var(--quiet)"/></marker></defs>'
    ]
    for number, edge in enumerate(between):
        if edge["from"] not in places or edge["to"] not in places:
            continue
        (x1, y1), (x2, y2) = places[edge["from"]], places[edge["to"]]
        weight = float(edge.get("weight", nodes[edge["from"]]["weight"]))
        faint = edge["from"] in abstained
        style = 'stroke-dasharray="4 4"' if faint else ""
        start, end = y1 + _PILL[1] / 2, y2 + _PILL[1] / 2
        if x1 == x2:
            bow = 12 + 3 * number
            path = f"M{x1:g} {start:g}C{x1 - bow:g} {start:g} {x2 - bow:g} {end:g} {x2 - 2:g} {end:g}"
        else:
            lane, side, top = 8 + 8 * number, x2 - 12 - 5 * (number % 3), x1 + 40 + 12 * number
            path = (
                f"M{top:g} {y1:g}V{lane + 8:g}Q{top:g} {lane:g} {top - 8:g} {lane:g}H{side + 8:g}Q{side:g} "
                f"{lane:g} {side:g} {lane + 8:g}"
                f"V{end - 6:g}Q{side:g} {end:g} {x2 - 2:g} {end:g}"
            )
            if side > top:  # the effect stands to the right of its cause
                path = f"M{top:g} {y1:g}V{lane:g}H{side:g}V{end:g}H{x2 - 2:g}"
        title = f"<title>{escape(label_of(edge['from']))} acts on {escape(label_of(edge['to']))}</title>"
        parts.append(
            f'<path d="{path}" fill="none" stroke="var(--quiet)" stroke-width="{1 + 2 * weight:.1f}" '
            f'opacity="0.75" {style} '
            f'marker-end="url(#tip)">{title}</path>'
        )
    return "".join(parts)


def _pill(
    node: Mapping[str, Any],
    place: tuple[float, float],
    loss: Mapping[str, float] | None,
    abstains: bool,
    unit: BitUnit,
) -> str:
    x, y = place
    if abstains:
        frame, second = (
            'style="fill:var(--paper);stroke:var(--image)" stroke-dasharray="4 4"',
            "cannot be told from these data",
        )
    else:
        frame = 'style="fill:var(--paper);stroke:var(--c)" stroke-width="1.8"'
        second = "known, not priced in bits"
        if loss is not None:
            second = f"weight {float(node['weight']):.2f} · {unit.text(loss)} {unit.name}"
    band = "" if abstains else f'<rect class="fill" x="{x:g}" y="{y:g}" width="7" height="{_PILL[1]}" rx="3"/>'
    label = label_of(node["name"])
    quiet = ' class="quiet-text"' if abstains else ""
    if len(label) > 26:  # squeezed into its box
        quiet += f' textLength="{_PILL[0] - 22}" lengthAdjust="spacingAndGlyphs"'
    return (
        f'<g class="f-{escape(node["family"])}"><rect x="{x:g}" y="{y:g}" width="{_PILL[0]}" height="{_PILL[1]}" '
        f'rx="6" {frame}/>{band}'
        f'<text x="{x + 15:g}" y="{y + 16:g}"{quiet} font-weight="600">{escape(label)}</text>'
        f'<text class="tick" x="{x + 15:g}" y="{y + 31:g}">{escape(second)}</text></g>'
    )


def _stage(stage: str, left: float, base: float, column: int) -> str:
    width = _PILL[0] + 64
    arrow = ""
    if column:
        x = left - (_COLUMN - width) - 0.0
        arrow = (
            f'<path d="M{x:g} {base + _STAGE_HEIGHT / 2:g}H{left - 9:g}" style="stroke:var(--ink)" stroke-width="3"/>'
            f'<path d="M{left - 12:g} {base + _STAGE_HEIGHT / 2 - 7:g}l12 7l-12 7z" style="fill:var(--ink)"/>'
        )
    return (
        f'{arrow}<rect x="{left:g}" y="{base:g}" width="{width}" height="{_STAGE_HEIGHT}" rx="6" '
        f'style="fill:var(--soft);stroke:var(--ink)"/>'
        f'<text x="{left + width / 2:g}" y="{base + 25:g}" text-anchor="middle" font-weight="700" '
        f'style="font-size:14px">{escape(stage)}</text>'
    )
