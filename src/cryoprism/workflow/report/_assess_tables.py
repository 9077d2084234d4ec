"""Tables of evidence on the page of an assessment, one for each question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ._novelty_page import ratio
from ._numbers import UNKNOWN, escape, label_of, plain

__all__ = ["EVIDENCE", "perturbation_table"]

_MOST_SHOWN: Final = 8


def _table(heads: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], *, tall: bool = False) -> str:
    """Return a table; heads are (words, class of the column), cells are HTML."""
    if not rows:
        return ""
    shown = "".join(f'<th scope="col" class="{kind}">{words}</th>' for words, kind in heads)
    body = ""
    for first, *others in rows:
        cells = "".join(f'<td class="{kind}">{cell}</td>' for (_, kind), cell in zip(heads[1:], others, strict=True))
        body += f'<tr><th scope="row">{first}</th>{cells}</tr>'
    kind = "box scroll tall" if tall else "box scroll"
    return (
        f'<div class="{kind}"><table class="compact"><thead><tr>{shown}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _logic(evidence: Mapping[str, Any]) -> str:
    heads = (
        ("rule", ""), ("checks", "number"), ("proved", "number"), ("refuted", "number"), ("unknown", "number"),
        ("weight of one", "number"), ("one check is a", ""),
    )  # fmt: skip
    rows = [
        [
            escape(rule["title"])
            + (f'<br><span class="quiet small">{escape(rule["note"])}</span>' if rule["note"] else ""),
            *(f"{rule[key]:,}".replace(",", "\u202f") for key in ("obligations", "proved", "refuted", "unknown")),
            plain(rule["weight"], 3),
            escape(rule["unit"]),
        ]
        for rule in evidence["rules"]
    ]
    faults = ""
    for rule in evidence["rules"]:
        # Residues outside the map stand by its picture, as ranges.
        if not rule["offenders"] or rule["name"] == "envelope":
            continue
        listed = "".join(f"<li>{escape(one['words'])}</li>" for one in rule["offenders"][:_MOST_SHOWN])
        more = rule["offenders_in_all"] - min(len(rule["offenders"]), _MOST_SHOWN)
        rest = f'<p class="quiet small">and {more} more, in consistency.json</p>' if more else ""
        found = "" if rule["refuted"] else " (found without a proof)"
        faults += f"<h3>{escape(rule['title'])}{found}</h3><ul>{listed}</ul>{rest}"
    boxed = f'<div class="box">{faults}</div>' if faults else ""
    return _table(heads, rows) + boxed


def _novelty(evidence: Mapping[str, Any]) -> str:
    heads = (
        ("nearest shape", ""), ("distance", "number"), ("likelihood ratio", "number"), ("probability", "number"),
        ("3Di similarity", "number"), ("radius of gyration [Å]", "number"),
    )  # fmt: skip
    rows = [
        [
            escape(one["name"]),
            f"{one['distance']:.3f}",
            ratio(one["likelihood_ratio"]),
            UNKNOWN if one["probability"] is None else f"{one['probability']:.3f}",
            UNKNOWN if one["state_similarity"] is None else f"{one['state_similarity']:.2f}",
            f"{one['radius_of_gyration_in_angstroms']:.1f}",
        ]
        for one in evidence["neighbours"]
    ]
    return _table(heads, rows)


def _impact(evidence: Mapping[str, Any]) -> str:
    rows = [
        [escape(words), escape(evidence[key])]
        for key, words in (("title", "publication"), ("doi", "DOI"), ("model", "model"), ("until", "the graph ends in"))
        if evidence.get(key) is not None
    ]
    return _table((("what", ""), ("value", "")), rows)


def _reproducibility(evidence: Mapping[str, Any]) -> str:
    missing = [one for one in evidence["items"] if not one["there"]]
    lacking = [
        _table(
            ((words, ""), ("group", ""), ("found", ""), ("what to do", "")),
            [
                [escape(one[key]) for key in ("name", "group", "found", "remedy")]
                for one in missing
                if one.get("needed", True) == needed
            ],
            tall=not needed,
        )
        for words, needed in (("needed and missing", True), ("missing, not required (does not count)", False))
    ]
    there = _table(
        (("what is there", ""), ("group", ""), ("value", "")),
        [
            [
                escape(one["name"]) + ("" if one.get("needed", True) else " (not required)"),
                escape(one["group"]),
                escape(one["found"]),
            ]
            for one in evidence["items"]
            if one["there"]
        ],
        tall=True,
    )
    again = evidence.get("repeat")
    files = "" if again is None else _table(
        (("output of the re-run", ""), ("agreement", "number"), ("how compared", "")),
        [[escape(one["name"]), f"{one['agreement']:.4f}", escape(one["how"])] for one in again["files"]],
        tall=True,
    )  # fmt: skip
    return lacking[0] + files + lacking[1] + there


def _meta(evidence: Mapping[str, Any]) -> str:
    heads = (
        ("fitted cause", ""), ("⋄, stable and not split", "number"), ("moved in the last pass [σ]", "number"),
        ("settled", ""), ("determined in", "number"),
    )  # fmt: skip
    rows = [
        [
            escape(label_of(one["name"])),
            f"{one['stability']:.3f}",
            plain(one["shift"], 2),
            ("yes" if one["settled"] else "no") if one["counts"] else "not counted",
            f"{one['determined_in']} of {evidence['micrographs']}",
        ]
        for one in evidence["causes"]
    ]
    return _table(heads, rows)


#: Question to the table of its evidence.
EVIDENCE: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "logic": _logic,
    "novelty": _novelty,
    "impact": _impact,
    "reproducibility": _reproducibility,
    "meta": _meta,
}


def perturbation_table(evidence: Mapping[str, Any]) -> str:
    """Return which conclusion depends on which parameter, the shakiest first."""
    heads = (
        ("where", ""), ("conclusion", ""), ("at the means", ""), ("spread*", "number"), ("another in", ""),
        ("hangs on (total index, 90 % interval)", ""),
    )  # fmt: skip
    rows = []
    for one in sorted(evidence["conclusions"], key=lambda row: -(row["flips"] or 0.0)):
        flips = UNKNOWN if one["flips"] is None else f"{100 * one['flips']:.0f} %"
        if one["instead"]:
            flips += f": {escape(one['instead'])}"
        hangs = [
            f"{escape(name)} {index['value']:.2f} ({index['low']:.2f} to {index['high']:.2f})"
            for name in one["depends_on"]
            if (index := one["total"][name])
        ]
        spread = f"{plain(one['mean'], 3)} ± {plain(one['standard_deviation'], 2)}"
        rows.append(
            [
                escape(one["where"]),
                escape(one["name"]),
                escape(one["at_means"]),
                spread,
                flips,
                ", ".join(hangs) or "none",
            ]
        )
    note = "* Of the number behind it; of what to fix first, of its lead over all others [bits]."
    return f'{_table(heads, rows, tall=True)}<p class="quiet small">{note}</p>'
