"""``cryoprism classify``: from a table of particles to classes, resume after a kill, bad input, RELION, real data."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
from pathlib import Path

import pytest
import torch

from cryoprism.cli import classify, main
from cryoprism.core import CryoPrismWarning, InputError, frequency_grid, generator_for, irfft2, rfft2
from cryoprism.formats import (
    Particles,
    read_mrc,
    read_mrc_header,
    read_particles,
    read_star,
    write_particles,
    write_stack,
)
from cryoprism.particles import transfer_at
from cryoprism.structure import ClassificationState
from cryoprism.workflow import ClassifyConfig, classify_session

COUNT, BOX, PIXEL = 200, 36, 3.0


def make(folder: Path, *, strength: float = 0.9, defocus: bool = True) -> Particles:
    """A bar and a ring at random in-plane angles, with CTF and noise, from four micrographs."""
    generator = generator_for(0, "classify-session")
    axis = (torch.arange(BOX) - BOX // 2).float()
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    psi = 2 * math.pi * torch.rand(COUNT, 1, 1, generator=generator)
    u, v = x * psi.cos() + y * psi.sin(), y * psi.cos() - x * psi.sin()
    bars = torch.exp(-((u / 9) ** 4) - v**2 / 2) + torch.exp(-((u - 6) ** 2 + (v - 5) ** 2) / 2)
    rings = torch.exp(-(((u**2 + v**2).sqrt() - 8) ** 2) / 2) + 2 * torch.exp(-((u - 4) ** 2 + v**2) / 2)
    clean = torch.where((torch.arange(COUNT) % 2 == 0)[:, None, None], bars, rings)
    u_defocus = 9000 + 6000 * torch.rand(COUNT, generator=generator, dtype=torch.float64)
    particles = Particles(
        image_names=tuple(f"{i + 1:06d}@{folder.name}/stack.mrcs" for i in range(COUNT)),
        micrograph_names=tuple(f"m{i // 2 % 4}.mrc" for i in range(COUNT)),
        pixel_size_in_angstroms=torch.full((COUNT,), PIXEL, dtype=torch.float64),
        voltage_in_kilovolts=torch.full((COUNT,), 300.0, dtype=torch.float64),
        spherical_aberration_in_millimeters=torch.full((COUNT,), 2.7, dtype=torch.float64),
        amplitude_contrast=torch.full((COUNT,), 0.1, dtype=torch.float64),
        defocus=torch.stack([u_defocus, u_defocus - 200, torch.zeros_like(u_defocus)], -1) if defocus else None,
        image_size=torch.full((COUNT,), BOX),
    )
    spectra = rfft2(clean)
    if defocus:
        spectra = spectra * transfer_at(particles, *frequency_grid((BOX, BOX), 1.0))
    images = strength * irfft2(spectra, (BOX, BOX)) / float(clean.std()) + torch.randn(clean.shape, generator=generator)
    folder.mkdir(exist_ok=True)
    write_stack(folder / "stack.mrcs", images.float(), PIXEL)
    write_particles(folder / "particles.star", particles)
    return particles


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "in")
    return tmp_path


def config(**changed: object) -> ClassifyConfig:
    given = {
        "particles_file": "in/particles.star", "classes": 4, "diameter_in_angstroms": 80.0, "iterations": 8,
        "output": "out",
    } | changed  # fmt: skip
    return ClassifyConfig(**given)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["classify", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_whole_way(session: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["in/particles.star", "--classes", "4", "--diameter", "80", "--out", "out"]
    assert run(*arguments, "--iterations", "15", "--select", "0.1") == 0
    assert "200 particles in" in capsys.readouterr().out
    table = read_star("out/classes.star")[0]
    members = table.numbers("cryoprismParticles")
    assert members.sum() == COUNT
    assert sorted(members, reverse=True)[0] == members[0]
    assert table.numbers("rlnClassDistribution").sum() == pytest.approx(1.0, abs=1e-3)
    assert table.column("rlnReferenceImage")[0] == "000001@out/classes.mrcs"
    header = read_mrc_header("out/classes.mrcs")
    assert header.shape == (4, BOX, BOX)
    assert header.pixel_size_in_angstroms == pytest.approx(PIXEL)
    particles = read_particles("out/particles.star")
    assert particles.class_number is not None
    assert particles.angles_in_degrees is not None
    assert particles.origins_in_angstroms is not None
    assert particles.table is not None
    assert particles.class_number.min() >= 1
    assert float(particles.origins_in_angstroms.abs().max()) < 30
    probability = particles.table.numbers("rlnMaxValueProbDistribution")
    assert ((probability > 0) & (probability <= 1)).all()
    assert "rlnLogLikeliContribution" in particles.table
    kind = torch.arange(COUNT) % 2
    right = sum(
        int(torch.bincount(kind[particles.class_number == c], minlength=2).max())
        for c in set(particles.class_number.tolist())
    )
    assert right / COUNT > 0.95
    selected = read_particles("out/selected.star")
    chosen = {i + 1 for i, keep in enumerate(table.numbers("cryoprismSelected")) if keep}
    assert selected.class_number is not None
    assert set(selected.class_number.tolist()) == chosen
    assert len(selected) == sum(int(members[c - 1]) for c in chosen)
    document = json.loads(Path("out/classification.json").read_text())
    assert [entry["selected"] for entry in document["classes"]] == [i + 1 in chosen for i in range(4)]
    page = Path("out/report.html").read_text()
    assert page.count('<figure class="class') == int((members > 0).sum())
    assert "http" not in page.replace("http-equiv", "")
    assert Path("out/RELION_JOB_EXIT_SUCCESS").exists()


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_where_it_was(session: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = classify_session(config(output="whole"))
    module = importlib.import_module("cryoprism.workflow.particles.classify_session")
    keep = module._keeper
    seen: list[int] = []

    def watched(*arguments: object) -> object:
        inner = keep(*arguments)

        def step(state: ClassificationState) -> None:
            inner(state)
            seen.append(state.iteration)
            if len(seen) == 5:
                raise Killed

        return step

    monkeypatch.setattr(module, "_keeper", watched)
    with pytest.raises(Killed):
        classify_session(config())
    assert not Path("out/classes.star").exists()
    resumed = classify_session(config(only_do_unfinished=True))
    assert seen == [1, 2, 3, 4, 5, *range(6, whole.iterations + 1)]
    assert torch.equal(read_mrc("out/classes.mrcs")[0], read_mrc("whole/classes.mrcs")[0])
    assert resumed.iterations == whole.iterations
    # All done: nothing is computed again, unless what is asked for changed.
    again = classify_session(config(only_do_unfinished=True))
    assert again.skipped
    assert again.selected_particles == resumed.selected_particles
    count = len(seen)
    with pytest.warns(CryoPrismWarning, match="no class was selected"):
        stricter = classify_session(config(only_do_unfinished=True, least_score=1.0))
    assert (stricter.skipped, stricter.selected_particles, len(seen)) == (False, 0, count)
    assert not Path("out/selected.star").exists()
    with pytest.raises(InputError, match="--seed was 0, now 3"):
        classify_session(config(only_do_unfinished=True, seed=3))
    with Path("in/particles.star").open("a") as table:
        table.write("\n# as another program may add\n")
    classify_session(config(only_do_unfinished=True))
    assert len(seen) > count
    assert "particles.star has changed since the earlier run" in Path("out/run.log").read_text()


def test_images_are_scaled_down_and_origins_stay_in_angstroms(session: Path) -> None:
    classify_session(config(scaled_box_in_pixels=24))
    header = read_mrc_header("out/classes.mrcs")
    assert header.shape == (4, 24, 24)
    assert header.pixel_size_in_angstroms == pytest.approx(PIXEL * 36 / 24)
    assert read_particles("out/particles.star").pixel_size_in_angstroms[0] == pytest.approx(PIXEL)


def test_bad_input_is_one_line_and_exit_code_2(session: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(session / "bare", defocus=False)
    good = ["in/particles.star", "--classes", "4", "--diameter", "80"]
    for arguments, words in (
        (["gone.star", *good[1:]], "gone.star"),
        (good[1:], "PARTICLES: nothing was given"),
        (good[:3], "--diameter: nothing was given"),
        ([*good[:3], "--diameter", "500"], "500 Å in a box of 108 Å"),
        ([good[0], "--classes", "101", *good[3:]], "101 for 200 particles"),
        ([*good, "--scale", "99"], "99 pixels are more than the box of 36"),
        ([*good, "--max-memory", "0.0001"], "memory"),
        (["bare/particles.star", *good[1:]], "--no-ctf"),
        ([*good, "--select", "7"], "--select"),
    ):
        assert run(*arguments, "--out", "bad", "--overwrite") == 2, words
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error:")]
        assert len(lines) == 1
        assert words in lines[0]
        assert not Path("bad/particles.star").exists()
    with pytest.raises(InputError, match="--classes"):
        config(classes=0)


def test_without_ctf_images_are_taken_as_they_are(session: Path) -> None:
    make(session / "bare", defocus=False)
    summary = classify_session(config(particles_file="bare/particles.star", ctf=False, iterations=3))
    assert summary.particles == COUNT


def test_every_option_sets_a_field() -> None:
    assert set(classify.FIELDS.values()) >= set(ClassifyConfig.model_fields) - {"workers"}


@pytest.mark.relion
def test_relion_reads_what_is_written(session: Path) -> None:
    classify_session(config(iterations=4))
    for name, count in (("out/particles.star", COUNT), ("out/classes.mrcs", 4)):
        stats = subprocess.run(
            ["relion_image_handler", "--i", name, "--stats"], capture_output=True, text=True, check=False
        )
        assert stats.returncode == 0, stats.stderr
        assert stats.stdout.count("(x,y,z,n)=") == count
    classes = subprocess.run(
        ["relion_star_printtable", "out/classes.star", "data_", "rlnReferenceImage", "rlnClassDistribution"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert classes.stdout.count("@out/classes.mrcs") == 4


@pytest.mark.real
@pytest.mark.filterwarnings("ignore::cryoprism.core.CryoPrismWarning")  # no CTF in that table
def test_real_apoferritin_gives_rings(tmp_path: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = real_data / "apoferritin"
    with pytest.raises(SystemExit):
        main(
            ["extract", str(folder / "micrographs.star"), "--coordinates", str(folder / "coordinates"), "--box", "120",
             "--diameter", "150", "--scale", "40", "--out", "ex"]
        )  # fmt: skip
    summary = classify_session(
        config(particles_file="ex/particles.star", diameter_in_angstroms=140.0, classes=4, ctf=False, iterations=12)
    )
    assert summary.selected_particles > 0.6 * summary.particles
    images, _ = read_mrc("out/classes.mrcs")
    axis = torch.arange(40) - 20
    radius = 4.5 * (axis[:, None] ** 2 + axis**2).sqrt()
    members = read_star("out/classes.star")[0].numbers("cryoprismParticles")
    for image, count in zip(images, members, strict=True):
        if count < 100:
            continue
        middle, ring, outside = (
            float(image[(radius >= low) & (radius < high)].mean()) for low, high in ((0, 15), (38, 52), (64, 72))
        )
        assert ring > middle > outside
