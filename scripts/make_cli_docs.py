"""Write docs/cli.md from the ``--help`` of every command, or check that it is up to date (``--check``)."""

from __future__ import annotations

import sys
from pathlib import Path

import typer
from typer.testing import CliRunner

from cryoprism.cli import app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
HEADER = """\
# Command line

This page is generated: `python scripts/make_cli_docs.py` writes it from the `--help` of every command, and a test
keeps them equal.
"""


def help_of(*command: str) -> str:
    """Text that ``cryoprism COMMAND --help`` prints on a terminal of 100 columns."""
    runner = CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"})
    result = runner.invoke(app, [*command, "--help"], prog_name="cryoprism")
    if result.exit_code != 0:
        raise SystemExit(f"cryoprism {' '.join(command)} --help: {result.output}")
    return result.output.strip("\n")


def commands() -> list[tuple[str, ...]]:
    """Words of all commands, in the order of ``cryoprism --help``; a group is followed by its own."""
    found: list[tuple[str, ...]] = []
    for name, command in typer.main.get_command(app).commands.items():
        found.append((name,))
        found += [(name, inner) for inner in getattr(command, "commands", ())]
    return found


def page() -> str:
    """Return the whole page."""
    parts = [HEADER, f"```text\n{help_of()}\n```\n"]
    for words in commands():
        mark = "#" * (len(words) + 1)
        parts.append(f"{mark} cryoprism {' '.join(words)}\n\n```text\n{help_of(*words)}\n```\n")
    return "\n".join(parts)


def main() -> int:
    """Write or check the page; 1 if it was out of date."""
    if "--check" in sys.argv[1:]:
        if PAGE.read_text(encoding="utf-8") == page():
            return 0
        print(f"{PAGE} is out of date: run python scripts/make_cli_docs.py", file=sys.stderr)
        return 1
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
