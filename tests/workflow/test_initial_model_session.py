"""``cryoprism initial-model`` that was stopped, and what it says of the time that is left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch

from cryoprism.formats import read_map, read_particles
from cryoprism.structure.schedule import FirstMapSettings
from cryoprism.structure.spherical_start import StartState
from cryoprism.workflow import InitialModelConfig, initial_model_session
from cryoprism.workflow.maps.refinement import write_state

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "structure"))
from posed_particles import simulate

STARTS, TRIAL, PASSES = 2, 3, 6
TOTAL = STARTS * TRIAL + PASSES - TRIAL
# The package's attribute of this name is the function.
module = sys.modules["cryoprism.workflow.maps.initial_model_session"]
pytestmark = pytest.mark.filterwarnings("ignore::cryoprism.core.CryoPrismWarning")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first-map")
    simulate(folder, 60, noise=1.0)
    return folder / "particles.star"


@pytest.fixture(scope="module", autouse=True)
def few_passes() -> Iterator[None]:
    """Where a search goes on matters here, not how good its map is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FirstMapSettings", partial(FirstMapSettings, trial_passes=TRIAL, passes=PASSES))
        yield


def config(table: Path, out: Path, **changes: object) -> InitialModelConfig:
    settings = {
        "particles_file": table,
        "diameter_in_angstroms": 56.0,
        "starts": STARTS,
        "symmetry": "I1",
        "maximum_resolution_in_angstroms": 14.0,
        "output": out,
    }
    return InitialModelConfig(**(settings | changes))


@pytest.fixture(scope="module")
def undisturbed(table: Path, few_passes: None) -> Path:
    return initial_model_session(config(table, table.parent / "whole")).output


def stopped(monkeypatch: pytest.MonkeyPatch, settings: InitialModelConfig, after: int) -> None:
    """Run until a pass is on disk, and die there."""

    def write(path: Path, state: StartState, stamp: str) -> None:
        write_state(path, state, stamp)
        if state.passes == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_state", write)
        with pytest.raises(KeyboardInterrupt):
            initial_model_session(settings)


# During the first start, at its end, during the second one, and while the better one is brought to its end.
@pytest.mark.parametrize(
    "after",
    [
        pytest.param(1, marks=pytest.mark.slow),
        TRIAL,
        TRIAL + 2,
        pytest.param(STARTS * TRIAL + 1, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_map(
    table: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    stopped(monkeypatch, config(table, tmp_path / "run"), after)
    assert not (tmp_path / "run" / "initial_model.mrc").exists()
    done = []
    monkeypatch.setattr(module, "write_state", lambda path, state, stamp: done.append(state.passes))
    summary = initial_model_session(config(table, tmp_path / "run", only_do_unfinished=True))
    assert done == list(range(after + 1, TOTAL + 1))
    assert (
        f"Going on after pass {after}, with {min(after // TRIAL, STARTS)} starts"
        in (summary.output / "run.log").read_text()
    )
    whole, again = (read_map(folder / "initial_model.mrc").data for folder in (undisturbed, summary.output))
    assert torch.allclose(again, whole, rtol=0, atol=1e-5 * float(whole.abs().max()))
    poses = [read_particles(folder / "particles.star").angles_in_degrees for folder in (undisturbed, summary.output)]
    assert torch.equal(*poses)


def test_what_is_left_by_another_run_is_not_taken(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that starts over, and is stopped before its first pass, leaves the passes of the one before."""
    stopped(monkeypatch, config(table, tmp_path / "run"), 3)

    def dies(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "ab_initio", dies)
        with pytest.raises(KeyboardInterrupt):
            initial_model_session(config(table, tmp_path / "run", seed=3, overwrite=True))
    stopped(monkeypatch, config(table, tmp_path / "run", seed=3, only_do_unfinished=True), 1)
    assert "Going on" not in (tmp_path / "run" / "run.log").read_text()


def test_the_clock_starts_before_the_first_pass(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[object] = []

    @contextmanager
    def watched(label: str, total: int) -> Iterator[Callable[[str], None]]:
        if label == "Initial model":
            events.append(total)
        yield lambda name: events.append(name) if label == "Initial model" else None

    def write(path: Path, state: StartState, stamp: str) -> None:
        write_state(path, state, stamp)
        events.append(state.passes)
        if state.passes in (2, 4):
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "progress", watched)
    monkeypatch.setattr(module, "write_state", write)
    for again, seen in ((False, [TOTAL, 1, "pass 1", 2]), (True, [TOTAL - 2, 3, "pass 3", 4])):
        events.clear()
        with pytest.raises(KeyboardInterrupt):
            initial_model_session(config(table, tmp_path / "run", only_do_unfinished=again))
        assert events == seen
