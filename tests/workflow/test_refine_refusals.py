"""What ``cryoprism refine`` refuses, and what it takes after a correction: references, contrast, shared particles."""

from __future__ import annotations

import json
import math
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cryoprism.cli import main
from cryoprism.core import CryoPrismWarning, InputError, generator_for
from cryoprism.formats import (
    Volume,
    read_map,
    read_particle_images,
    read_particles,
    write_map,
    write_particles,
    write_stack,
)
from cryoprism.workflow import InitialModelConfig, initial_model_session, refine_session
from cryoprism.workflow.particles.data import load_particles
from cryoprism.workflow.particles.reference import reference_in_box, require_same_contrast

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "structure"))
from posed_particles import BOX, PIXEL
from refine_sets import COUNT, DIAMETER, config, make_project

# What to be careful about is said as a warning; here it is no error.
pytestmark = pytest.mark.filterwarnings("ignore::cryoprism.core.CryoPrismWarning")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("refine"))


def test_a_reference_of_another_box_and_voxel_size_is_brought_over(project: Path, tmp_path: Path) -> None:
    """Against the closed form: a Gaussian off centre, sampled at both voxel sizes."""

    def gaussian(box: int, voxel: float) -> torch.Tensor:
        z, y, x = torch.meshgrid(*[(torch.arange(box) - box // 2) * voxel] * 3, indexing="ij")
        return torch.exp(-((x - 9.0) ** 2 + (y + 4.0) ** 2 + z**2) / (2 * 8.0**2))

    for box, voxel in ((40, 2.5), (45, 2.0)):
        write_map(tmp_path / "other.mrc", Volume(gaussian(box, voxel), voxel))
        found = reference_in_box(tmp_path / "other.mrc", BOX, PIXEL, 20.0)
        assert float((found - gaussian(BOX, PIXEL)).abs().max()) < 0.04
    with pytest.raises(InputError, match="does not exist"):
        reference_in_box(tmp_path / "none.mrc", BOX, PIXEL, 20.0)


def test_refusals_name_the_remedy(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = read_particles(project / "input.star")

    def refused(particles_file: Path, match: str, **changes: object) -> None:
        with pytest.raises(InputError, match=match):
            refine_session(config(project, tmp_path / "x", particles_file=particles_file, overwrite=True, **changes))

    def changed(name: str, **columns: object) -> Path:
        write_particles(tmp_path / name, replace(star, **columns))
        return tmp_path / name

    refused(project / "input.star", "--reference", reference="none")
    refused(project / "input.star", "does not fit", diameter_in_angstroms=80.0)
    refused(project / "input.star", "--scale", scaled_box_in_pixels=64)
    refused(project / "input.star", "may be used", max_memory_in_gigabytes=0.01)
    refused(project / "input.star", "weights", weights_folder=tmp_path)
    refused(changed("no-ctf.star", defocus=None), "no defocus")
    pixels = star.pixel_size_in_angstroms.clone()
    pixels[100:] = 1.7
    refused(changed("pixels.star", pixel_size_in_angstroms=pixels), "pixel sizes")
    with pytest.raises(InputError, match="--symmetry"):
        config(project, tmp_path, symmetry="Q7")


def test_dark_particles_are_told_from_bright_ones(project: Path, tmp_path: Path) -> None:
    star = read_particles(project / "input.star")
    write_stack(tmp_path / "dark.mrcs", -read_particle_images(star), PIXEL)
    names = tuple(f"{i + 1:06d}@{tmp_path}/dark.mrcs" for i in range(COUNT))

    def load(names: tuple[str, ...]) -> None:
        load_particles(replace(star, image_names=names), BOX, PIXEL, diameter_in_angstroms=DIAMETER)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(star.image_names)
    with pytest.warns(CryoPrismWarning, match="dark on bright"):
        load(names)


@pytest.mark.parametrize("noise", [0.0, 7.0])
def test_a_reference_of_wrong_sign_is_refused(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], noise: float
) -> None:
    """With clear particles and at a signal-to-noise ratio of 0.02."""
    star = read_particles(project / "input.star")
    images = read_particle_images(star)
    images = images + noise * images.std() / math.sqrt(1 + 1.6**-2) * torch.randn(
        images.shape, generator=generator_for(3, "more-noise")
    )
    tables = {}
    for name, sign in (("bright", 1), ("dark", -1)):
        write_stack(tmp_path / f"{name}.mrcs", sign * images, PIXEL)
        names = tuple(f"{i + 1:06d}@{tmp_path}/{name}.mrcs" for i in range(COUNT))
        tables[name] = tmp_path / f"{name}.star"
        write_particles(tables[name], replace(star, image_names=names))
    right = read_map(project / "reference.mrc")
    black = tmp_path / "black.mrc"
    write_map(black, Volume(-right.data, PIXEL))
    options = ["--diameter", str(DIAMETER), "--initial-lowpass", "20", "--no-local", "--iterations", "1"]

    def refused(table: str, reference: Path) -> str:
        with pytest.raises(SystemExit) as caught:
            main(["refine", str(tables[table]), "--reference", str(reference), *options, "--out", str(tmp_path / "x")])
        assert caught.value.code == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "Traceback" not in said
        return said

    said = refused("bright", black)
    assert "black.mrc: shows the particle black" in said
    assert "--multiply_constant -1" in said
    said = refused("dark", project / "reference.mrc")
    assert "dark.star: the particles are dark where" in said
    assert "--invert" in said
    assert not (tmp_path / "x").exists()
    # Alike, if both wrong: the map will be black, and the particles are warned of.
    if not noise:
        with pytest.warns(CryoPrismWarning, match="dark on bright"):
            refine_session(
                config(project, tmp_path / "both", particles_file=tables["dark"], reference=str(black), iterations=1)
            )
    data = load_particles(read_particles(tables["bright"]), BOX, PIXEL, diameter_in_angstroms=DIAMETER)
    require_same_contrast(data, right.data, DIAMETER, tables["bright"], project / "reference.mrc")


def test_a_first_map_of_dark_particles_says_so(project: Path, tmp_path: Path) -> None:
    star = read_particles(project / "input.star")
    write_stack(tmp_path / "dark.mrcs", -read_particle_images(star), PIXEL)
    names = tuple(f"{i + 1:06d}@{tmp_path}/dark.mrcs" for i in range(COUNT))
    write_particles(tmp_path / "dark.star", replace(star, image_names=names))
    for table, dark in ((tmp_path / "dark.star", True), (project / "input.star", False)):
        summary = initial_model_session(
            InitialModelConfig(
                particles_file=table, diameter_in_angstroms=DIAMETER, starts=1, symmetry="I1",
                maximum_resolution_in_angstroms=14.0, output=tmp_path / f"model-{dark}",
            )
        )  # fmt: skip
        assert ("density is negative" in summary.sentence) == dark
        assert ("density is negative" in summary.report.read_text()) == dark
        assert json.loads((summary.output / "initial_model.json").read_text())["negative_density"] == dark


def test_shared_particles_are_refused_and_duplicates_left_out(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    star = read_particles(project / "input.star")
    twice = star.subset([*range(COUNT), 0, 1, 2])
    halves = twice.half_set.clone()
    halves[COUNT:] = 3 - halves[COUNT:]
    write_particles(tmp_path / "leaked.star", replace(twice, half_set=halves))
    arguments = ["refine", str(tmp_path / "leaked.star"), "--reference", str(project / "reference.mrc")]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--diameter", str(DIAMETER), "--out", str(tmp_path / "leaked")])
    assert caught.value.code == 2
    assert "half sets share particles" in capsys.readouterr().err
    # The same images under other names are found by their pixels.
    stack = (project / "particles.mrcs").read_bytes()
    (tmp_path / "copy.mrcs").write_bytes(stack)
    names = (*star.image_names, *(f"{i + 1:06d}@{tmp_path}/copy.mrcs" for i in range(3)))
    write_particles(tmp_path / "copied.star", replace(twice, image_names=names, half_set=halves))
    with pytest.raises(InputError, match="same pixels"):
        refine_session(config(project, tmp_path / "c", particles_file=tmp_path / "copied.star"))
    write_particles(tmp_path / "unsplit.star", replace(twice, image_names=names, half_set=None))
    summary = refine_session(config(project, tmp_path / "d", particles_file=tmp_path / "unsplit.star", iterations=1))
    assert (summary.duplicates, summary.particles) == (3, COUNT)
    found = read_particles(summary.output / "particles.star")
    by_micrograph = {}
    for name, half in zip(found.micrograph_names, found.half_set.tolist(), strict=True):
        assert by_micrograph.setdefault(name, half) == half
