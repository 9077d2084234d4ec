"""What `pip install` installs: a wheel holds every file of the package, not only the modules."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def files_of_the_package(root: Path) -> set[str]:
    found = (path for path in (root / "src/cryoprism").rglob("*") if path.is_file())
    return {path.relative_to(root / "src").as_posix() for path in found if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("setuptools", minversion="77")
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "src/cryoprism", source / "src/cryoprism", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    out = source / "wheel"
    out.mkdir()
    built = subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return next(out.glob("*.whl"))


def test_a_wheel_holds_every_file_of_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("cryoprism/")}
    assert files_of_the_package(ROOT) == held
    assert any(name.endswith("coq/check.sh") for name in held)


def test_the_program_answers_from_a_wheel_alone(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    line = "import cryoprism; print(cryoprism.__file__); from cryoprism.cli import main; main()"
    said = subprocess.run(
        [sys.executable, "-c", line, "--version"], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": "."}
    )
    assert said.returncode == 0, said.stderr
    assert str(tmp_path) in said.stdout
