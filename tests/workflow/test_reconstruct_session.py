"""``cryoprism reconstruct`` from a STAR file to maps: output contract, resume, weights, errors with a remedy."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cryoprism.core import (
    CryoPrismWarning,
    InputError,
    frequency_grid,
    generator_for,
    irfft2,
    matrix_to_euler,
    random_rotations,
    rfft2,
)
from cryoprism.formats import (
    Particles,
    read_map,
    read_particle_images,
    read_particles,
    write_particles,
    write_stack,
    write_star,
)
from cryoprism.microscope import project_volume
from cryoprism.particles import transfer_at
from cryoprism.structure import (
    DirectionalWeights,
    directional_weights_block,
    fourier_shell_correlation,
    read_directional_weights,
)
from cryoprism.workflow import ReconstructConfig, reconstruct_session

PIXEL, BOX, COUNT = 2.0, 32, 150


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with particles.star, its stack, the truth, and weights of its micrographs."""
    folder = tmp_path_factory.mktemp("particles")
    generator = generator_for(0, "reconstruct-session")
    axis = (torch.arange(BOX) - BOX // 2).float()
    truth = torch.zeros(BOX, BOX, BOX)
    for z, y, x in ((torch.rand(30, 3, generator=generator) - 0.5) * 14).tolist():
        truth += torch.exp(-((axis - z)[:, None, None] ** 2 + (axis - y)[:, None] ** 2 + (axis - x) ** 2) / 2.0)
    rotations = random_rotations(COUNT, generator)
    u = 8000 + 9000 * torch.rand(COUNT, generator=generator, dtype=torch.float64)

    def same(value: float) -> torch.Tensor:
        return torch.full((COUNT,), value, dtype=torch.float64)

    particles = Particles(
        image_names=tuple(f"{i + 1:06d}@{folder}/stack.mrcs" for i in range(COUNT)),
        micrograph_names=tuple(f"mics/m{i % 5}.mrc" for i in range(COUNT)),
        pixel_size_in_angstroms=same(PIXEL),
        voltage_in_kilovolts=same(300.0),
        spherical_aberration_in_millimeters=same(2.7),
        amplitude_contrast=same(0.1),
        angles_in_degrees=torch.stack(matrix_to_euler(rotations.double()), -1),
        defocus=torch.stack([u, u, same(0.0)], -1),
        source=str(folder / "particles.star"),
        image_size=torch.full((COUNT,), BOX),
    )
    images = project_volume(truth, rotations, 1.0, padding=4)
    ky, kx = frequency_grid((BOX, BOX), 1.0)
    images = irfft2(rfft2(images) * transfer_at(particles, ky, kx), (BOX, BOX))
    images = images + 0.5 * images.std() * torch.randn(images.shape, generator=generator)
    write_stack(folder / "stack.mrcs", images, PIXEL)
    write_particles(folder / "particles.star", particles)
    torch.save(truth, folder / "truth.pt")
    (folder / "weights").mkdir()
    frequency, angle = torch.linspace(0, 0.25, 33), torch.arange(0.0, 180.0, 15.0)
    flat = DirectionalWeights(frequency, angle, torch.ones(12, 33), torch.full((12, 33), 2.0))
    for i in range(5):
        write_star(folder / "weights" / f"m{i}.star", [directional_weights_block(flat)])
    return folder


@pytest.fixture(scope="module")
def finished(project: Path) -> Path:
    """Folder of a finished run."""
    summary = reconstruct_session(ReconstructConfig(particles_file=project / "particles.star", output=project / "run"))
    assert summary.particles == COUNT
    assert summary.resolution_in_angstroms is not None
    assert "150 particles" in summary.sentence()
    return summary.output


def test_maps_are_written_with_their_voxel_size_and_agree_with_the_truth(project: Path, finished: Path) -> None:
    truth = torch.load(project / "truth.pt")
    for name in ("map", "half1", "half2"):
        volume = read_map(finished / f"{name}.mrc")
        assert volume.voxel_size_in_angstroms == pytest.approx(PIXEL)
        assert float(fourier_shell_correlation(volume.data, truth, PIXEL).fsc[1:10].min()) > 0.9
    document = json.loads((finished / "reconstruction.json").read_text())
    assert sum(document["particles_in_halves"]) == COUNT
    assert len(document["fsc_unmasked"]) == len(document["frequency_in_inverse_angstroms"]) == BOX // 2 + 1
    job = json.loads((finished / "job.json").read_text())
    assert job["status"] == "success"
    assert (finished / "RELION_JOB_EXIT_SUCCESS").exists()
    assert "map.mrc 6" in (finished / "RELION_OUTPUT_NODES.star").read_text()


def test_a_finished_run_is_not_done_again(project: Path, finished: Path) -> None:
    before = (finished / "map.mrc").stat().st_mtime_ns
    config = ReconstructConfig(particles_file=project / "particles.star", output=finished, only_do_unfinished=True)
    summary = reconstruct_session(config)
    assert summary.skipped
    assert (finished / "map.mrc").stat().st_mtime_ns == before
    (finished / "half1.mrc").unlink()
    assert not reconstruct_session(config).skipped
    assert (finished / "half1.mrc").exists()


def test_a_handful_of_particles_gets_no_resolution(project: Path, tmp_path: Path) -> None:
    write_particles(project / "few.star", read_particles(project / "particles.star").subset([*range(8), *range(-8, 0)]))
    config = ReconstructConfig(particles_file=project / "few.star", output=tmp_path / "few")
    with pytest.warns(CryoPrismWarning, match="particles: too few"):
        summary = reconstruct_session(config)
    assert "too few" in summary.sentence()


def test_flat_weights_change_nothing(project: Path, finished: Path, tmp_path: Path) -> None:
    config = ReconstructConfig(
        particles_file=project / "particles.star", output=tmp_path / "w", weights_folder=project / "weights"
    )
    weighted = read_map(reconstruct_session(config).output / "map.mrc").data
    plain = read_map(finished / "map.mrc").data
    assert float((weighted - plain).norm()) < 1e-3 * float(plain.norm())


def test_weights_files_keep_their_values(tmp_path: Path) -> None:
    frequency, angle = torch.linspace(0, 0.4, 9), torch.arange(0.0, 180.0, 45.0)
    envelope = torch.cos(torch.arange(36.0)).reshape(4, 9)
    table = DirectionalWeights(frequency, angle, envelope, envelope.square() + 0.1)
    write_star(tmp_path / "m.star", [directional_weights_block(table)])
    again = read_directional_weights(tmp_path / "m.star")
    assert torch.allclose(again.envelope, envelope, atol=1e-4)
    assert torch.allclose(again.noise_power, table.noise_power, atol=1e-4)
    # On the grid the table itself; across 180° the directions join up.
    radians = math.radians(135.0)
    ky, kx = torch.tensor([0.2 * math.sin(radians)]), torch.tensor([0.2 * math.cos(radians)])
    assert float(again.at(ky, kx)[0]) == pytest.approx(float(envelope[3, 4]), abs=1e-3)
    assert float(again.at(-ky, -kx)[0]) == pytest.approx(float(envelope[3, 4]), abs=1e-3)


def test_errors_come_before_work_and_name_the_remedy(project: Path, tmp_path: Path) -> None:
    star = project / "particles.star"
    with pytest.raises(InputError, match="--symmetry"):
        reconstruct_session(ReconstructConfig(particles_file=star, output=tmp_path / "a", symmetry="Q5"))
    with pytest.raises(InputError, match="memory"):
        reconstruct_session(
            ReconstructConfig(particles_file=star, output=tmp_path / "b", max_memory_in_gigabytes=0.0001)
        )
    with pytest.raises(InputError, match="weights"):
        reconstruct_session(
            ReconstructConfig(particles_file=star, output=tmp_path / "c", weights_folder=tmp_path / "none")
        )
    with pytest.raises(InputError, match=r"--maximum-resolution: 2 Å is finer than pixels of .* can show"):
        reconstruct_session(
            ReconstructConfig(particles_file=star, output=tmp_path / "e", maximum_resolution_in_angstroms=2.0)
        )
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="Give both"):
        ReconstructConfig(particles_file=star, helical_rise_in_angstroms=4.0)
    particles = read_particles(star)
    twice = particles.subset([*range(20), 0])
    halves = torch.ones(21, dtype=torch.long)
    halves[10:] = 2
    write_particles(project / "leaked.star", replace(twice, half_set=halves))
    with pytest.raises(InputError, match="half"):
        reconstruct_session(ReconstructConfig(particles_file=project / "leaked.star", output=tmp_path / "d"))


def _copy(project: Path, folder: Path) -> tuple[str, ...]:
    """Copy the stack to another name; return the image names there."""
    (folder / "copy.mrcs").write_bytes((project / "stack.mrcs").read_bytes())
    return tuple(f"{i + 1:06d}@{folder}/copy.mrcs" for i in range(COUNT))


def test_copies_of_a_stack_in_the_other_half_are_refused(project: Path, tmp_path: Path) -> None:
    """Neither file names nor micrograph names tell that the halves hold the same images."""
    particles = read_particles(project / "particles.star")
    twice = replace(
        particles.subset([*range(COUNT), *range(COUNT)]),
        image_names=(*particles.image_names, *_copy(project, tmp_path)),
        micrograph_names=(*particles.micrograph_names, *(f"other/{n}" for n in particles.micrograph_names)),
        half_set=torch.tensor([1] * COUNT + [2] * COUNT),
    )
    write_particles(tmp_path / "copied.star", twice)
    with pytest.raises(InputError, match=r"copied\.star: .* same pixels \(rows 1 and 151,"):
        reconstruct_session(ReconstructConfig(particles_file=tmp_path / "copied.star", output=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("copied", [False, True])
def test_particles_listed_twice_count_once(project: Path, tmp_path: Path, copied: bool) -> None:
    particles = read_particles(project / "particles.star")
    second = _copy(project, tmp_path) if copied else particles.image_names
    twice = replace(
        particles.subset([*range(COUNT), *range(COUNT)]),
        image_names=(*particles.image_names, *second),
        micrograph_names=None,
    )
    write_particles(tmp_path / "twice.star", twice)
    once = replace(particles, micrograph_names=None)
    write_particles(tmp_path / "once.star", once)
    found, wanted = (
        reconstruct_session(ReconstructConfig(particles_file=tmp_path / f"{name}.star", output=tmp_path / name))
        for name in ("twice", "once")
    )
    assert (found.particles, found.duplicates) == (COUNT, COUNT)
    assert "150 particles stood in the table twice and were left out" in found.sentence()
    assert found.resolution_in_angstroms == pytest.approx(wanted.resolution_in_angstroms)
    assert json.loads((found.output / "reconstruction.json").read_text())["duplicates_left_out"] == COUNT


def test_noise_that_halves_share_is_no_resolution(project: Path, tmp_path: Path) -> None:
    """Copies that were scaled have other pixels, but their halves never fall apart."""
    particles = read_particles(project / "particles.star")
    write_stack(tmp_path / "scaled.mrcs", 1.001 * read_particle_images(particles) + 0.01, PIXEL)
    twice = replace(
        particles.subset([*range(COUNT), *range(COUNT)]),
        image_names=(*particles.image_names, *(f"{i + 1:06d}@{tmp_path}/scaled.mrcs" for i in range(COUNT))),
        half_set=torch.tensor([1] * COUNT + [2] * COUNT),
    )
    write_particles(tmp_path / "scaled.star", twice)
    with pytest.warns(CryoPrismWarning, match="halves share noise"):
        summary = reconstruct_session(
            ReconstructConfig(particles_file=tmp_path / "scaled.star", output=tmp_path / "run")
        )
    assert "which is no resolution" in summary.sentence()


@pytest.mark.parametrize(
    ("number", "words"),
    [(3, r"rlnRandomSubset is 3 in row 6.*Correct"), (1, "rlnRandomSubset gives half sets of 150 and 0.*Delete")],
)
def test_half_sets_that_are_none_are_named_before_images_are_read(
    project: Path, tmp_path: Path, number: int, words: str
) -> None:
    particles = read_particles(project / "particles.star")
    half = torch.ones(COUNT, dtype=torch.long)
    half[5] = number
    write_particles(tmp_path / "half.star", replace(particles, half_set=half))
    with pytest.raises(InputError, match=words):
        reconstruct_session(ReconstructConfig(particles_file=tmp_path / "half.star", output=tmp_path / "run"))
