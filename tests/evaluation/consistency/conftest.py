"""Certificates, and models that are checked with and without the prover."""

import shutil

import pytest
from certificates import check, checked, every_rule
from small_models import helix, pdb

from cryoprism.evaluation.consistency import check_consistency
from cryoprism.evaluation.consistency._coq import coq_version, library_folder


@pytest.fixture(scope="session")
def compiled_library(tmp_path_factory):
    return library_folder(coq_version(), tmp_path_factory.mktemp("library"))


@pytest.fixture
def quick(compiled_library):
    """check.sh but for the library, which is taken compiled, and for what a test leaves out."""

    def run(folder, leave_out="", model=None):
        text = (folder / "check.sh").read_text()
        first, rest = text.split("for file in $library; do\n  echo", 1)
        text = f'{first}cp {compiled_library}/*.vo .\ncd "$work/model"' + rest.split('cd "$work/model"', 1)[1]
        assert leave_out in text
        # Beside the folder: in it there may be no other file.
        text = text.replace('cd "$(dirname "$0")"', f'cd "{folder}"', 1)
        quick = folder.parent / "quick.sh"
        quick.write_text(text.replace(leave_out, "true") if leave_out else text)
        return check(folder, quick, model)

    return run


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Certificates by name, written once: of a clean helix, and of a model that every rule is about."""
    place = tmp_path_factory.mktemp("certificates")
    clean = checked(place / "clean.pdb", pdb({"A": helix(4)}))
    return {
        "clean": clean.write_certificate(place / "clean"),
        "all": every_rule(place).write_certificate(place / "all"),
    }


@pytest.fixture
def certificate(folders, tmp_path):
    def copy(name="clean"):
        return shutil.copytree(folders[name], tmp_path / "job" / "certificate")

    return copy


@pytest.fixture
def witnesses(tmp_path, monkeypatch):
    """What Python finds, without Coq's verdict."""

    def check(text, name="model.pdb", **options):
        path = tmp_path / name
        path.write_text(text)
        with monkeypatch.context() as patch:
            patch.setattr("cryoprism.evaluation.consistency._coq.shutil.which", lambda program: None)
            return check_consistency(path, **options)

    return check


@pytest.fixture
def proved(tmp_path):
    def check(text, name="model.pdb", **options):
        path = tmp_path / name
        path.write_text(text)
        return check_consistency(path, **options)

    return check


@pytest.fixture
def coq_of_python(monkeypatch):
    """Accepts all that Python found, so that reasons are shown without a run of Coq."""
    monkeypatch.setattr(
        "cryoprism.evaluation.consistency.check._prove",
        lambda sources, limits, coq: ({}, "", "Coq 8.16.1", 0.0, 0),
    )
