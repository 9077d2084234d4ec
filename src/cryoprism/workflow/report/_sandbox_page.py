"""The page of a run in the sandbox: how it ended, what it used of what it might, what came out and what did not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from cryoprism import __version__
from cryoprism.workflow.jobs.files import write_text

from ._numbers import escape, plain
from ._style import CSS

__all__ = ["sandbox_report"]

_STYLE: Final = """
.verdict{font-size:21px;line-height:1.35;font-weight:600;margin:8px 0 4px;max-width:62em}
.finished{border-left:5px solid #0072b2;padding-left:12px}
.failed,.stopped{border-left:5px solid #d55e00;padding-left:12px}
pre{margin:0;max-height:420px;overflow:auto;font-size:12.5px;white-space:pre-wrap;overflow-wrap:anywhere}
svg .used{fill:#0072b2}svg .full{fill:#d55e00}svg .free{fill:var(--soft)}
section .box+.box{margin-top:10px}
"""
_MOST_TEXT: Final = 20_000
_MOST_FILES: Final = 200
_WALLS: Final = {
    "bubblewrap": "Behind bubblewrap's walls: no network, the system and its inputs read-only, no process but its own.",
    "none": "Without walls: limits alone.",
}


def sandbox_report(
    folder: Path, document: Mapping[str, Any], sentences: Sequence[str], *, inputs: Sequence[str], formula: str | None
) -> Path:
    """Write ``report.html``: one file that needs no network and no other file.

    Parameters
    ----------
    folder
        Of the job, with ``stdout.txt``, ``stderr.txt`` and ``output/``.
    document
        Content of ``sandbox.json``.
    sentences
        What is told on the command line, how it ended first.
    inputs
        What it could read, as given.
    formula
        As given, where one was evaluated.
    """
    path = Path(folder) / "report.html"
    title = f"Sandbox: {formula}" if formula is not None else f"Sandbox: {' '.join(document['command'])}"
    title = _short(title, 90)
    rest = "".join(f"<li>{escape(text)}</li>" for text in sentences[1:])
    body = (
        f'<header><h1>{escape(title)}</h1><p class="verdict {escape(document["verdict"])}">{escape(sentences[0])}</p>'
        f"<ul>{rest}</ul></header><main>{_formula(document)}{_limits(document)}{_seen(document, inputs)}"
        f"{_outputs(Path(folder), document)}{_printed(Path(folder))}</main><footer><p>Written by CryoPrism "
        f"{escape(__version__)}; sandbox.json holds every number of this page.</p></footer>"
    )
    write_text(
        path,
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><style>{CSS}{_STYLE}</style></head><body>\n{body}\n</body></html>\n',
    )
    return path


def _limits(document: Mapping[str, Any]) -> str:
    used, most = document["accounting"], document["limits"]
    touched = {*document["limits_reached"], document["stopped_by"]}
    held = (used["peak_memory_in_bytes"] + used["kernel_memory_in_bytes"]) / 1e9
    written = max(used["outputs_in_bytes"], used["temporary_in_bytes"]) / 1e6
    rows = "".join(
        f'<tr><th scope="row">{words}</th><td class="number">{_amount(value)} {unit}</td><td class="number">'
        f"{_amount(limit)} {unit}</td><td>{_bar(value / limit, name in touched)}</td></tr>"
        for name, words, value, limit, unit in (
            ("cpu", "CPU time, all processes", used["cpu_seconds"], most["cpu_seconds"], "s"),
            ("wall", "time from start to end", used["wall_seconds"], most["wall_seconds"], "s"),
            ("memory", "memory at once, sockets and pipes included", held, most["memory_in_gigabytes"], "GB"),
            ("files", "files, of the fuller folder", written, most["files_in_megabytes"], "MB"),
            ("processes", "processes and threads at once", used["peak_processes"], most["processes"], ""),
        )
    )
    return (
        '<section id="limits"><h2>What it used of what it might</h2><div class="box"><table><thead><tr><th></th>'
        '<th class="number">used</th><th class="number">limit</th><th></th></tr></thead><tbody>'
        f"{rows}</tbody></table></div></section>"
    )


def _amount(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else plain(value, 3)


def _bar(share: float, touched: bool) -> str:
    width = max(min(share, 1.0) * 200, 1.0)
    kind = "full" if touched else "used"
    mark = ' <span class="flag">limit reached</span>' if touched else ""
    return (
        '<svg viewBox="0 0 200 10" width="200" height="10" role="img" aria-label="share of the limit">'
        f'<rect class="free" width="200" height="10"/><rect class="{kind}" width="{width:.1f}" '
        f'height="10"/></svg>{mark}'
    )


def _seen(document: Mapping[str, Any], inputs: Sequence[str]) -> str:
    listed = "".join(f"<li>{escape(path)}</li>" for path in inputs)
    given = f"<p>It could read, beside the system and Python:</p><ul>{listed}</ul>" if listed else ""
    command = "" if "formula" in document else escape(_short(" ".join(document["command"]), 2000))
    ran = f'<p class="small quiet">Command: <code>{command}</code></p>' if command else ""
    return (
        '<section id="walls"><h2>What stood around it</h2><div class="box">'
        f"<p>{_WALLS[document['isolation']]}</p>{given}{ran}</div></section>"
    )


def _formula(document: Mapping[str, Any]) -> str:
    one = document.get("formula")
    if one is None:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td><code>{escape(slope["expression"])}</code></td><td class="number">'
        f'{plain(slope["value"], 6)}</td><td>{escape(slope["unit"])}</td><td class="number">'
        f"{'–' if slope['share_of_variance'] is None else format(100 * slope['share_of_variance'], '.1f') + ' %'}"
        "</td></tr>"
        for name, slope in one["derivatives"].items()
    )
    table = (
        '<table><thead><tr><th>by</th><th>derivative</th><th class="number">value</th><th>unit</th><th class="number">'
        f"brings in of the variance</th></tr></thead><tbody>{rows}</tbody></table>"
        if rows
        else ""
    )
    return (
        '<section id="formula"><h2>The formula</h2><div class="box scroll">'
        f"<p><code>{escape(one['expression'])}</code></p>{_spread(one)}{table}</div></section>"
    )


def _spread(one: Mapping[str, Any]) -> str:
    drawn = one["drawn"]
    if drawn is None:
        return ""
    rows = [
        ("standard deviation by the derivatives", plain(one["first_order_standard_deviation"], 4)),
        (f"standard deviation of {drawn['draws']:,} draws", plain(drawn["standard_deviation"], 4)),
        ("95 % of the draws", f"{plain(drawn['low'], 4)} to {plain(drawn['high'], 4)}"),
        ("draws with a finite value", f"{100 * drawn['share_finite']:.4g} %"),
    ]
    cells = "".join(f'<tr><th scope="row">{name}</th><td class="number">{value}</td></tr>' for name, value in rows)
    return (
        f"<table><caption>In {escape(one['unit'])}; the derivatives "
        f"{'say the same as the draws' if one['first_order_holds'] else 'do not hold here: take the interval'}."
        f"</caption><tbody>{cells}</tbody></table>"
    )


def _outputs(folder: Path, document: Mapping[str, Any]) -> str:
    names = document["outputs"]
    rows = "".join(
        f'<tr><th scope="row"><a href="output/{escape(quote(name))}">{escape(name)}</a></th><td class="number">'
        f"{_size(folder / 'output' / name)}</td></tr>"
        for name in names[:_MOST_FILES]
    )
    more = f'<p class="quiet small">and {len(names) - _MOST_FILES:,} more</p>' if len(names) > _MOST_FILES else ""
    left = "".join(
        f'<tr><th scope="row">{escape(_short(name, 120))}</th><td>{escape(reason)}</td></tr>'
        for name, reason in list(document["left_out"].items())[:_MOST_FILES]
    )
    boxes = f'<div class="box scroll"><table><tbody>{rows}</tbody></table>{more}</div>' if rows else ""
    if left:
        boxes += f'<div class="box scroll"><h3>Left out</h3><table><tbody>{left}</tbody></table></div>'
    return f'<section id="output"><h2>What came out</h2>{boxes}</section>' if boxes else ""


def _size(path: Path) -> str:
    try:
        return f"{path.stat().st_size:,} bytes"
    except OSError:
        return "–"


def _printed(folder: Path) -> str:
    boxes = ""
    for name, words in (("stdout.txt", "Standard output"), ("stderr.txt", "Standard error")):
        with (folder / name).open("rb") as stream:
            text = stream.read(_MOST_TEXT + 1).decode("utf-8", errors="replace")
        if text:
            cut = f'<p class="quiet small">The beginning; all of it is in {name}.</p>' if len(text) > _MOST_TEXT else ""
            boxes += f'<div class="box"><h3>{words}</h3><pre>{escape(text[:_MOST_TEXT])}</pre>{cut}</div>'
    return f'<section id="printed"><h2>What it printed</h2>{boxes}</section>' if boxes else ""


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
