"""The pose network on a synthetic set, tried on particles of the multislice engine."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryoprism.core import InputError, generator_for
from cryoprism.formats import read_coordinates, read_image, read_particles
from cryoprism.restoration import find_defects, replace_defects
from cryoprism.structure import (
    PoseAccuracy,
    PosedImages,
    RefinementSettings,
    load_pose_network,
    noise_from_power,
    pose_accuracy,
    pose_network_start,
    start_state,
)
from cryoprism.structure.pose_network import per_shell
from cryoprism.synthesis import (
    Arrangement,
    Population,
    Rendered,
    Scene,
    Species,
    draw_exposure,
    particle_record,
    read_match,
    render_micrograph,
    scene_from_dict,
    specimen_from_file,
    specimen_volume,
    varied_scene,
)
from cryoprism.workflow.maps.boxes import box_for
from cryoprism.workflow.synthesis.poses import joined, posed_particles_of, train_poses_on
from picking import DIAMETER, PIXEL

from .sets import MATCHED, micrographs, structure

PICKS_OFF = 3.0  # Å
EXPOSURES = (8.0, 12.0, 18.0, 27.0, 40.0)  # e/Å² among which the session's is looked for
SIDE = 1024  # pixels of a micrograph
THICKNESSES = (160.0, 200.0, 256.0, 352.0, 480.0)  # Å: as ``synthesize`` has it, or thicker until all fit
TESTS = ("varied", "session")
ANGLES = ("rot_in_degrees", "tilt_in_degrees", "psi_in_degrees")
DEFOCUS = ("defocus_u_in_angstroms", "defocus_v_in_angstroms")


@dataclass(frozen=True)
class TestAsked:
    """One multislice micrograph, for a worker; without an exposure the recipe's "varied" one."""

    match: Path
    index: int
    seed: int
    exposure: float | None


def rendered(asked: TestAsked) -> tuple[Rendered, Scene, list[dict[str, Any]]]:
    """Return a multislice micrograph, its scene, and the labels of its particles."""
    specimen = specimen_from_file(structure(), assembly="1", symmetry="O")
    if asked.exposure is None:
        base = Scene(height_in_pixels=SIDE, width_in_pixels=SIDE, pixel_size_in_angstroms=PIXEL, particle_count=75)
        scene = varied_scene(asked.seed, asked.index, base, severity=0.5)
        made = render_micrograph(scene, specimen, "multislice")
        return made, scene, [particle_record(one) for one in made.particles]
    scene, source = draw_exposure(read_match(asked.match), asked.seed, asked.index, f"test-{asked.index}")
    # What a match leaves within its B-factor has to come from somewhere here: coherence and detector take little.
    scene = replace(
        scene,
        height_in_pixels=SIDE,
        width_in_pixels=SIDE,
        exposure_in_electrons_per_square_angstrom=asked.exposure,
        detector_blur_in_pixels=0.15,
        source_semi_angle_in_milliradians=0.02,
        focal_spread_in_angstroms=40.0,
    )
    arrangement = Arrangement(density_per_square_micrometer=source.density_in_inverse_square_micrometers)
    crowd = Population(species=(Species(name=specimen.name, conformations=(specimen,)),), arrangement=arrangement)
    for thickness in THICKNESSES:
        try:
            scene = replace(scene, ice_thickness_in_angstroms=thickness)
            made = render_micrograph(scene, crowd, "multislice")
            return made, scene, [particle_record(one, crowd) for one in made.particles]
        except InputError:
            continue  # the session's density does not fit into a single layer
    raise SystemExit(
        f"{arrangement.density_per_square_micrometer:.0f} particles per µm² fit into no ice that was tried"
    )


def test_particles(asked: TestAsked) -> PosedImages:
    """Particles of a micrograph by the multislice engine, none of whose draws a training set shares."""
    torch.set_num_threads(1)
    with torch.no_grad():
        made, scene, records = rendered(asked)
    seed, index = asked.seed, asked.index
    image = replace_defects(made.counts, find_defects(made.counts).mask, generator_for(seed, "defects", index))
    off = PICKS_OFF / PIXEL * torch.randn(len(records), 2, generator=generator_for(seed, "picks", index))
    records = [
        record | {"x_in_pixels": record["x_in_pixels"] + dx, "y_in_pixels": record["y_in_pixels"] + dy}
        for record, (dx, dy) in zip(records, off.tolist(), strict=True)
    ]
    return posed_particles_of(image, scene, records, DIAMETER)[0]


def real_power(match: Path) -> Tensor:
    """Power of the picked particles of the matched micrographs, shell by shell."""
    parts = []
    for number in MATCHED:
        file = micrographs()[number]
        xy = read_coordinates(match / "picks" / "coordinates" / f"{file.stem}.star").xy_in_pixels
        angles, defocus = dict.fromkeys(ANGLES, 0.0), dict.fromkeys(DEFOCUS, 1e4)  # not looked at
        records = [{"x_in_pixels": float(x), "y_in_pixels": float(y)} | angles | defocus for x, y in xy]
        image = read_image(file).data.float()
        scene = Scene(height_in_pixels=image.shape[0], width_in_pixels=image.shape[1], pixel_size_in_angstroms=PIXEL)
        parts.append(posed_particles_of(image, scene, records, DIAMETER)[0])
    return power_of(joined(parts))


def power_of(images: PosedImages, radius: int = 24) -> Tensor:
    """Log power by shell, its mean 0 over those from 1 on."""
    power = noise_from_power(images.images, torch.zeros(len(images), dtype=torch.long), radius)[0]
    found = per_shell(power, radius)[1:].log()
    return found - found.mean()


def common_share(images: PosedImages, radius: int = 24) -> Tensor:
    """Share of the power, shell by shell from 1 on, that all particles have in common: their spherical part.

    Two halves are averaged, each weighted by its contrast transfer; what they agree on is signal, whatever the poses.
    """
    every = torch.arange(len(images))
    seen = images.moved(every, radius, torch.zeros(len(images), 2))
    transfer = images.transfer[:, : seen.shape[1]]
    one, other = (
        (seen[part] * transfer[part]).sum(0) / transfer[part].square().sum(0).clamp_min(1e-3)
        for part in (slice(0, None, 2), slice(1, None, 2))
    )
    signal = (one * other.conj()).real * transfer.square().mean(0)
    return (per_shell(signal, radius) / per_shell(seen.abs().square().mean(0), radius))[1:]


def by_projections(test: PosedImages, seed: int, steps: int, lowpass: float) -> tuple[PoseAccuracy, float]:
    """Accuracy on the test of a network trained on projections of the map, and the CPU seconds of its training."""
    pixel = box_for(DIAMETER, PIXEL) * PIXEL / test.box
    specimen = specimen_from_file(structure(), assembly="1", symmetry="O", resolution_in_angstroms=lowpass)
    volume = specimen_volume(specimen, pixel)
    map_ = torch.zeros(test.box, test.box, test.box)
    common = min(test.box, len(volume))
    a, b = len(volume) // 2 - common // 2, test.box // 2 - common // 2
    inner = slice(b, b + common)
    map_[inner, inner, inner] = volume[a : a + common, a : a + common, a : a + common]
    asked = RefinementSettings(
        symmetry="O",
        diameter_in_angstroms=DIAMETER,
        pixel_size_in_angstroms=pixel,
        initial_resolution_in_angstroms=max(lowpass, 2 * pixel),
        seed=seed,
    )
    group = torch.zeros(len(test), dtype=torch.long)
    state = start_state(test.images, test.transfer, group, map_, asked, min(24, (test.box - 1) // 2))
    start = pose_network_start(test.images, test.transfer, group, state, asked, steps=steps)
    return pose_accuracy(start.candidates, test.rotations, "O"), start.training_seconds


@dataclass(frozen=True)
class PosesAsked:
    """A training and its tests, for a worker; without a folder that on projections of the map."""

    kind: str
    folder: Path | None
    names: tuple[str, ...] = field(repr=False)
    tests: Path
    steps: int
    seed: int
    device: str
    lowpass: float


def real_particles(table: Path) -> PosedImages:
    """Real particles with the poses of a refinement, cut where it centred them."""
    found = read_particles(table)
    if found.angles_in_degrees is None or found.coordinates_in_pixels is None or found.defocus is None:
        raise SystemExit(f"{table} has no poses, coordinates or CTF; give particles.star of a refinement")
    centres = found.coordinates_in_pixels - found.origins_in_angstroms / PIXEL
    parts = []
    for name in dict.fromkeys(found.micrograph_names):
        rows = [row for row, other in enumerate(found.micrograph_names) if other == name]
        records = [
            dict(zip(("x_in_pixels", "y_in_pixels"), centres[row].tolist(), strict=True))
            | dict(zip(ANGLES, found.angles_in_degrees[row].tolist(), strict=True))
            | dict(zip(DEFOCUS, found.defocus[row, :2].tolist(), strict=True))
            for row in rows
        ]
        file = next(file for file in micrographs() if file.name == Path(name).name)
        image = read_image(file).data.float()
        scene = Scene(
            height_in_pixels=image.shape[0],
            width_in_pixels=image.shape[1],
            pixel_size_in_angstroms=PIXEL,
            astigmatism_angle_in_degrees=float(found.defocus[rows[0], 2]),
        )
        parts.append(posed_particles_of(image, scene, records, DIAMETER)[0])
    return joined(parts)


def read_tests(folder: Path) -> dict[str, PosedImages]:
    """Every test that there is, by name."""
    files = {name: folder / f"test-{name}.pt" for name in (*TESTS, "real")}
    return {name: torch.load(file, weights_only=False) for name, file in files.items() if file.exists()}


def train_and_try(asked: PosesAsked) -> tuple[dict[str, PoseAccuracy], float]:
    """Accuracy on every test, and CPU seconds of the training."""
    torch.set_num_threads(1)
    tests = read_tests(asked.tests)
    if asked.folder is None:
        found = {name: by_projections(test, asked.seed, asked.steps, asked.lowpass) for name, test in tests.items()}
        return {name: accuracy for name, (accuracy, _) in found.items()}, max(s for _, s in found.values())
    before = time.process_time()
    weights, _ = train_poses_on(asked.folder, asked.names, DIAMETER, "O", asked.steps, asked.seed, asked.device)
    seconds = time.process_time() - before
    network = load_pose_network(weights).network

    def accuracy(test: PosedImages) -> PoseAccuracy:
        return pose_accuracy(network.candidates(test.images, test.transfer, 4).rotations, test.rotations, "O")

    return {name: accuracy(test) for name, test in tests.items()}, seconds


def set_particles(folder: Path, names: Sequence[str]) -> PosedImages:
    """Particles of some micrographs of a set, as the training cuts them."""
    parts = []
    for name in names:
        truth = json.loads((folder / "truth" / f"{name}.json").read_text(encoding="utf-8"))
        image = read_image(folder / "micrographs" / f"{name}.mrc").data
        parts.append(posed_particles_of(image, scene_from_dict(truth["scene"]), truth["particles"], DIAMETER)[0])
    return joined(parts)


def nearest_exposure(real: Tensor, candidates: Sequence[PosedImages]) -> tuple[float, list[float]]:
    """Exposure whose particles' power is nearest to the real ones', and the RMS differences of all [log]."""
    off = [float((power_of(one) - real).square().mean().sqrt()) for one in candidates]
    return EXPOSURES[off.index(min(off))], off
