"""``ctf-refine`` from files to files: what it writes, resume, refusals, and that RELION reads it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cryoprism.cli import main
from cryoprism.core import CryoPrismWarning, InputError
from cryoprism.formats import Volume, read_map, read_particles, read_star, write_map, write_particles
from cryoprism.structure import BeamTilt, DefocusRefinement
from cryoprism.workflow import CtfRefineConfig, ctf_refine_session
from cryoprism.workflow.report._aberrations_page import aberrations_report
from cryoprism.workflow.report._numbers import with_error

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "structure"))
from posed_particles import PIXEL, noisy_halves, simulate

COUNT, TILT = 240, (0.7, -0.4)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ctf-refine")
    error = torch.zeros(COUNT, 3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(4)
    error[:, 0] = 250 * torch.randn(COUNT, generator=generator, dtype=torch.float64)
    simulate(folder, COUNT, noise=2.0, beam_tilt=TILT, defocus_error=error)
    torch.save(error[:, 0], folder / "error.pt")
    for number, half in enumerate(noisy_halves(), 1):
        write_map(folder / f"half{number}.mrc", Volume(half, PIXEL))
    return folder


def config(inputs: Path, out: Path, **changes: object) -> CtfRefineConfig:
    return CtfRefineConfig(
        particles_file=inputs / "particles.star",
        half1=inputs / "half1.mrc",
        half2=inputs / "half2.mrc",
        output=out,
        **changes,
    )


@pytest.fixture(scope="module")
def job(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("job") / "run"
    ctf_refine_session(config(inputs, out))
    return out


def test_the_table_is_refined(job: Path, inputs: Path) -> None:
    before, after = read_particles(inputs / "particles.star"), read_particles(job / "particles.star")
    error = torch.load(inputs / "error.pt")
    assert before.defocus is not None
    assert after.defocus is not None
    assert after.beam_tilt_in_milliradians is not None
    left = error - (after.defocus - before.defocus)[:, 0]
    assert float(left.square().mean().sqrt()) < 0.35 * float(error.square().mean().sqrt())
    assert after.beam_tilt_in_milliradians[0].tolist() == pytest.approx(TILT, abs=0.08)
    assert after.half_set is not None
    assert torch.equal(after.half_set, before.half_set)
    assert after.table is not None
    assert "cryoprismDefocusDeviation" in after.table


def test_every_estimate_has_an_error_bar(job: Path) -> None:
    document = json.loads((job / "aberrations.json").read_text())
    (group,) = document["optics_groups"]
    cause = group["causes"]["beam_tilt"]
    assert cause["identifiable"]
    for name, truth in zip(("beam_tilt_x", "beam_tilt_y"), TILT, strict=True):
        found = cause["parameters"][name]
        assert abs(found["mean"] - truth) < 4 * found["standard_deviation"]
        assert found["unit"] == "mrad"
    assert document["defocus"]["particles_determined"] > 0.9 * COUNT
    assert len(document["micrographs"]) == 8
    assert not any(row["signal"]["drift_identifiable"] for row in document["micrographs"])
    assert any("beam tilt" in sentence for sentence in document["sentences"])
    assert (job / "RELION_JOB_EXIT_SUCCESS").exists()


def test_the_report_shows_what_was_found(job: Path) -> None:
    page = (job / "report.html").read_text()
    document = json.loads((job / "aberrations.json").read_text())
    for sentence in document["sentences"]:
        assert sentence in page
    assert page.index('id="defocus"') < page.index('id="tilt"') < page.index('id="micrographs"')
    picture = page[page.index("change of defocus of 240 particles") :]
    assert picture[: picture.index("</svg>")].count('fill:var(--aberrations)"') > 10
    # One dot for each particle, a circle for each micrograph, a whisker for those that are determined.
    known = sum(row["defocus_change"]["identifiable"] for row in document["micrographs"])
    picture = page[page.index(f"change of defocus of 8 micrographs, {known} of them determined") :]
    picture = picture[: picture.index("</svg>")]
    assert picture.count("h0") == COUNT
    assert picture.count("<circle") == 8
    assert picture.count('class="whisker"') == known
    assert page.count("<ellipse") == 2
    group = document["optics_groups"][0]["causes"]["beam_tilt"]["parameters"]["beam_tilt_x"]
    assert with_error(group["mean"], group["standard_deviation"]) in page
    for number in range(8):
        assert f'<th scope="row">m{number:02d}.mrc</th>' in page


def test_what_is_not_determined_is_not_shown_as_a_number(tmp_path: Path) -> None:
    zero = torch.zeros(2, dtype=torch.float64)
    no = torch.zeros(2, dtype=torch.bool)
    sure = DefocusRefinement(zero + 50, zero + 9, ~no, zero + 50, zero + 8, ~no, 30.0, 30.0, 0)
    seen = aberrations_report(
        tmp_path, title="x", sentences=[], warnings=[], facts={}, micrograph=[0, 1], names=["a", "b"], defocus=sure
    ).read_text()
    assert seen.count('class="whisker"') == seen.count("50.0 ± 8.0") == 2
    nothing = DefocusRefinement(zero, zero + 90, no, zero, zero + 80, no, 0.0, 0.0, 0)
    covariance = 0.01 * torch.eye(4, dtype=torch.float64)
    tilt = BeamTilt(3, (0.1, 0.0), (0.0, 0.0), (0.0, 0.0), covariance, 1.0, False, 1.0, 2)
    page = aberrations_report(
        tmp_path, title="<odd>", sentences=["None."], warnings=["Look."], facts={}, micrograph=[0, 1],
        names=["a.mrc", "b.mrc"], tilts=[tilt], defocus=nothing,
    ).read_text()  # fmt: skip
    assert "<odd>" not in page
    assert "&lt;odd&gt;" in page
    assert "not determined: the old value is kept" in page
    assert "Look." in page
    table = page[page.index('id="micrographs"') :]
    assert table.count('<span class="quiet">–</span></data>') == 2
    assert "90" not in table
    assert 'class="whisker"' not in page


def test_the_weights_serve_reconstruct(job: Path, tmp_path: Path) -> None:
    assert {path.name for path in (job / "weights").iterdir()} == {f"m{i:02d}.star" for i in range(8)}
    arguments = ["reconstruct", str(job / "particles.star"), "--weights", str(job / "weights"), "--iterations", "0"]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--out", str(tmp_path / "run")])
    assert caught.value.code == 0
    assert bool(read_map(tmp_path / "run/map.mrc").data.isfinite().all())


def test_a_second_run_is_skipped_and_other_maps_are_not(job: Path, inputs: Path, tmp_path: Path) -> None:
    stamp = (job / "particles.star").stat().st_mtime_ns
    again = ctf_refine_session(config(inputs, job, only_do_unfinished=True))
    assert again.skipped
    assert any("beam tilt" in sentence for sentence in again.sentences)
    assert (job / "particles.star").stat().st_mtime_ns == stamp
    one, two = noisy_halves(0.05)
    for number, half in enumerate((one, two), 1):
        write_map(tmp_path / f"half{number}.mrc", Volume(half, PIXEL))
    other = config(inputs, tmp_path / "run", defocus=False, signal=False)
    first = ctf_refine_session(other)
    changed = other.model_copy(update={"half1": tmp_path / "half1.mrc", "only_do_unfinished": True})
    assert not first.skipped
    assert not ctf_refine_session(changed).skipped


def test_only_what_was_asked_for_changes(inputs: Path, tmp_path: Path) -> None:
    ctf_refine_session(config(inputs, tmp_path / "run", beam_tilt=False, defocus=False))
    before, after = read_particles(inputs / "particles.star"), read_particles(tmp_path / "run/particles.star")
    assert before.defocus is not None
    assert after.defocus is not None
    torch.testing.assert_close(after.defocus, before.defocus)
    assert after.beam_tilt_in_milliradians is None
    assert (tmp_path / "run/weights/m00.star").exists()


def test_maps_too_coarse_for_defocus_leave_it_alone(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The package's attribute of that name is the function.
    monkeypatch.setattr(sys.modules["cryoprism.workflow.maps.ctf_refine_session"], "_COARSE_FOR_DEFOCUS", 0.1)
    with pytest.warns(CryoPrismWarning, match="Defocus stays as it is in the table"):
        found = ctf_refine_session(config(inputs, tmp_path / "run", astigmatism=True, signal=False))
    assert found.sentences[-1].startswith("Defocus stays as it is")
    before, after = read_particles(inputs / "particles.star"), read_particles(tmp_path / "run/particles.star")
    assert before.defocus is not None
    assert after.defocus is not None
    torch.testing.assert_close(after.defocus, before.defocus)
    assert after.beam_tilt_in_milliradians is not None  # that was found all the same


@pytest.mark.relion
def test_relion_reads_the_result(job: Path) -> None:
    done = subprocess.run(
        ["relion_reconstruct", "--i", str(job / "particles.star"), "--o", str(job / "relion.mrc"), "--ctf"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert read_map(job / "relion.mrc").data.shape == (48, 48, 48)
    optics = next(block for block in read_star(job / "particles.star") if block.name == "optics")
    assert float(optics.column("rlnBeamTiltX")[0]) == pytest.approx(TILT[0], abs=0.08)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--half2", "half1.mrc"), "first half map again"),
        (("--half2", "none.mrc"), "does not exist"),
        (("--half2", "half2.mrc", "--no-defocus", "--no-beam-tilt", "--no-signal"), "switched off"),
        (("--half2", "half2.mrc", "--drift-shape", "zigzag"), "--drift-shape"),
        (("--half2", "half2.mrc", "--max-memory", "0.001"), "GB"),
    ],
)
def test_bad_options_are_named_with_a_remedy(
    arguments: tuple[str, ...],
    word: str,
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(inputs)
    with pytest.raises(SystemExit) as caught:
        main(["ctf-refine", "particles.star", "--half1", "half1.mrc", *arguments, "--out", str(tmp_path / "run")])
    assert caught.value.code == 2
    assert word in capsys.readouterr().err


def test_without_half_sets_it_is_refused(inputs: Path, tmp_path: Path) -> None:
    particles = replace(read_particles(inputs / "particles.star"), half_set=None)
    write_particles(tmp_path / "particles.star", particles)
    with pytest.raises(InputError, match="rlnRandomSubset"):
        ctf_refine_session(
            config(inputs, tmp_path / "run").model_copy(update={"particles_file": tmp_path / "particles.star"})
        )


def test_copies_of_a_stack_in_the_other_half_are_refused(inputs: Path, tmp_path: Path) -> None:
    particles = read_particles(inputs / "particles.star").subset(range(20))
    names, copies = [], []
    for number, name in enumerate(particles.image_names, 1):
        stack = inputs / name.partition("@")[2]
        (tmp_path / "copy.mrcs").write_bytes(stack.read_bytes())
        names.append(f"{number:06d}@{stack}")
        copies.append(f"{number:06d}@{tmp_path}/copy.mrcs")
    twice = replace(
        particles.subset([*range(20), *range(20)]),
        image_names=(*names, *copies),
        micrograph_names=("here",) * 20 + ("there",) * 20,
        half_set=torch.tensor([1] * 20 + [2] * 20),
    )
    write_particles(tmp_path / "copied.star", twice)
    with pytest.raises(InputError, match="same pixels"):
        ctf_refine_session(
            config(inputs, tmp_path / "run").model_copy(update={"particles_file": tmp_path / "copied.star"})
        )
