"""A simulated session on disk: micrographs or movies as a microscope leaves them, and beside them all it hides.

    OUT/micrographs/NAME.mrc (or OUT/movies/NAME.mrcs)   what a user starts from
    OUT/micrographs.star (or movies.star)                RELION 3.1 optics and names, no CTF
    OUT/mtf.star                                         the detector's MTF
    OUT/truth.star                                       the same micrographs with their true CTF
    OUT/particles.star                                   every particle: coordinates, Euler angles, its own defocus
    OUT/truth/NAME.json                                  the whole scene, its seeds, motion track, particles
    OUT/truth/NAME_potential.mrc, NAME_signal.mrc        noise-free images, if asked for
    OUT/session.json                                     the configuration

Names in the STAR files are relative to OUT: run RELION there. A session that was cut short goes on where it stopped.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from cryoprism.core import InputError
from cryoprism.formats.mrc import write_mrc
from cryoprism.formats.star import write_star

from .labels import micrograph_ctf, optics_block, particle_record, particles_block, star_block, write_json, write_mtf
from .phantom import PhantomKind, phantom
from .recipes import DEMO, Recipe, session_scenes
from .render import Engine, Rendered, render_micrograph, render_movie
from .scene import Scene, scene_to_dict
from .specimen import Specimen, specimen_from_file, specimen_from_phantom

__all__ = ["Session", "SessionConfig", "load_specimen", "simulate_session"]


@dataclass(frozen=True, kw_only=True)
class SessionConfig:
    """What to simulate.

    Parameters
    ----------
    output
        Folder to write.
    micrographs
        How many; None is the recipe's own number (6 for ``demo``, else 4).
    seed
        Of every draw.
    recipe
        ``varied``: damage as sessions bring it; ``demo``: one dominant damage each; ``clean``: none but the
        unavoidable.
    severity
        Scales the damage of ``varied``: 0 none, 1 ordinary, 2 bad.
    specimen
        ``shell``, ``barrel`` or ``globule``, or a PDB, mmCIF or MRC file.
    assembly, mass_in_kilodaltons
        Biological assembly of a structure file; mass of a map's particle.
    base
        What all scenes share: size, lens, exposure, frames, ice …
    particles
        Particles per micrograph; None fills the field loosely.
    ice_thickness_in_angstroms
        The same ice everywhere; None leaves it to the recipe.
    movies
        Write the frames instead of their sum.
    engine
        How the wave passes the specimen.
    workers
        Processes side by side.
    truth_images
        Write the noise-free images too.
    overwrite
        Start over in a folder that holds another session.
    """

    output: Path
    micrographs: int | None = None
    seed: int = 0
    recipe: Recipe = "varied"
    severity: float = 1.0
    specimen: str = "shell"
    assembly: str | None = None
    mass_in_kilodaltons: float | None = None
    base: Scene = field(default_factory=Scene)
    particles: int | None = None
    ice_thickness_in_angstroms: float | None = None
    movies: bool = False
    engine: Engine = "multislice"
    workers: int = 1
    truth_images: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        checks: tuple[tuple[str, bool, str, str], ...] = (
            ("micrographs", self.micrographs is None or self.micrographs >= 1, str(self.micrographs), "1 or more"),
            ("workers", self.workers >= 1, str(self.workers), "1 or more"),
            ("severity", 0 <= self.severity <= 10, str(self.severity), "a factor from 0 to 10"),
            ("particles", self.particles is None or self.particles >= 0, str(self.particles), "0 or more"),
            ("recipe", self.recipe in get_args(Recipe), f"'{self.recipe}'", "one of " + ", ".join(get_args(Recipe))),
            ("engine", self.engine in get_args(Engine), f"'{self.engine}'", "one of " + ", ".join(get_args(Engine))),
        )
        for name, good, found, remedy in checks:
            if not good:
                raise InputError(name, f"is {found}", f"Give {remedy}.")

    @property
    def count(self) -> int:
        """Number of micrographs."""
        return self.micrographs if self.micrographs is not None else len(DEMO) if self.recipe == "demo" else 4

    def identity(self) -> dict[str, Any]:
        """Everything that decides what comes out (not where and how), as JSON values."""
        values = asdict(self)
        for name in ("output", "workers", "overwrite", "micrographs"):
            del values[name]
        values["base"] = scene_to_dict(self.base)
        return values


@dataclass(frozen=True, kw_only=True)
class Session:
    """What was written: the STAR file to restore from, the truth, how many images were made now and before."""

    star: Path
    truth_star: Path
    particles_star: Path
    names: tuple[str, ...]
    rendered: int
    skipped: int


def load_specimen(name: str, *, assembly: str | None = None, mass_in_kilodaltons: float | None = None) -> Specimen:
    """Return a phantom by its kind (``phantom`` means ``shell``), or the specimen in a file."""
    if name in (*get_args(PhantomKind), "phantom"):
        kind: PhantomKind = "shell" if name == "phantom" else name  # type: ignore[assignment]
        return specimen_from_phantom(phantom(kind))
    if not Path(name).suffix:
        kinds = ", ".join(get_args(PhantomKind))
        raise InputError(
            "--specimen", f"'{name}' is no phantom and no file", f"Use {kinds}, or a PDB, mmCIF or MRC file."
        )
    return specimen_from_file(name, assembly=assembly, molecular_mass_in_kilodaltons=mass_in_kilodaltons)


def simulate_session(config: SessionConfig, progress: Callable[[int, int], None] | None = None) -> Session:
    """Render a session into its folder; the same configuration gives the same files whatever the number of workers.

    Parameters
    ----------
    config
        What to simulate.
    progress
        Called with (done, total) after every image.

    Raises
    ------
    InputError
        The folder holds another session and ``overwrite`` is False, or a value cannot be used.
    """
    out = Path(config.output)
    specimen = load_specimen(config.specimen, assembly=config.assembly, mass_in_kilodaltons=config.mass_in_kilodaltons)
    base = config.base
    particles = _loose_count(base, specimen) if config.particles is None else config.particles
    scenes = session_scenes(
        config.recipe, config.seed, config.count, replace(base, particle_count=particles), config.severity
    )
    if config.ice_thickness_in_angstroms is not None:
        scenes = [replace(s, ice_thickness_in_angstroms=config.ice_thickness_in_angstroms) for s in scenes]
    _prepare(out, config)
    todo = [scene for scene in scenes if not _is_done(out, scene, config)]
    done = len(scenes) - len(todo)
    skipped = done
    for _ in _render_all(todo, specimen, config):
        done += 1
        if progress is not None:
            progress(done, len(scenes))
    truths = [json.loads((out / "truth" / f"{scene.name}.json").read_text()) for scene in scenes]
    star = _write_tables(out, config, scenes, truths)
    return Session(
        star=star,
        truth_star=out / "truth.star",
        particles_star=out / "particles.star",
        names=tuple(scene.name for scene in scenes),
        rendered=len(todo),
        skipped=skipped,
    )


def _loose_count(base: Scene, specimen: Specimen) -> int:
    """Return how many particles cover a quarter of the field."""
    area = base.height_in_pixels * base.width_in_pixels * base.pixel_size_in_angstroms**2
    return max(1, int(0.25 * area / (3.1416 * specimen.radius_in_angstroms**2)))


def _prepare(out: Path, config: SessionConfig) -> None:
    known = out / "session.json"
    identity = json.loads(json.dumps(config.identity(), default=str))
    if known.exists() and not config.overwrite:
        try:
            before = json.loads(known.read_text())
        except json.JSONDecodeError:
            before = None
        if before != identity:
            raise InputError(out, "holds another simulated session", "Give another --out, or --overwrite.")
    for folder in ("movies" if config.movies else "micrographs", "truth"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    if config.overwrite:
        for old in (out / "truth").glob("*.json"):
            old.unlink()
    write_json(known, identity)


def _image_path(out: Path, scene: Scene, config: SessionConfig) -> Path:
    return out / ("movies" if config.movies else "micrographs") / f"{scene.name}.{'mrcs' if config.movies else 'mrc'}"


def _is_done(out: Path, scene: Scene, config: SessionConfig) -> bool:
    # The truth file is written last, so that its presence means that the image is whole.
    truth = out / "truth" / f"{scene.name}.json"
    if not (truth.exists() and _image_path(out, scene, config).exists()):
        return False
    try:
        return bool(json.loads(truth.read_text())["scene"] == json.loads(json.dumps(scene_to_dict(scene))))
    except (json.JSONDecodeError, KeyError):
        return False


def _render_all(todo: list[Scene], specimen: Specimen, config: SessionConfig) -> Iterator[str]:
    if config.workers == 1 or len(todo) <= 1:
        for scene in todo:
            yield _render_one(scene, specimen, config)
        return
    # Fresh processes: forked ones would inherit locks of torch's thread pool.
    context = multiprocessing.get_context("spawn")
    workers = min(config.workers, len(todo))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(_render_named, [(scene, config) for scene in todo])


def _render_named(job: tuple[Scene, SessionConfig]) -> str:
    scene, config = job
    key = (config.specimen, config.assembly, config.mass_in_kilodaltons)
    if key not in _SPECIMENS:
        _SPECIMENS[key] = load_specimen(key[0], assembly=key[1], mass_in_kilodaltons=key[2])
    return _render_one(scene, _SPECIMENS[key], config)


_SPECIMENS: dict[tuple[str, str | None, float | None], Specimen] = {}  # of one worker process


def _render_one(scene: Scene, specimen: Specimen, config: SessionConfig) -> str:
    out = Path(config.output)
    with torch.no_grad():
        render = render_movie if config.movies else render_micrograph
        rendered = render(scene, specimen, config.engine)
    pixel = scene.pixel_size_in_angstroms
    write_mrc(_image_path(out, scene, config), rendered.counts, pixel)
    if config.truth_images:
        write_mrc(out / "truth" / f"{scene.name}_potential.mrc", rendered.potential, pixel)
        write_mrc(out / "truth" / f"{scene.name}_signal.mrc", rendered.signal, pixel)
    write_json(out / "truth" / f"{scene.name}.json", _truth(rendered, specimen))
    return scene.name


def _truth(rendered: Rendered, specimen: Specimen) -> dict[str, Any]:
    return {
        "scene": scene_to_dict(rendered.scene),
        "engine": rendered.engine,
        "specimen": {
            "name": specimen.name,
            "symmetry": specimen.symmetry,
            "radius_in_angstroms": specimen.radius_in_angstroms,
        },
        "mean_counts": float(rendered.expected.mean()),
        "mean_ice_thickness_in_angstroms": float(rendered.ice_thickness.mean()),
        "masked_fraction": {name: float(mask.float().mean()) for name, mask in rendered.masks.items()},
        "track_in_angstroms": rendered.track.tolist(),
        "particles": [particle_record(p) for p in rendered.particles],
    }


Kind = Literal["movies", "micrographs"]


def _write_tables(out: Path, config: SessionConfig, scenes: list[Scene], truths: list[dict[str, Any]]) -> Path:
    kind: Kind = "movies" if config.movies else "micrographs"
    label = "rlnMicrographMovieName" if config.movies else "rlnMicrographName"
    names = [_image_path(out, scene, config).relative_to(out).as_posix() for scene in scenes]
    group = ["1"] * len(scenes)
    optics = optics_block([config.base], movies=config.movies)
    write_mtf(out / "mtf.star", config.base)
    star = out / f"{kind}.star"
    columns = {label: names, "rlnOpticsGroup": group}
    write_star(star, [optics, star_block(kind, columns)])
    write_star(out / "truth.star", [optics, star_block(kind, columns | micrograph_ctf(scenes))])
    particles = particles_block(names, scenes, [truth["particles"] for truth in truths])
    write_star(out / "particles.star", [optics, particles])
    return star
