"""``cryoprism process`` and ``initial-model`` from files to files, on a small simulated session."""

from __future__ import annotations

import html
import importlib.util
import json
from pathlib import Path

import pytest
import torch

from cryoprism.core import InputError, generator_for
from cryoprism.formats import Volume, read_map, read_particles, read_star, write_map
from cryoprism.microscope.potential import Solvent, potential_from_atoms
from cryoprism.structure import fourier_shell_correlation, low_pass
from cryoprism.synthesis import Scene, SessionConfig, phantom, simulate_session, specimen_from_phantom
from cryoprism.workflow import (
    InitialModelConfig,
    PickConfig,
    ProcessConfig,
    initial_model_session,
    open_job,
    process_session,
)
from cryoprism.workflow.maps.boxes import box_for, scaled_box_for, with_room
from cryoprism.workflow.maps.process_session import _Run
from cryoprism.workflow.particles.data import even_fast_size

PIXEL, DIAMETER, SIDE = 3.0, 120.0, 60
# What to be careful about is said as a warning; here it is no error.
pytestmark = pytest.mark.filterwarnings("ignore::cryoprism.core.CryoPrismWarning")
has_abinitio = importlib.util.find_spec("cryoprism.structure.abinitio") is not None


def truth() -> torch.Tensor:
    model = specimen_from_phantom(phantom("shell")).model
    assert model is not None
    return potential_from_atoms(model, PIXEL, shape=(SIDE, SIDE, SIDE), center=False, solvent=Solvent())


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four simulated micrographs, and a reference at 25 Å."""
    folder = tmp_path_factory.mktemp("process")
    simulate_session(
        SessionConfig(
            output=folder / "mics",
            micrographs=4,
            recipe="clean",
            engine="projection",
            particles=24,
            ice_thickness_in_angstroms=250.0,
            base=Scene(height_in_pixels=400, width_in_pixels=420, pixel_size_in_angstroms=PIXEL),
        )
    )
    write_map(folder / "reference.mrc", Volume(low_pass(truth(), PIXEL, 25.0), PIXEL))
    return folder


@pytest.fixture(scope="module")
def finished(session: Path) -> Path:
    return process_session(config(session, session / "run")).output


def config(session: Path, out: Path, **changes: object) -> ProcessConfig:
    settings = {
        "inputs": (str(session / "mics" / "micrographs.star"),),
        "symmetry": "O",
        "diameter_in_angstroms": DIAMETER,
        "reference": session / "reference.mrc",
        "iterations": 3,
        "output": out,
    }
    return ProcessConfig(**(settings | changes))


@pytest.mark.slow
def test_micrographs_become_a_map_of_the_molecule(session: Path, finished: Path) -> None:
    volume = read_map(finished / "map.mrc")
    assert volume.voxel_size_in_angstroms == pytest.approx(PIXEL)
    side = volume.data.shape[-1]
    assert side == box_for(DIAMETER, PIXEL)
    own = truth()
    curve = fourier_shell_correlation(volume.data, own if side == SIDE else own[:side, :side, :side], PIXEL)
    assert curve.crossing(0.5).resolution_in_angstroms < 15.0
    document = json.loads((finished / "resolution.json").read_text())
    assert document["resolution_in_angstroms"]["corrected"] < 15.0
    for name in ("half1.mrc", "half2.mrc", "mask.mrc", "map_sharpened.mrc"):
        assert read_map(finished / name).data.shape == (side, side, side)
    particles = read_particles(finished / "particles.star")
    assert particles.angles_in_degrees is not None
    assert 60 < len(particles) <= 96 + 5
    page = (finished / "report.html").read_text()
    assert page.index("The FSC falls below 0.143") < page.index("How it came about") < page.index("How it settled")
    for stage in ("Restore", "Pick", "Extract", "Refine"):
        assert (finished / stage / "job.json").exists()
        assert stage in page


@pytest.mark.slow
def test_stages_that_are_done_are_not_done_again(session: Path, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.glob("*/particles.star")}
    (finished / "map.mrc").unlink()
    summary = process_session(config(session, finished, only_do_unfinished=True))
    assert summary.refinement.skipped
    assert read_map(finished / "map.mrc").data.std() > 0
    after = {path: path.stat().st_mtime_ns for path in finished.glob("Refine/particles.star")}
    assert after.items() <= before.items()
    assert "The FSC falls below 0.143" in (finished / "report.html").read_text()


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Time and bytes of all files but those that every run writes about itself."""
    own = {"job.json", "run.log", "RELION_JOB_EXIT_SUCCESS", ".lock"}
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in own)
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(
    session: Path, finished: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = process_session(config(session, finished, only_do_unfinished=True))
    before, notes = contents(finished), json.loads((finished / "job.json").read_text())["notes"]
    monkeypatch.setattr("cryoprism.workflow.maps.process_results.summarise_resolution", None)
    caplog.clear()
    with caplog.at_level("INFO", logger="cryoprism"):
        again = process_session(config(session, finished, only_do_unfinished=True, workers=2))
    assert [record.message for record in caplog.records if "done" in record.message] == [
        f"All is done: nothing in {finished} is changed"
    ]
    assert again.skipped
    assert contents(finished) == before
    assert json.loads((finished / "job.json").read_text())["notes"] == notes
    assert (finished / "RELION_JOB_EXIT_SUCCESS").exists()
    assert (again.sentences, again.left_out) == (first.sentences, first.left_out)
    assert [row.folder for row in again.stages] == ["Restore", "Pick", "Extract", "Refine"]


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_report_completes_with_every_field(session: Path, finished: Path) -> None:
    process_session(config(session, finished, only_do_unfinished=True))
    page, document = (finished / "report.html").read_text(), json.loads((finished / "resolution.json").read_text())
    own = [path for path in finished.iterdir() if path.is_file() and path.name != "job.json"]
    for path in (*own, *(finished / ".done").iterdir()):
        path.unlink()
    summary = process_session(config(session, finished, only_do_unfinished=True))
    assert not summary.skipped
    assert {path.name for path in finished.iterdir()} >= {path.name for path in own if path.name != ".lock"}
    now = json.loads((finished / "resolution.json").read_text())
    assert {key: value for key, value in now.items() if key != "seconds"} == {
        key: value for key, value in document.items() if key != "seconds"
    }
    assert now["viewing"] is not None
    map_itself, _, _ = (finished / "report.html").read_text().partition('<section id="stages">')
    assert map_itself == page.partition('<section id="stages">')[0]


@pytest.mark.slow
def test_a_stage_that_was_run_by_itself_since_is_no_part_of_a_finished_run(session: Path, finished: Path) -> None:
    process_session(config(session, finished, only_do_unfinished=True))
    record = finished / "Pick" / "job.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"config_hash": "another"}))
    assert not process_session(config(session, finished, only_do_unfinished=True)).skipped
    assert process_session(config(session, finished, only_do_unfinished=True)).skipped


@pytest.mark.slow
def test_a_restored_session_is_not_restored_again(session: Path, finished: Path) -> None:
    star = finished / "Restore" / "micrographs.star"
    settings = config(session, session / "second", inputs=(str(star),), iterations=1)
    output = process_session(settings).output
    assert not (output / "Restore").exists()
    assert (output / "map.mrc").exists()
    assert not (star.parent / "selected.star").exists()  # nothing is written into a folder of another job
    assert next(b for b in read_star(star) if "rlnMicrographName" in b)


@pytest.mark.slow
@pytest.mark.skipif(not has_abinitio, reason="this version has no structure.abinitio")
def test_an_initial_model_from_particles_alone(session: Path, finished: Path, tmp_path: Path) -> None:
    summary = initial_model_session(
        InitialModelConfig(
            particles_file=finished / "Extract" / "particles.star",
            symmetry="O",
            diameter_in_angstroms=1.1 * DIAMETER,
            maximum_resolution_in_angstroms=20.0,
            starts=1,
            output=tmp_path / "model",
        )
    )
    volume = read_map(summary.map)
    assert volume.data.shape[-1] * volume.voxel_size_in_angstroms == pytest.approx(
        box_for(DIAMETER, PIXEL) * PIXEL, rel=1e-3
    )
    posed = read_particles(summary.output / "particles.star")
    assert posed.angles_in_degrees is not None
    assert "What it looks like" in summary.report.read_text()


@pytest.mark.slow
def test_micrographs_that_were_left_out_are_named(session: Path, finished: Path) -> None:
    star = finished / "Restore" / "micrographs.star"
    entries = json.loads((star.parent / "causes.json").read_text())["micrographs"]
    bits = {entry["name"]: entry["information_in_bits"]["mean"] for entry in entries}
    poorest = min(bits, key=lambda name: bits[name])
    middle = sorted(bits.values())
    median, second = (middle[1] + middle[2]) / 2, middle[1]
    share = (bits[poorest] + second) / 2 / median
    settings = config(session, session / "chosen", inputs=(str(star),), iterations=1, min_information_share=share)
    summary = process_session(settings)
    assert list(summary.left_out) == [poorest]
    page = summary.report.read_text()
    assert page.index("How it came about") < page.index("What was left out") < page.index(poorest)
    assert html.escape(summary.left_out[poorest]) in page
    names = read_particles(summary.output / "particles.star").micrograph_names
    assert names is not None
    assert not any(poorest in name for name in names)
    with pytest.raises(InputError, match="no micrograph keeps the limits"):
        process_session(config(session, session / "none", inputs=(str(star),), max_ctf_resolution_in_angstroms=0.6))
    assert not (session / "none").exists()


def test_a_stage_with_other_options_is_done_again_and_the_others_are_not(session: Path, tmp_path: Path) -> None:
    with open_job("Process", config(session, tmp_path / "run"), in_stages=True) as job:
        run = _Run(config(session, tmp_path / "run"), job, 3, PIXEL)
        first = run.settings("Pick", PickConfig, inputs="m.star", diameter_in_angstroms=120.0)
        with open_job("Pick", first) as pick:
            pick.mark_done("a", stage="score")
        same = run.settings("Pick", PickConfig, inputs="other.star", diameter_in_angstroms=120.0, threshold=3.0)
        assert (same.only_do_unfinished, same.overwrite) == (True, False)
        other = run.settings("Pick", PickConfig, inputs="m.star", diameter_in_angstroms=130.0)
        assert (other.only_do_unfinished, other.overwrite) == (False, True)
    assert "Pick is done again: --diameter was 120, now 130" in (tmp_path / "run" / "run.log").read_text()


def test_boxes_are_even_of_small_factors_and_hold_the_particle() -> None:
    generator = generator_for(1, "boxes")
    for least in (10 + 900 * torch.rand(50, generator=generator)).tolist():
        size = even_fast_size(least)
        assert size >= least
        assert size % 2 == 0
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        assert rest == 1
    assert box_for(130.0, 1.5) == 128
    assert scaled_box_for(128, 1.5, None) is None
    assert scaled_box_for(128, 1.5, 4.0) is None
    side = scaled_box_for(256, 0.8, 4.0)
    assert side is not None
    assert 2 * 256 * 0.8 / side <= 0.75 * 4.0


def test_errors_come_before_work(session: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--reference"):
        config(session, tmp_path, reference=None, pick_method="template")
    with pytest.raises(InputError, match="--scale"):
        config(session, tmp_path, box_in_pixels=64, scaled_box_in_pixels=80)
    with pytest.raises(InputError, match="--symmetry"):
        config(session, tmp_path, symmetry="X")


def test_sizes_are_judged_before_work_and_by_what_was_typed(session: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(
        InputError, match=r"--box: 36 pixels are 108 Å, but the particle measures 120 Å.*about 60 pixels"
    ):
        process_session(config(session, out, box_in_pixels=36))
    with pytest.raises(InputError, match=r"--diameter: 1300 Å does not fit into .*1200 Å"):
        process_session(config(session, out, diameter_in_angstroms=1300.0))
    flat = tmp_path / "flat.mrc"
    write_map(flat, Volume(torch.ones(8, 8, 8), PIXEL))
    with pytest.raises(InputError, match="one value only"):
        process_session(config(session, out, reference=flat))
    write_map(tmp_path / "black.mrc", Volume(-read_map(session / "reference.mrc").data, PIXEL))
    with pytest.raises(InputError, match=r"shows the particle black.* relion_image_handler .*--multiply_constant -1"):
        process_session(config(session, out, reference=tmp_path / "black.mrc"))
    assert not out.exists()
    # Never more than the box holds, never less than what was given.
    assert with_room(config(session, out), PIXEL) == pytest.approx(132.0)
    assert with_room(config(session, out, box_in_pixels=44), PIXEL) == pytest.approx(0.95 * 132)
    assert with_room(config(session, out, box_in_pixels=41), PIXEL) == pytest.approx(120.0)
