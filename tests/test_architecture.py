"""Rooms import only from rooms before them, and the program starts fast and light."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "cryoprism"
ROOMS = (
    "core",
    "formats",
    "microscope",
    "causes",
    "synthesis",
    "restoration",
    "particles",
    "structure",
    "knowledge",
    "evaluation",
    "workflow",
    "studio",
    "cli",
)
FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else ""


def breaches(room: str, depth: int, code: str) -> list[str]:
    """What is wrong with the imports of a file that lies ``depth`` folders below ``room``."""
    found = []
    for node in ast.walk(ast.parse(code)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level > depth + 1:
            found.append(f"line {node.lineno}: a relative import leaves the room")
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "cryoprism":
            names = [f"cryoprism.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        for name in names:
            target = name.split(".")[1] if name.startswith("cryoprism.") else ""
            if target not in ROOMS or target == room:
                continue
            if ROOMS.index(target) > ROOMS.index(room):
                found.append(f"line {node.lineno}: {room} imports from {target}, which stands after it")
            if any(part.startswith("_") for part in name.split(".")[2:]):
                found.append(f"line {node.lineno}: {name} is private to {target}")
            if isinstance(node, ast.ImportFrom):
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                found += [f"line {node.lineno}: {name}.{one} is private to {target}" for one in private]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_room_imports_only_from_rooms_before_it(path):
    room = room_of(path)
    if not room:
        tops = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
        assert not [node for node in tops if node.level], "the package itself stays light"
        return
    assert room in ROOMS, f"the room {room} has no place in the order"
    depth = len(path.relative_to(SOURCE).parts) - 2
    assert breaches(room, depth, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "code",
    [
        "from cryoprism.workflow import open_job",
        "from cryoprism import workflow",
        "import cryoprism.workflow.jobs.job",
        "def f():\n    from cryoprism.causes import ledger",
        "from ..core import InputError",
        "from cryoprism.core._secret import x",
        "from cryoprism.core.errors import _hidden",
    ],
)
def test_the_import_test_can_fail(code):
    assert breaches("microscope", 0, code)


@pytest.mark.parametrize(
    "code", ["from cryoprism.core import x", "from .optics import y", "import cryoprism", "import torch"]
)
def test_the_import_test_lets_good_imports_pass(code):
    assert breaches("microscope", 0, code) == []


#: The folders of ``workflow``: each may use those before it. The pages in ``report`` serve all of them.
WORKFLOW_FOLDERS = ("jobs", "micrographs", "particles", "maps", "synthesis", "judgement")


def workflow_breaches(folder: str, code: str) -> list[str]:
    """What a file in a folder of ``workflow`` imports that stands after it; a page takes no more than types of one."""
    found = []
    tree = ast.parse(code)
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    types = {inner for node in blocks if ast.unparse(node.test) == "TYPE_CHECKING" for inner in ast.walk(node)}
    for node in ast.walk(tree):
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        if not module.startswith("cryoprism.workflow."):
            continue
        target = module.split(".")[2]
        if folder == "report":
            if module.endswith("_session") and node not in types:
                found.append(f"line {node.lineno}: a page imports from {module}")
        elif target != "report" and WORKFLOW_FOLDERS.index(target) > WORKFLOW_FOLDERS.index(folder):
            found.append(f"line {node.lineno}: {folder} imports from {target}, which stands after it")
    return found


WORKFLOW_FILES = [path for path in FILES if room_of(path) == "workflow" and path.name != "__init__.py"]


@pytest.mark.parametrize("path", WORKFLOW_FILES, ids=lambda path: str(path.relative_to(SOURCE / "workflow")))
def test_a_folder_of_workflow_uses_those_before_it(path):
    parts = path.relative_to(SOURCE / "workflow").parts
    assert len(parts) == 2, "every module of workflow lies in a folder that says what it is about"
    assert workflow_breaches(parts[0], path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("folder", "code"),
    [
        ("jobs", "from cryoprism.workflow.maps.configs import RefineConfig"),
        ("particles", "from cryoprism.workflow.judgement.assess_case import Case"),
        ("report", "from cryoprism.workflow.maps.refine_session import RefineSummary"),
    ],
)
def test_the_test_of_workflow_can_fail(folder, code):
    assert workflow_breaches(folder, code)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_can_be_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450


@pytest.mark.parametrize("room", [name for name in ROOMS if (SOURCE / name).is_dir()])
def test_a_room_says_what_it_gives(room):
    tree = ast.parse((SOURCE / room / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    listed = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and [t.id for t in node.targets if isinstance(t, ast.Name)] == ["__all__"]
    ]
    assert len(listed) == 1
    names = ast.literal_eval(listed[0])
    assert len(names) == len(set(names))


def test_the_command_line_loads_nothing_heavy():
    heavy = "{'torch', 'numpy', 'scipy', 'pandas', 'matplotlib', 'pydantic'}"
    code = f"import sys, cryoprism.cli; print(sorted({heavy} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_help_answers_in_half_a_second():
    def seconds() -> float:
        started = time.perf_counter()
        command = [sys.executable, "-c", "from cryoprism.cli import main; main(['--help'])"]
        subprocess.run(command, capture_output=True, check=True)
        return time.perf_counter() - started

    assert min(seconds() for _ in range(3)) < 0.5
