"""``cryoprism refine`` from files to files: poses, contract, resume after a kill, refusals, noise, RELION."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import torch

from cryoprism.core import CryoPrismWarning, InputError, euler_to_matrix, generator_for, rfft2
from cryoprism.formats import (
    Volume,
    read_map,
    read_particle_images,
    read_particles,
    write_map,
    write_particles,
    write_stack,
    write_star,
)
from cryoprism.particles import transfer_at
from cryoprism.structure import (
    DirectionalWeights,
    directional_weights_block,
    fourier_shell_correlation,
    pack,
    packed_frequencies,
)
from cryoprism.structure.orientations import angular_distance
from cryoprism.structure.refinement_state import RefinementState
from cryoprism.workflow import refine_session
from cryoprism.workflow.maps.refinement import read_state
from cryoprism.workflow.particles.data import load_particles

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "structure"))
from posed_particles import BOX, PIXEL, density
from pretended_device import DEVICE, pretended_device
from refine_sets import COUNT, DIAMETER, config, make_project

SCHEMA = json.loads(
    (Path(__file__).resolve().parents[2] / "src/cryoprism/workflow/schemas/resolution.schema.json").read_text()
)
# What to be careful about is said as a warning; here it is no error.
pytestmark = pytest.mark.filterwarnings("ignore::cryoprism.core.CryoPrismWarning")
needs_relion = pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="RELION is not on the PATH")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("refine"))


@pytest.fixture(scope="module")
def finished(project: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryoPrismWarning)
        summary = refine_session(config(project, project / "run"))
    assert summary.particles == COUNT
    assert summary.resolution_in_angstroms is not None
    return summary.output


def test_the_contract_is_kept(finished: Path) -> None:
    for name in ("map", "half1", "half2", "mask", "map_sharpened"):
        volume = read_map(finished / f"{name}.mrc")
        assert volume.data.shape == (BOX, BOX, BOX)
        assert volume.voxel_size_in_angstroms == pytest.approx(PIXEL)
    document = json.loads((finished / "resolution.json").read_text())
    jsonschema.validate(document, SCHEMA)
    assert document["particles"] == sum(document["refinement"]["particles_in_halves"]) == COUNT
    assert [row["iteration"] for row in document["refinement"]["passes"]] == list(
        range(1, len(document["refinement"]["passes"]) + 1)
    )
    page = (finished / "report.html").read_text()
    assert page.index("The map is resolved to") < page.index("How it settled")
    assert (finished / "RELION_JOB_EXIT_SUCCESS").exists()


def test_poses_and_map_are_those_of_the_truth(project: Path, finished: Path) -> None:
    truth, found = read_particles(project / "posed.star"), read_particles(finished / "particles.star")
    assert torch.equal(found.half_set, truth.half_set)
    true, new = (euler_to_matrix(*p.angles_in_degrees.unbind(-1)).float() for p in (truth, found))
    assert float(angular_distance(new, true).median()) < 6.0
    away = (found.origins_in_angstroms - truth.origins_in_angstroms).norm(dim=1)
    assert float(away.median()) < 0.75 * PIXEL
    curve = fourier_shell_correlation(read_map(finished / "map.mrc").data, density(), PIXEL)
    assert curve.crossing(0.5).resolution_in_angstroms < 6.5
    labels = found.table.labels
    for label in ("rlnLogLikeliContribution", "rlnMaxValueProbDistribution", "rlnNrOfSignificantSamples"):
        assert label in labels


def test_half_maps_are_not_filtered(finished: Path) -> None:
    """Noise of the halves reaches Nyquist: a Wiener filter would have taken it."""
    first, second = (read_map(finished / f"half{n}.mrc").data for n in (1, 2))
    power = torch.fft.fftshift(torch.fft.fftn(first - second).abs() ** 2)
    axis = torch.arange(BOX) - BOX // 2
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).float().sqrt()
    middle = power[(radius > 12) & (radius < 16)].mean()
    edge = power[(radius > 20) & (radius < 22.5)].mean()
    assert float(edge / middle) > 0.1


def test_a_finished_run_is_not_done_again_and_a_changed_reference_is(project: Path, finished: Path) -> None:
    before = (finished / "map.mrc").stat().st_mtime_ns
    again = refine_session(config(project, finished, only_do_unfinished=True))
    assert again.skipped
    assert again.sentences[0].startswith("The map is resolved to")
    with pytest.raises(InputError, match="was begun with other options: --symmetry was C1, now C2"):
        refine_session(config(project, finished, only_do_unfinished=True, symmetry="C2"))
    assert (finished / "map.mrc").stat().st_mtime_ns == before
    assert (finished / "RELION_JOB_EXIT_SUCCESS").exists()


def test_a_refused_run_does_not_stand_in_the_way(project: Path, tmp_path: Path) -> None:
    """A mask of another box is found out when the particles are read, after the folder was made."""
    write_map(tmp_path / "mask.mrc", Volume(torch.ones(20, 20, 20), PIXEL))
    with pytest.raises(InputError, match="a box of 20 × 20 × 20 voxels"):
        refine_session(config(project, tmp_path / "run", mask_file=tmp_path / "mask.mrc"))
    with pytest.raises(InputError, match=r"--maximum-resolution: 2 Å is finer than pixels of .* can show"):
        refine_session(config(project, tmp_path / "run", maximum_resolution_in_angstroms=2.0))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_killed_run_goes_on_after_its_last_pass(project: Path, finished: Path, tmp_path: Path) -> None:
    arguments = [
        sys.executable, "-c", "from cryoprism.cli import main; main()", "refine", str(project / "input.star"),
        "--reference", str(project / "reference.mrc"), "--diameter", str(DIAMETER), "--initial-lowpass", "20",
        "--shift-range", "6", "--iterations", "3", "--no-local", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    process = subprocess.Popen(
        arguments, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    state = tmp_path / "run" / "passes.npz"
    deadline = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.exists()
    assert not (tmp_path / "run" / "map.mrc").exists()
    assert not any((tmp_path / "run").glob("RELION_JOB_EXIT_*"))
    with pytest.raises(InputError, match="--only-do-unfinished"):
        refine_session(config(project, tmp_path / "run"))
    summary = refine_session(config(project, tmp_path / "run", only_do_unfinished=True))
    assert "Going on after pass" in (summary.output / "run.log").read_text()
    whole = read_map(finished / "map.mrc").data
    assert float((read_map(summary.output / "map.mrc").data - whole).norm()) < 0.02 * float(whole.norm())


@pytest.mark.slow
def test_another_device_makes_the_same_map(
    project: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryoprism.workflow.maps.refinement.resolve_device", lambda name: DEVICE)
    chosen = config(project, tmp_path / "run", device="cuda")
    with pretended_device():
        summary = refine_session(chosen)
        (summary.output / "map.mrc").unlink()
        again = refine_session(chosen.model_copy(update={"only_do_unfinished": True}))
    assert again.passes == summary.passes
    first, second = (read_map(out / "map.mrc").data for out in (again.output, finished))
    assert float((first - second).norm()) < 0.02 * float(second.norm())


def test_a_device_that_is_not_there_is_refused(project: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--device"):
        refine_session(config(project, tmp_path / "run", device="cuda:77"))
    assert not (tmp_path / "run").exists()


def test_a_state_of_another_run_is_not_taken(finished: Path, tmp_path: Path) -> None:
    assert read_state(finished / "passes.npz", "another", RefinementState) is None
    assert read_state(tmp_path / "none.npz", "x", RefinementState) is None
    (tmp_path / "torn.npz").write_bytes((finished / "passes.npz").read_bytes()[:1000])
    assert read_state(tmp_path / "torn.npz", "x", RefinementState) is None


def test_noise_aligned_to_a_reference_gives_no_resolution(tmp_path: Path, project: Path) -> None:
    """Independent halves: what noise is talked into by the reference ends where the halves stop sharing."""
    images = torch.randn(COUNT, BOX, BOX, generator=generator_for(5, "pure-noise"))
    write_stack(tmp_path / "noise.mrcs", images, PIXEL)
    particles = read_particles(project / "input.star")
    names = tuple(f"{i + 1:06d}@{tmp_path}/noise.mrcs" for i in range(COUNT))
    write_particles(tmp_path / "noise.star", replace(particles, image_names=names))
    settings = config(project, tmp_path / "run", particles_file=tmp_path / "noise.star", iterations=2)
    summary = refine_session(settings)
    half1, half2 = (read_map(summary.output / f"half{n}.mrc").data for n in (1, 2))
    curve = fourier_shell_correlation(half1, half2, PIXEL)
    beyond = curve.frequency > 1 / 12.0
    assert float(curve.fsc[beyond].abs().mean()) < 0.1
    assert summary.resolution_in_angstroms is None or summary.resolution_in_angstroms > 12.0
    # What halves share from their common start may be given as a number, but never as the map's resolution.
    assert "no resolution" in summary.sentences[0] or "do not agree" in summary.sentences[0]
    page = (summary.output / "report.html").read_text(encoding="utf-8")
    assert summary.sentences[0].split(":")[0][:40] in page


def test_scaling_makes_larger_voxels(project: Path, tmp_path: Path) -> None:
    summary = refine_session(config(project, tmp_path / "scaled", scaled_box_in_pixels=32, iterations=1))
    volume = read_map(summary.output / "map.mrc")
    assert volume.data.shape == (32, 32, 32)
    assert volume.voxel_size_in_angstroms == pytest.approx(PIXEL * BOX / 32)
    assert read_particles(summary.output / "particles.star").pixel_size_in_angstroms[0] == pytest.approx(PIXEL)


def test_loaded_coefficients_are_those_of_the_images(project: Path, tmp_path: Path) -> None:
    """Scaling is a Fourier crop, weights multiply the CTF, and the table's beam tilt is taken off."""
    star = replace(read_particles(project / "posed.star"), half_set=None)
    folder = tmp_path / "weights"
    folder.mkdir()
    frequency, angle = torch.linspace(0, 0.5 / PIXEL, 65), torch.arange(0.0, 180.0, 7.5)
    for number in range(8):
        fall = torch.exp(-20.0 * frequency**2).expand(24, 65)
        table = DirectionalWeights(frequency, angle, fall, torch.ones(24, 65))
        write_star(folder / f"m{number:02d}.star", [directional_weights_block(table)])
    plain = load_particles(star, BOX, PIXEL, diameter_in_angstroms=DIAMETER)
    data = load_particles(star, BOX, PIXEL, diameter_in_angstroms=DIAMETER, scaled_box=32, weights_folder=folder)
    k = packed_frequencies(data.radius).float() / BOX
    ctf = transfer_at(star, k[None, :, 1], k[None, :, 0])[:, 0]
    expected = ctf * torch.exp(-20.0 * (k.norm(dim=1) / PIXEL) ** 2)
    ratio = (data.transfer * expected).sum() / expected.square().sum()
    assert float((data.transfer - ratio * expected).norm()) < 0.01 * float(ratio * expected.norm())
    count = data.images.shape[1]
    assert torch.allclose(data.images * (BOX / 32) ** 2, plain.images[:, :count], rtol=1e-4, atol=1e-2)
    untilted = pack(rfft2(read_particle_images(star)), plain.radius)
    assert torch.allclose(plain.images.abs(), untilted.abs(), rtol=1e-4, atol=1e-2)
    # With its tilt taken off, the mean of what the truth predicts is real.
    assert float((plain.images - untilted).norm()) > 0.05 * float(untilted.norm())


def test_poses_of_the_table_can_be_the_start(project: Path, tmp_path: Path) -> None:
    settings = config(project, tmp_path / "p", particles_file=project / "posed.star", reference="none", iterations=1)
    map_ = read_map(refine_session(settings).output / "map.mrc").data
    assert fourier_shell_correlation(map_, density(), PIXEL).crossing(0.5).resolution_in_angstroms < 9.0


@needs_relion
@pytest.mark.relion
def test_relion_reads_what_is_written(finished: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> None:
        done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr

    star = str(finished / "particles.star")
    run("relion_reconstruct", "--i", star, "--o", "theirs.mrc", "--ctf")
    theirs = read_map(tmp_path / "theirs.mrc").data
    curve = fourier_shell_correlation(theirs, read_map(finished / "map.mrc").data, PIXEL)
    assert float(curve.fsc[2:16].min()) > 0.9
    run("relion_image_handler", "--i", str(finished / "half1.mrc"), "--o", "filtered.mrc", "--lowpass", "10")
    assert (tmp_path / "filtered.mrc").exists()
    (tmp_path / "out").mkdir()
    run(
        "relion_refine", "--i", star, "--o", "out/run", "--ref", str(finished / "map.mrc"), "--ini_high", "20", "--ctf",
        "--iter", "1", "--healpix_order", "1", "--offset_range", "1", "--offset_step", "1", "--particle_diameter", "60",
        "--firstiter_cc", "--pool", "30", "--tau2_fudge", "2", "--norm", "--scale",
    )  # fmt: skip
    assert len(read_particles(tmp_path / "out/run_it001_data.star")) == COUNT
    assert math.isfinite(float(read_map(tmp_path / "out/run_it001_class001.mrc").data.std()))
