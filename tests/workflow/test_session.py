"""The main job from files to files: output contract, resume, one bad file among good ones, the real session."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

from cryoprism.core import frequency_magnitude, rfft2
from cryoprism.formats import read_image, read_mrc_header, read_star, write_mrc
from cryoprism.formats.star import find_block
from cryoprism.structure import read_directional_weights
from cryoprism.synthesis.phantom import phantom
from cryoprism.synthesis.render import render_micrograph
from cryoprism.synthesis.scene import Scene
from cryoprism.synthesis.specimen import specimen_from_phantom
from cryoprism.workflow import RestoreConfig, restore_session

SCHEMA = Path(__file__).resolve().parents[2] / "src/cryoprism/workflow/schemas/causes.schema.json"
PRODUCTS = ("views", "residuals", "deviations", "masks")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small micrographs with a STAR file: two with particles, one of pure noise; an odd size among them."""
    folder = tmp_path_factory.mktemp("session")
    base = Scene(
        height_in_pixels=640,
        width_in_pixels=600,
        pixel_size_in_angstroms=1.8,
        amplitude_contrast=0.07,
        particle_count=35,
        ice_thickness_in_angstroms=250.0,
    )
    specimen = specimen_from_phantom(phantom("shell"))
    scenes = [
        replace(base, name="steady", seed=1, defocus_in_angstroms=14000.0),
        replace(base, name="drifting", seed=2, defocus_in_angstroms=18000.0, drift_x_in_angstroms=9.0),
    ]
    for scene in scenes:
        rendered = render_micrograph(scene, specimen, "projection")
        write_mrc(folder / f"{scene.name}.mrc", rendered.counts, 1.8)
    noise = torch.poisson(torch.full((601, 641), 100.0), generator=torch.Generator().manual_seed(3))
    write_mrc(folder / "empty.mrc", noise, 1.8)
    rows = "".join(f"{name}.mrc 1 keep-{name}\n" for name in ("steady", "drifting", "empty"))
    (folder / "micrographs.star").write_text(
        "# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n_rlnVoltage #3\n"
        "_rlnSphericalAberration #4\n_rlnAmplitudeContrast #5\n_rlnMicrographPixelSize #6\n"
        "group1 1 300 2.7 0.07 1.8\n\n"
        "data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n_labNote #3\n" + rows
    )
    return folder


@pytest.fixture(scope="module")
def run(session: Path) -> Path:
    """A finished job on it."""
    out = session.parent / "run"
    summary = restore_session(RestoreConfig(inputs=str(session / "micrographs.star"), output=out))
    assert (summary.micrographs, summary.restored, summary.failed) == (3, 3, ())
    assert "empty" in summary.flagged
    assert "steady" not in summary.flagged
    return out


def test_every_file_of_the_contract_is_there(run: Path) -> None:
    for name, shape in (("steady", (640, 600)), ("drifting", (640, 600)), ("empty", (601, 641))):
        for product in PRODUCTS:
            header = read_mrc_header(run / product / f"{name}.mrc")
            assert header.shape[-2:] == shape
            assert header.pixel_size_in_angstroms == pytest.approx(1.8, abs=1e-4)
    for file in ("micrographs.star", "causes.json", "report.html", "job.json", "run.log", "RELION_JOB_EXIT_SUCCESS"):
        assert (run / file).exists(), file
    assert not (run / "RELION_JOB_EXIT_FAILURE").exists()
    assert not list(run.rglob("*tmp*"))


def test_causes_follow_the_schema_and_the_truth(run: Path) -> None:
    document = json.loads((run / "causes.json").read_text())
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(document)
    by_name = {entry["name"]: entry for entry in document["micrographs"]}
    defocus = by_name["steady"]["causes"]["defocus"]["parameters"]["mean_defocus"]
    assert abs(defocus["mean"] - 14000) < 5 * defocus["standard_deviation"] + 20
    drift = by_name["drifting"]["causes"]["motion"]
    assert drift["identifiable"]
    assert abs(drift["parameters"]["drift"]["mean"] - 9.0) < 1.5
    direction = drift["parameters"]["direction"]["mean"]
    assert min(direction, 180 - direction) < 12  # along x
    losses = {
        name: cause["bits_lost"]["mean"] for name, cause in by_name["drifting"]["causes"].items() if cause["bits_lost"]
    }
    assert max(losses, key=lambda name: losses[name]) == "motion"


def test_a_phase_plate_brings_its_cause_with_value_deviation_and_unit(run: Path, tmp_path: Path) -> None:
    scene = Scene(
        name="plate",
        seed=4,
        height_in_pixels=640,
        width_in_pixels=600,
        pixel_size_in_angstroms=1.8,
        particle_count=35,
        ice_thickness_in_angstroms=250.0,
        defocus_in_angstroms=12000.0,
        phase_shift_in_degrees=70.0,
    )
    rendered = render_micrograph(scene, specimen_from_phantom(phantom("shell")), "projection")
    write_mrc(tmp_path / "plate.mrc", rendered.counts, 1.8)
    lens = {"voltage_in_kilovolts": 300.0, "spherical_aberration_in_millimeters": 2.7, "amplitude_contrast": 0.07}
    config = RestoreConfig(
        inputs=str(tmp_path / "plate.mrc"), output=tmp_path / "run", phase_plate=True, views=False, **lens
    )
    restore_session(config)
    document = json.loads((tmp_path / "run" / "causes.json").read_text())
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(document)
    cause = document["micrographs"][0]["causes"]["phase_shift"]
    found = cause["parameters"]["phase_shift"]
    assert (cause["identifiable"], cause["bits_lost"]) == (True, None)
    assert (found["unit"], found["identifiable"]) == ("degrees", True)
    assert 0 < found["standard_deviation"] < 10
    assert abs(found["mean"] - 70) < 5 * found["standard_deviation"] + 3
    graph = document["session"]["graph"]
    assert {"from": "phase_shift", "to": "image", "weight": 0.0} in graph["edges"]
    assert "phase shift" in (tmp_path / "run" / "report.html").read_text()
    # Without one there is nothing to say about it.
    plain = json.loads((run / "causes.json").read_text())
    assert all("phase_shift" not in entry["causes"] for entry in plain["micrographs"])
    assert "phase_shift" not in {node["name"] for node in plain["session"]["graph"]["nodes"]}


def test_a_micrograph_without_rings_is_kept_flagged_and_gets_no_view(run: Path) -> None:
    document = json.loads((run / "causes.json").read_text())
    empty = next(entry for entry in document["micrographs"] if entry["name"] == "empty")
    assert "no_thon_rings" in empty["flags"]
    assert empty["information_in_bits"]["mean"] == 0
    assert not empty["causes"]["defocus"]["identifiable"]
    view = read_image(run / "views" / "empty.mrc").data
    residual = read_image(run / "residuals" / "empty.mrc").data
    assert float(view.std()) < 0.02 * float(residual.std())


def test_correlations_of_the_ledger_are_those_of_what_moves(run: Path) -> None:
    document = json.loads((run / "causes.json").read_text())
    for ledger, told in (
        (document["session"]["ledger"], document["session"]["ledger_correlation"]),
        *(
            ({name: cause["bits_lost"] for name, cause in one["causes"].items()}, one.get("ledger_correlation"))
            for one in document["micrographs"]
        ),
    ):
        moving = {name for name, loss in ledger.items() if loss and loss["standard_deviation"] > 0}
        if not moving:  # without Thon rings there is nothing to price
            assert told is None
            continue
        assert set(told["names"]) == moving | {"information"}
        assert all(row[i] == 1.0 for i, row in enumerate(told["matrix"]))


def test_ledger_entries_add_up_to_the_loss(run: Path) -> None:
    document = json.loads((run / "causes.json").read_text())
    for entry in document["micrographs"]:
        lost = entry["ideal_information_in_bits"]["mean"] - entry["information_in_bits"]["mean"]
        shares = sum(cause["bits_lost"]["mean"] for cause in entry["causes"].values() if cause["bits_lost"])
        assert math.isclose(shares, lost, rel_tol=1e-6, abs_tol=1e-3)


def test_star_keeps_columns_and_has_relions_own(run: Path) -> None:
    block = find_block(read_star(run / "micrographs.star"), "micrographs")
    assert block is not None
    assert list(block.column("labNote")) == ["keep-steady", "keep-drifting", "keep-empty"]
    for label in (
        "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift", "rlnCtfFigureOfMerit", "rlnCtfMaxResolution",
        "rlnCtfBfactor", "rlnCtfScalefactor",
    ):  # fmt: skip
        assert np.isfinite([float(value) for value in block.column(label)]).all(), label
    assert (block.numbers("rlnDefocusU") >= block.numbers("rlnDefocusV")).all()


def test_weights_fall_with_resolution_and_across_the_drift(run: Path) -> None:
    directions, table, _ = read_star(run / "weights" / "drifting.star")
    weight = table.numbers("cryoprismWeight")
    assert ((weight >= 0) & (weight <= 1)).all()
    assert weight[:20].mean() > weight[60:].mean()
    weakest = float(directions.column("cryoprismWeakestDirection")[0])
    assert min(weakest, 180 - weakest) < 25  # the drift is along x
    band = slice(20, 40)
    assert (
        table.numbers("cryoprismWeightWeakestDirection")[band].mean()
        < 0.8 * table.numbers("cryoprismWeightStrongestDirection")[band].mean()
    )
    # The same envelope by direction, for the reconstruction.
    polar = read_directional_weights(run / "weights" / "drifting.star")
    along, across = (polar.envelope[int((polar.angle_in_degrees - d).abs().argmin())].abs() for d in (0.0, 90.0))
    middle = (polar.frequency > 0.05) & (polar.frequency < 0.1)
    assert float(along[middle].mean()) < 0.8 * float(across[middle].mean())


def test_where_particles_are_strong_the_view_takes_them_and_the_residual_does_not(session: Path, run: Path) -> None:
    image = read_image(session / "steady.mrc").data
    residual = read_image(run / "residuals" / "steady.mrc").data
    k = frequency_magnitude((640, 600), 1.8)
    band = (k > 1 / 150) & (k < 1 / 60)
    power = [float(rfft2(part - part.mean())[band].abs().square().mean()) for part in (image, residual)]
    assert power[1] < 0.3 * power[0]
    assert float(residual.std()) < float(image.std())


def test_a_resumed_job_repeats_nothing_and_gives_the_same(session: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "resumed"
    config = RestoreConfig(inputs=str(session / "micrographs.star"), output=out)
    restore_session(config)
    kept = (out / "views" / "steady.mrc").stat().st_mtime_ns
    (out / "views" / "drifting.mrc").unlink()
    (out / "RELION_JOB_EXIT_SUCCESS").unlink()
    summary = restore_session(config.model_copy(update={"only_do_unfinished": True}))
    assert summary.skipped == 2
    assert (out / "views" / "steady.mrc").stat().st_mtime_ns == kept
    for product in PRODUCTS:
        one = read_image(out / product / "drifting.mrc").data
        other = read_image(run / product / "drifting.mrc").data
        assert torch.equal(one, other), product


def test_one_bad_file_among_good_ones(session: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "good.mrc").write_bytes((session / "steady.mrc").read_bytes())
    (folder / "short.mrc").write_bytes((session / "drifting.mrc").read_bytes()[:200_000])
    config = RestoreConfig(
        inputs=str(folder),
        output=tmp_path / "out",
        voltage_in_kilovolts=300,
        spherical_aberration_in_millimeters=2.7,
        amplitude_contrast=0.07,
        views=False,
    )
    summary = restore_session(config)
    assert summary.restored == 1
    assert [name for name, _ in summary.failed] == ["short"]
    assert "short.mrc" in summary.failed[0][1]


@pytest.mark.real
def test_the_real_session_finishes_and_names_motion(real_data: Path, tmp_path: Path) -> None:
    """EMPIAR-10146: nine of nine, rings fitted past 5 Å, anisotropic motion named as a cause."""
    source = real_data / "apoferritin" / "micrographs.star"
    summary = restore_session(RestoreConfig(inputs=str(source), output=tmp_path / "real", workers=2))
    assert (summary.micrographs, summary.restored) == (9, 9)
    assert summary.converged
    document = json.loads((tmp_path / "real" / "causes.json").read_text())
    limits = [entry["fit_limit_in_angstroms"] for entry in document["micrographs"]]
    assert sum(limit < 5.0 for limit in limits) >= 8
    moving = [entry for entry in document["micrographs"] if entry["causes"]["motion"]["identifiable"]]
    assert len(moving) >= 7
    ledger = document["session"]["ledger"]
    assert max(ledger, key=lambda cause: ledger[cause]["mean"]) == "motion"
    assert "motion" in " ".join(summary.sentences)
