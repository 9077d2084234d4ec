"""Matched sessions, and synthetic sets that differ in their noise only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from cryoprism.formats import read_coordinates, read_image, write_mrc
from cryoprism.synthesis import (
    Exemplar,
    Population,
    SessionMatch,
    add_noise,
    match_session,
    noise_for,
    particle_labels,
    particle_record,
    read_match,
    scene_to_dict,
    write_match,
)
from cryoprism.workflow import SynthesizeConfig, synthesize_session
from cryoprism.workflow.jobs.files import write_json
from cryoprism.workflow.synthesis.making import SynthesisTask, clean_image, scene_of_task
from cryoprism.workflow.synthesis.population import population_of
from picking import DIAMETER, PIXEL, data_folder
from realism_parts.material import exemplars_of

MATCHED = (0, 1, 3, 4, 6, 7)  # the micrographs that everything is fitted to
KINDS = ("gaussian", "poisson", "poisson-gaussian", "spectrum", "matched")


def micrographs(frames: bool = False) -> list[Path]:
    """All real micrographs, or one frame of each."""
    return sorted((data_folder() / "apoferritin" / ("single_frames" if frames else "micrographs")).glob("*.mrc"))


def structure() -> Path:
    return data_folder() / "structures" / "4oyn.pdb.gz"


def settings(output: Path, lowpass: float, **more: object) -> SynthesizeConfig:
    files = micrographs()
    return SynthesizeConfig(
        maps=(str(structure()),),
        assembly="1",
        symmetry="O",
        lowpass_in_angstroms=lowpass,
        match=tuple(str(files[i]) for i in MATCHED),
        pixel_size_in_angstroms=PIXEL,
        voltage_in_kilovolts=300.0,
        spherical_aberration_in_millimeters=2.7,
        amplitude_contrast=0.1,
        diameter_in_angstroms=DIAMETER,
        realism=False,
        output=output,
        **more,
    )


def matched_session(work: Path, lowpass: float) -> Path:
    """Folder of what is found in the real micrographs, by the command itself; what is there already is kept."""
    if (work / "session" / "match" / "match.json").exists():
        return work / "session" / "match"
    made = synthesize_session(settings(work / "session", lowpass, count=1))
    return made.output / "match"


def matched_frames(work: Path, lowpass: float) -> Path:
    """Folder of what is found in one frame of each micrograph; causes and picks are those of the averages.

    A frame shows no Thon rings and too little of its particles to pick them.
    """
    folder = work / "frames"
    if (folder / "match.json").exists():
        return folder
    picks = matched_session(work, lowpass) / "picks" / "coordinates"
    names = [micrographs()[i].stem for i in MATCHED]
    exemplars = []
    for average, name in zip(exemplars_of(names, data_folder() / "apoferritin"), names, strict=True):
        image = read_image(data_folder() / "apoferritin" / "single_frames" / f"{name}.mrc").data.float()
        xy = read_coordinates(picks / f"{name}.star").xy_in_pixels.double()
        exemplars.append(replace(average, image=image, xy_in_pixels=xy))
    write_match(folder, matched_to(exemplars, lowpass))
    return folder


def matched_to(exemplars: Sequence[Exemplar], lowpass: float) -> SessionMatch:
    specimen = population(lowpass).species[0].conformations[0]
    return match_session(exemplars, specimen, PIXEL, seed=0)


@lru_cache(maxsize=2)
def population(lowpass: float) -> Population:
    return population_of(settings(Path("unused"), lowpass))


@lru_cache(maxsize=2)
def _match(folder: Path) -> SessionMatch:
    return read_match(folder)


@dataclass(frozen=True)
class Asked:
    """One synthetic micrograph in every kind of noise, for a worker."""

    work: Path
    match: Path
    label: str
    kinds: tuple[str, ...]
    index: int
    seed: int
    lowpass: float

    @property
    def name(self) -> str:
        """Of the micrograph."""
        return f"{self.index + 1:06d}"

    def folder(self, kind: str) -> Path:
        """Of the set."""
        return self.work / f"{self.label}{kind}-{self.seed}"


def make_one(asked: Asked) -> str:
    """Write a micrograph of each kind of noise on the same clean image; returns its name."""
    torch.set_num_threads(1)
    config = settings(asked.work / "unused", asked.lowpass, seed=asked.seed)
    crowd, match = population(asked.lowpass), _match(asked.match)
    task = SynthesisTask(asked.index, asked.name, config, asked.match, asked.work)
    scene, source = scene_of_task(task, match, crowd)
    with torch.no_grad():
        made = clean_image(scene, source, config, crowd, match)
    scene, placement = made.scene, made.placement
    fit = noise_for(match.micrographs[source], scene)
    truth = {
        "scene": scene_to_dict(scene),
        "particles": [particle_record(label, crowd) for label in particle_labels(scene, placement)],
    }
    for kind in asked.kinds:
        folder = asked.folder(kind)
        for part in ("micrographs", "truth"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        image = add_noise(kind, fit, made.contrast, pixel_size_in_angstroms=PIXEL, seed=asked.seed, name=asked.name)
        write_mrc(folder / "micrographs" / f"{asked.name}.mrc", image, PIXEL)
        write_json(folder / "truth" / f"{asked.name}.json", truth)
    return asked.name
