"""``cryoprism refine --helical-rise --helical-twist`` from files to files, and RELION on what it writes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cryoprism.core import CryoPrismWarning, InputError
from cryoprism.formats import (
    Particles,
    Volume,
    read_map,
    read_particles,
    write_map,
    write_particles,
    write_stack,
)
from cryoprism.microscope import Lens
from cryoprism.structure import fourier_shell_correlation, helical_agreement, low_pass, soft_cylinder, soft_sphere
from cryoprism.workflow import RefineConfig, refine_session
from cryoprism.workflow.maps.filaments import axes_of_filaments, halves_by_filament, nearest_segments

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "structure"))
from simulated_filaments import BOX, HELIX, PIXEL, Segments, segments, truth

COUNT = 160
pytestmark = pytest.mark.filterwarnings("ignore::cryoprism.core.CryoPrismWarning")
needs_relion = pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="RELION is not on the PATH")


def write(folder: Path, made: Segments) -> None:
    """All segments of one micrograph, 14 Å apart along their filaments; the table tells filaments and priors."""
    count, lens = len(made.images), Lens()
    write_stack(folder / "segments.mrcs", made.images, PIXEL)
    full = torch.full((count,), 1.0, dtype=torch.float64)
    place = torch.stack([200.0 * made.filament, 14.0 / PIXEL * (torch.arange(count) % 10)], -1).double()
    table = Particles(
        image_names=tuple(f"{i + 1:06d}@{folder}/segments.mrcs" for i in range(count)),
        micrograph_names=("only.mrc",) * count,
        pixel_size_in_angstroms=PIXEL * full,
        voltage_in_kilovolts=lens.voltage_in_kilovolts * full,
        spherical_aberration_in_millimeters=lens.spherical_aberration_in_millimeters * full,
        amplitude_contrast=lens.amplitude_contrast * full,
        defocus=torch.stack([made.defocus.double(), made.defocus.double(), 0 * full], -1),
        coordinates_in_pixels=place,
        micrograph_pixel_size_in_angstroms=PIXEL * full,
        source=str(folder / "segments.star"),
        image_size=torch.full((count,), BOX),
        optics_group=torch.ones(count, dtype=torch.int64),
    )
    columns = {
        "rlnHelicalTubeID": [int(i) + 1 for i in made.filament],
        "rlnAngleTiltPrior": [90.0] * count,
        "rlnAnglePsiPrior": made.psi_prior.tolist(),
        "rlnAnglePsiFlipRatio": [0.5] * count,
        "rlnHelicalTrackLengthAngst": [14.0 * (i % 10) for i in range(count)],
    }
    write_particles(folder / "segments.star", table, extra_columns=columns)
    write_particles(folder / "plain.star", table)
    write_map(folder / "reference.mrc", Volume(low_pass(truth(), PIXEL, 30.0), PIXEL))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filaments")
    write(folder, segments(COUNT, 0.15))
    return folder


def config(project: Path, out: Path, **changes: object) -> RefineConfig:
    chosen: dict[str, object] = {
        "particles_file": project / "segments.star",
        "reference": str(project / "reference.mrc"),
        "diameter_in_angstroms": 105.0,
        "shift_range_in_angstroms": 9.0,
        "iterations": 3,
        "local": False,
        "helical_rise_in_angstroms": HELIX.rise_in_angstroms,
        "helical_twist_in_degrees": HELIX.twist_in_degrees,
        "helical_diameter_in_angstroms": 70.0,
        "helical_central_fraction": 0.5,
        "output": out,
    }
    return RefineConfig(**(chosen | changes))


@pytest.fixture(scope="module")
def finished(project: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryoPrismWarning)
        summary = refine_session(config(project, project / "run"))
    # Segments 14 Å apart are no duplicates.
    assert (summary.particles, summary.duplicates) == (COUNT, 0)
    return summary.output


def test_the_map_is_nearer_to_the_truth_and_helical(project: Path, finished: Path) -> None:
    mask = soft_sphere((BOX,) * 3, PIXEL, 35.0) * soft_cylinder((BOX,) * 3, PIXEL, 35.0)
    start, end = (
        fourier_shell_correlation(read_map(path).data, truth(), PIXEL, mask=mask).fsc[6:13].mean()
        for path in (project / "reference.mrc", finished / "map.mrc")
    )
    assert float(end) > float(start) + 0.4
    for half in ("half1", "half2"):
        assert helical_agreement(read_map(finished / f"{half}.mrc").data, PIXEL, HELIX) > 0.9
    document = json.loads((finished / "resolution.json").read_text())
    assert document["refinement"]["passes"][-1]["rise_in_angstroms"] == HELIX.rise_in_angstroms
    assert document["mask"]["given"] is False
    assert "inside the filament's cylinder" in (finished / "report.html").read_text()
    assert "13.000 Å, 47.000°" in (finished / "report.html").read_text()


def test_a_filament_stays_in_one_half(finished: Path) -> None:
    found = read_particles(finished / "particles.star")
    assert found.table is not None
    half: dict[str, int] = {}
    for tube, number in zip(found.table.column("rlnHelicalTubeID"), found.half_set.tolist(), strict=True):
        assert half.setdefault(tube, number) == number
    assert set(half.values()) == {1, 2}
    assert "rlnHelicalTrackLengthAngst" in found.table


def test_halves_that_divide_a_filament_are_refused(project: Path) -> None:
    star = read_particles(project / "segments.star")
    with pytest.raises(InputError, match="one filament"):
        halves_by_filament(replace(star, half_set=torch.arange(COUNT) % 2 + 1), 0)
    with pytest.raises(InputError, match="rlnHelicalTubeID"):
        halves_by_filament(read_particles(project / "plain.star"), 0)
    untold = replace(read_particles(project / "plain.star"), half_set=torch.arange(COUNT) % 2 + 1)
    with pytest.raises(InputError, match="one micrograph"):
        halves_by_filament(untold, 0)
    several = tuple(f"m{i % 4}.mrc" for i in range(COUNT))
    split = halves_by_filament(replace(read_particles(project / "plain.star"), micrograph_names=several), 0)
    half: dict[str, int] = {}
    for name, number in zip(several, split.half_set.tolist(), strict=True):
        assert half.setdefault(name, number) == number


def test_priors_of_the_table_are_axes_of_the_views(project: Path) -> None:
    made = segments(COUNT, 0.15)
    axes = axes_of_filaments(read_particles(project / "segments.star"))
    assert axes is not None
    line = (axes * made.rotations[:, :, 2]).sum(1).abs()
    assert float(torch.rad2deg(torch.arccos(line.clamp_max(1.0))).median()) < 10.0
    assert axes_of_filaments(read_particles(project / "plain.star")) is None


def test_options_that_do_not_fit_are_refused(project: Path, tmp_path: Path) -> None:
    for changes, match in (
        ({"helical_twist_in_degrees": None}, "Give both"),
        ({"symmetry": "O"}, "Cn or Dn"),
        ({"helical_central_fraction": 0.05}, "--helical-central-fraction"),
        ({"helical_diameter_in_angstroms": 110.0}, "--helical-diameter"),
    ):
        with pytest.raises(InputError, match=match):
            refine_session(config(project, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()
    assert nearest_segments(config(project, tmp_path)) == 0.5 * HELIX.rise_in_angstroms


@needs_relion
@pytest.mark.relion
def test_relion_reads_what_is_written(finished: Path, tmp_path: Path) -> None:
    def run(command: str) -> None:
        done = subprocess.run(command.split(), capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr

    star = finished / "particles.star"
    rise, twist = HELIX.rise_in_angstroms, HELIX.twist_in_degrees
    run(f"relion_reconstruct --i {star} --o theirs.mrc --ctf --nr_helical_asu 2 --helical_rise {rise} "
        f"--helical_twist {twist}")  # fmt: skip
    mask = soft_sphere((BOX,) * 3, PIXEL, 35.0) * soft_cylinder((BOX,) * 3, PIXEL, 35.0)
    theirs = read_map(tmp_path / "theirs.mrc").data
    curve = fourier_shell_correlation(theirs, read_map(finished / "map.mrc").data, PIXEL, mask=mask)
    assert float(curve.fsc[2:10].mean()) > 0.7
    (tmp_path / "out").mkdir()
    run(f"relion_refine --i {star} --o out/run --ref {finished}/map.mrc --ini_high 20 --ctf --iter 1 --healpix_order 1 "
        "--offset_range 1 --offset_step 1 --particle_diameter 105 --firstiter_cc --pool 30 --tau2_fudge 2 --norm "
        f"--scale --helix --helical_nr_asu 1 --helical_rise_initial {rise} --helical_twist_initial {twist} "
        "--helical_outer_diameter 70 --helical_z_percentage 0.4 --sigma_tilt 5 --sigma_psi 5")  # fmt: skip
    assert len(read_particles(tmp_path / "out/run_it001_data.star")) == COUNT
