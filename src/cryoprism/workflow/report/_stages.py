"""The stages of a whole run in the report of its map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ._numbers import escape

__all__ = ["StageRow", "left_out_section", "stages_section"]

_PAGES = {"Restore", "Classify", "InitialModel", "Refine"}


@dataclass(frozen=True)
class StageRow:
    """A stage: its folder inside the run, what came out in a sentence, and the wall time it took."""

    folder: str
    sentence: str
    seconds: float


def stages_section(rows: Sequence[StageRow]) -> str:
    """Table of the stages in their order, with links to their own reports."""
    lines = ""
    for row in rows:
        name = escape(row.folder)
        shown = f'<a href="{name}/report.html">{name}</a>' if row.folder in _PAGES else name
        lines += (
            f'<tr><th scope="row">{shown}</th><td>{escape(row.sentence)}</td>'
            f'<td class="number">{row.seconds:.0f}\u202fs</td></tr>'
        )
    total = sum(row.seconds for row in rows)
    return (
        '<section id="stages"><h2>How it came about</h2><div class="box scroll"><table><thead><tr>'
        '<th scope="col">stage</th><th scope="col">outcome</th><th scope="col" class="number">time</th></tr></thead>'
        f'<tbody>{lines}</tbody></table><p class="quiet small">{total:.0f} s in this run; stages that were done before '
        "take none. Every stage is a folder of its own beside this page, written by the command of the same "
        "name.</p></div></section>"
    )


def left_out_section(left_out: Mapping[str, str]) -> str:
    """Table of the micrographs that did not go on, and why; nothing where all did."""
    if not left_out:
        return ""
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(why)}</td></tr>' for name, why in left_out.items()
    )
    count = f"{len(left_out)} micrograph" + ("s were" if len(left_out) > 1 else " was")
    return (
        f'<section id="left-out"><h2>What was left out</h2><p>{count} left out before picking.</p>'
        '<div class="box scroll"><table><thead><tr><th scope="col">micrograph</th><th scope="col">why</th></tr></thead>'
        f"<tbody>{lines}</tbody></table></div></section>"
    )
