"""The documents say what is so: generated pages are fresh, links lead somewhere, commands and examples parse."""

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import typer

from cryoprism.cli import app
from cryoprism.core import HOW_TO_INSTALL_ASSESS
from cryoprism.workflow import JobConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCHEMA = json.loads((ROOT / "src/cryoprism/workflow/schemas/causes.schema.json").read_text(encoding="utf-8"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_the_command_line_page_is_what_help_prints():
    check = subprocess.run(
        [sys.executable, ROOT / "scripts/make_cli_docs.py", "--check"], capture_output=True, text=True
    )
    assert check.returncode == 0, check.stderr


def test_how_to_install_the_extra_is_said_once_and_is_what_make_does():
    shown = subprocess.run(["make", "-n", "-B", "assess"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wanted = "install -c constraints.txt -e '.[assess]'"
    assert wanted in shown
    assert "scripts/install-system-packages assess" in shown
    assert wanted in HOW_TO_INSTALL_ASSESS
    assert "make assess" in HOW_TO_INSTALL_ASSESS
    assert "`make assess`" in (ROOT / "README.md").read_text(encoding="utf-8")
    for path in [*PAGES, *(ROOT / "src").rglob("*.py")]:
        assert "cryoprism[assess]" not in path.read_text(encoding="utf-8"), f"{path}: the package is not on PyPI"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_pictures_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not re.match(r"https?:|mailto:", target):
            assert (page.parent / target).exists(), target


COMMANDS = [
    (page, line.split("#")[0].strip())
    for page in PAGES
    for block in blocks(page, "sh")
    for line in block.splitlines()
    if line.startswith("cryoprism ")
]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda value: value.name if isinstance(value, Path) else value)
def test_every_command_that_is_shown_can_be_typed(page, line):
    _, name, *arguments = shlex.split(line)
    command = typer.main.get_command(app).commands[name]
    assert command.make_context(name, arguments)


def test_some_commands_are_shown():
    assert len(COMMANDS) >= 6


PYTHON = [
    *((page, block) for page in PAGES for block in blocks(page, "python")),
    *((path, path.read_text(encoding="utf-8")) for path in sorted((ROOT / "examples").glob("*.py"))),
]


@pytest.mark.parametrize(("page", "code"), PYTHON, ids=lambda value: value.name if isinstance(value, Path) else "")
def test_every_python_example_uses_names_that_exist(page, code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("cryoprism"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), alias.name


def causes() -> dict:
    bits = {"mean": 12.5, "standard_deviation": 0.5}
    rating = dict.fromkeys(
        ("bounds", "information", "repeatability", "stability", "in_distribution", "weight"), 1.0
    ) | {"shift_in_standard_deviations": 0.3}
    parameter = {"mean": 18_000.0, "standard_deviation": 20.0, "unit": "Å", "identifiable": True}
    cause = {"identifiable": True, "weight": 0.9, "bits_lost": bits, "parameters": {"defocus_u": parameter}}
    unknown = {"identifiable": False, "reason": "no poses", "weight": 0.0, "bits_lost": None, "parameters": {}}
    return {
        "schema": "cryoprism-causes-1",
        "cryoprism_version": "0.1.0",
        "session": {
            "micrographs": 1,
            "information_in_bits": bits,
            "ideal_information_in_bits": bits,
            "ledger": {"defocus": bits},
            "priors": {"defocus": {"defocus_u": {"mean": 1.0, "standard_deviation": 2.0, "unit": "Å"}}},
            "loop": {"converged": True, "passes": 1, "trace": [{"pass": 1, "causes": {"defocus": rating}}]},
            "graph": {
                "nodes": [{"name": "defocus", "family": "aberrations", "weight": 0.9}],
                "edges": [{"from": "defocus", "to": "image", "weight": 0.9}],
            },
        },
        "micrographs": [
            {
                "name": "a.mrc",
                "flags": [],
                "information_in_bits": bits,
                "ideal_information_in_bits": bits,
                "fit_limit_in_angstroms": 4.5,
                "correlation": 0.98,
                "causes": {"defocus": cause, "beam_tilt": unknown},
            }
        ],
    }


def test_the_schema_takes_what_is_right_and_refuses_what_is_wrong():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    validator.validate(causes())
    wrong = causes()
    wrong["micrographs"][0]["causes"]["defocus"]["weight"] = 1.5
    assert not validator.is_valid(wrong)
    wrong = causes()
    del wrong["micrographs"][0]["causes"]["defocus"]["parameters"]["defocus_u"]["unit"]
    assert not validator.is_valid(wrong)
    wrong = causes()
    wrong["session"]["surprise"] = 1
    assert not validator.is_valid(wrong)


def test_every_setting_of_a_job_is_a_documented_option():
    for field in JobConfig.model_fields:
        assert JobConfig.option(field) in (ROOT / "docs/cli.md").read_text(encoding="utf-8")


def test_every_decision_is_in_the_index():
    index = (ROOT / "docs/decisions/index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs/decisions").glob("0*.md"):
        assert f"({page.name})" in index


def test_changelog_fragments_say_what_kind_they_are():
    for path in (ROOT / "changelog.d").glob("*.md"):
        assert path.name == "README.md" or re.fullmatch(r".+\.(added|changed|fixed|removed)\.md", path.name)


# Each word is in two pieces so that this file does not find itself.
PIECES = (
    ("/wor", "k/"),
    ("/roo", "t/"),
    ("index", "-url"),
    ("find", "-links"),
    ("anth", "ropic"),
    ("clau", "de"),
    ("open", "ai"),
    ("chat", "gpt"),
    ("co-auth", "ored"),
    (r"\bsub-?age", r"nts?\b"),
    (r"\bl", r"lms?\b"),
    ("FIELD_", "NOTES"),
    ("MISSION", r"\.md"),
)
STRANGE = re.compile("|".join(first + second for first, second in PIECES), re.IGNORECASE)
FOLDERS = ("src/cryoprism", "tests", "docs", "scripts", "examples", "benchmarks", "changelog.d", ".ci")
FILES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "pyproject.toml", "mkdocs.yml")
SUFFIXES = {".py", ".md", ".html", ".css", ".json", ".star", ".yml", ""}
TEXTS = [
    *(p for name in FOLDERS for p in sorted((ROOT / name).rglob("*")) if p.suffix in SUFFIXES and p.is_file()),
    *(ROOT / name for name in FILES),
]


def test_the_text_speaks_of_the_project_alone():
    found = [
        f"{name_of(path)}: {match.group()}"
        for path in TEXTS
        if (match := STRANGE.search(path.read_text(encoding="utf-8", errors="replace")))
    ]
    assert found == []
