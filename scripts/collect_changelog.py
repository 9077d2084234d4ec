"""Move the fragments in changelog.d/ into CHANGELOG.md: ``python scripts/collect_changelog.py VERSION DATE``."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("added", "changed", "fixed", "removed")


def fragments() -> dict[str, list[Path]]:
    """Fragment files by kind; their names are ``WHAT.KIND.md``."""
    found: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for path in sorted((ROOT / "changelog.d").glob("*.md")):
        if path.name == "README.md":
            continue
        kind = path.name.split(".")[-2]
        if kind not in KINDS:
            raise SystemExit(f"{path}: name it WHAT.KIND.md with KIND one of {', '.join(KINDS)}")
        found[kind].append(path)
    return found


def section(version: str, date: str) -> str:
    """Text of a version's section."""
    lines = [f"## {version} ({date})", ""]
    for kind, paths in fragments().items():
        if paths:
            lines += [f"### {kind.capitalize()}", "", *(path.read_text(encoding="utf-8").strip() for path in paths), ""]
    return "\n".join(lines)


def main() -> None:
    """Write the section and delete the fragments."""
    if len(sys.argv) != 3:
        raise SystemExit("usage: collect_changelog.py VERSION DATE")
    changelog = ROOT / "CHANGELOG.md"
    text = changelog.read_text(encoding="utf-8")
    marker = "<!-- newest first -->\n"
    if marker not in text:
        raise SystemExit(f"{changelog} lacks the line {marker!r}")
    changelog.write_text(text.replace(marker, f"{marker}\n{section(*sys.argv[1:])}"), encoding="utf-8")
    for paths in fragments().values():
        for path in paths:
            path.unlink()


if __name__ == "__main__":
    main()
