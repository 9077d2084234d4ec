"""Whether another laboratory has what it needs: data, software, parameters and seeds, and what a deposition requires.

Names of deposition fields are items of the PDBx/mmCIF dictionary (categories ``em_*``), which EMDB's deposition system
fills from. What the archives *require* is needed: files that EMDB's deposition guide calls mandatory (the map, its half
maps and a picture, voxel size and contour level), items that are not optional in EMDB's schema of an entry (elements
without ``minOccurs="0"``), and what EMPIAR's deposition schema requires of an image set. What they also take (grid,
exposure, defocus, FSC curve …) is listed and does not count.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from cryoprism.core import InputError
from cryoprism.evaluation.documents import UnreadableError, number_in, read_json
from cryoprism.formats import ImageInfo, read_image_info, read_star

from .record import Record

__all__ = ["DETAILS", "Item", "check_completeness", "completeness"]

Group = Literal["data", "software", "parameters", "deposition"]
_IMAGES: Final = {".mrc", ".mrcs", ".tif", ".tiff", ".eer"}
#: File in a job folder for what no program can know: deposition fields and their values.
DETAILS: Final = "deposition.json"


@dataclass(frozen=True)
class Item:
    """One thing that is needed to repeat the work or to deposit it.

    Attributes
    ----------
    group
        What it belongs to.
    name
        In words; for ``deposition`` with the name of the field.
    there
        Whether it is there and right.
    found
        The value, or what is wrong.
    remedy
        Where to give it; empty where it is there.
    needed
        Whether the work cannot be repeated, or not be deposited, without it; what is only asked for does not count.
    """

    group: Group
    name: str
    there: bool
    found: str
    remedy: str = ""
    needed: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return it by name."""
        return vars(self).copy()


def completeness(items: Sequence[Item]) -> tuple[float, float]:
    """Return the share of what is needed that is there, each group counting alike, and its deviation (binomial)."""
    groups: dict[str, list[bool]] = {}
    for item in items:
        if item.needed:
            groups.setdefault(item.group, []).append(item.there)
    shares = [sum(flags) / len(flags) for flags in groups.values()]
    # A rule-of-succession share keeps the deviation above zero where all of a few are there.
    spread = [(sum(flags) + 1) / (len(flags) + 2) for flags in groups.values()]
    variance = (
        sum(share * (1 - share) / len(flags) for share, flags in zip(spread, groups.values(), strict=True))
        / len(groups) ** 2
    )
    return sum(shares) / len(shares), math.sqrt(variance)


def check_completeness(chain: Sequence[Record]) -> tuple[Item, ...]:
    """Check a chain of records, the judged one first.

    Raises
    ------
    InputError
        A ``deposition.json`` in a folder is no mapping of fields to values.
    """
    return (*_data(chain), *_software(chain), *_parameters(chain), *_deposition(chain))


def _data(chain: Sequence[Record]) -> list[Item]:
    items = []
    for record in chain:
        wrong = [one for one in record.inputs if one.state != "same"]
        there = bool(record.inputs) and not wrong
        found = f"{len(record.inputs)} files with fingerprints, all unchanged"
        remedy = ""
        if wrong:
            found = f"{wrong[0].path} is {wrong[0].state}" + (f", and {len(wrong) - 1} more" if len(wrong) > 1 else "")
            remedy = "Put back the files that were read, or run the job again on those there are."
        elif not record.inputs:
            there = record.kind == "Simulate"  # made from its parameters alone
            found = "none is needed" if there else "no input was recorded"
            remedy = "" if there else "Run the job again with --overwrite."
        items.append(Item("data", f"inputs of {record.kind} ({record.folder.name})", there, found, remedy))
    return items


def _software(chain: Sequence[Record]) -> list[Item]:
    items = []
    for record in chain:
        name = f"software of {record.kind} ({record.folder.name})"
        if "cryoprism" not in record.versions:
            items.append(Item("software", name, False, "no versions were recorded", "Run the job again."))
            continue
        now = {package: _installed(package) for package in record.versions}
        other = [
            f"{package} {version}, here {now[package]}"
            for package, version in record.versions.items()
            if now[package] != version
        ]
        remedy = "Install what was used: pip install " + " ".join(
            f"{package}=={version}"
            for package, version in record.versions.items()
            if package not in {"python", "system"} and now[package] != version
        )
        found = "; ".join(other) or f"CryoPrism {record.versions['cryoprism']} and its libraries, as installed here"
        items.append(Item("software", name, not other, found, remedy if other else ""))
    return items


def _installed(package: str) -> str:
    if package == "python":
        return platform.python_version()
    if package == "system":
        return platform.system()
    try:
        return importlib.metadata.version(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):  # an empty name, or one with a NUL in it
        return "absent"


def _parameters(chain: Sequence[Record]) -> list[Item]:
    items = []
    for record in chain:
        where = f"{record.kind} ({record.folder.name})"
        again = "Run the job again with --overwrite."
        items += [
            Item("parameters", f"configuration of {where}", bool(record.config),
                 f"{len(record.config)} values", "" if record.config else again),
            Item("parameters", f"seed of {where}", record.seed is not None,
                 f"{record.seed}", "" if record.seed is not None else again),
            Item("parameters", f"end of {where}", record.status == "success", record.status,
                 "" if record.status == "success" else "Finish it with --only-do-unfinished."),
        ]  # fmt: skip
    return items


#: Whether an archive requires a field: always, where a job of the chain made or measured a map, or never.
_Need = Literal["always", "map", "no"]
_MAKE_MAPS: Final = {"InitialModel", "Process", "Reconstruct", "Refine", "Resolution"}


@dataclass(frozen=True)
class _Field:
    """A deposition field, whether it is required, where records have it, and where to give it."""

    name: str
    words: str
    need: _Need
    find: Callable[[_Sources], Any]
    remedy: str


class _Sources:
    """All places in a chain where a value may stand."""

    def __init__(self, chain: Sequence[Record]) -> None:
        self.chain = chain
        self.details: dict[str, Any] = {}
        self.results: dict[str, Any] = {}
        self.optics: dict[str, Any] = {}
        for record in reversed(chain):
            self.details |= _json(record.folder / DETAILS, strict=True)
            self.results |= _json(record.folder / "reconstruction.json") | _json(record.folder / "resolution.json")
            for name in ("micrographs.star", "particles.star"):
                self.optics |= _optics(record.folder / name)

    def config(self, *names: str) -> Any:
        for record in self.chain:
            for name in names:
                if record.config.get(name) is not None:
                    return record.config[name]
        return None

    def file(self, *names: str) -> Any:
        for record in self.chain:
            places = [record.folder / name for name in names]
            if all(place.is_file() for place in places):
                return f"{record.folder.name}/{names[0]}"
        return None

    def result(self, *keys: str) -> Any:
        value: Any = self.results
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def resolution(self) -> Any:
        for key in ("corrected", "masked", "unmasked"):
            value = number_in(self.result("resolution_in_angstroms", key))
            if 0 < value < math.inf:
                return f"{value:.2f} Å (FSC {key})"
        return None

    def voxel_size(self) -> Any:
        """Of the map: without one there is none, whatever size the pixels of images have."""
        told = self.result("voxel_size_in_angstroms") or self.result("pixel_size_in_angstroms")
        if told is None and (self.file("map.mrc") or self.file("half1.mrc", "half2.mrc")):
            told = self.optics.get("rlnImagePixelSize") or self.config("pixel_size_in_angstroms")
        return told

    def particles(self) -> Any:
        halves = self.result("particles_in_halves")
        both = sum(map(number_in, halves)) if isinstance(halves, list) else math.nan
        return self.result("particles") or (int(both) if 0 < both < math.inf else None)

    def ctf(self) -> Any:
        return next((record.kind for record in self.chain if record.kind in {"Restore", "CtfRefine", "Process"}), None)

    def raw(self) -> list[Path]:
        """Images with which the chain begins: inputs that no job in it wrote, and simulated ones."""
        found = []
        for record in self.chain:
            if record.kind in {"Restore", "Extract", "Pick", "Process"}:
                found += [one.path for one in record.inputs if one.path.suffix.lower() in _IMAGES]
        return list(dict.fromkeys(found))

    def images(self) -> Any:
        count = len(self.raw())
        return f"{count} files" if count else None

    @cached_property
    def first_image(self) -> ImageInfo | None:
        """What the header of the first raw image says; None where there is none that can be read."""
        for path in self.raw()[:1]:
            try:
                return read_image_info(path)
            except (InputError, OSError, ValueError):
                return None
        return None

    def defocus(self, which: Callable[[Sequence[float]], float]) -> Any:
        for record in self.chain:
            values = _defoci(record.folder / "micrographs.star")
            if values:
                return f"{which(values) / 10.0:.0f} nm (fitted)"
        return None


_FIELDS: Final = (
    _Field("em_imaging.accelerating_voltage", "microscope voltage", "always",
           lambda s: s.optics.get("rlnVoltage") or s.config("voltage_in_kilovolts"),
           "--voltage of the first step, or rlnVoltage"),
    _Field("em_imaging.nominal_cs", "spherical aberration", "no",
           lambda s: s.optics.get("rlnSphericalAberration") or s.config("spherical_aberration_in_millimeters"),
           "--spherical-aberration of the first step, or rlnSphericalAberration"),
    _Field("em_image_recording.avg_electron_dose_per_image", "exposure", "no",
           lambda s: s.config("exposure_in_electrons_per_square_angstrom"), "--exposure of cryoprism restore"),
    _Field("em_image_recording.film_or_detector_model", "detector", "always", lambda s: None, ""),
    _Field("em_imaging.microscope_model", "microscope", "always", lambda s: None, ""),
    _Field("em_sample_support.grid_type", "grid", "no", lambda s: None, ""),
    _Field("em_vitrification.cryogen_name", "vitrification", "always", lambda s: None, ""),
    _Field("em_entity_assembly.name", "specimen", "always", lambda s: None, ""),
    _Field("em_imaging.electron_source", "electron source", "always", lambda s: None, ""),
    _Field("em_imaging.illumination_mode", "illumination", "always", lambda s: None, ""),
    _Field("em_imaging.mode", "imaging mode", "always", lambda s: None, ""),
    _Field("em_buffer.pH", "pH of the buffer", "always", lambda s: None, ""),
    _Field("em_imaging.nominal_defocus_min", "smallest defocus", "no", lambda s: s.defocus(min),
           "cryoprism restore in the chain"),
    _Field("em_imaging.nominal_defocus_max", "largest defocus", "no", lambda s: s.defocus(max),
           "cryoprism restore in the chain"),
    _Field("em_ctf_correction.type", "CTF estimation and correction", "no", _Sources.ctf,
           "cryoprism restore or ctf-refine in the chain"),
    _Field("em_single_particle_entity.point_symmetry", "symmetry", "map",
           lambda s: s.result("symmetry") or s.config("symmetry"), "--symmetry of the reconstruction"),
    _Field("em_3d_reconstruction.num_particles", "number of particles", "no", _Sources.particles,
           "--particles of cryoprism resolution"),
    _Field("em_3d_reconstruction.resolution", "resolution", "no", _Sources.resolution, "cryoprism resolution"),
    _Field("em_3d_reconstruction.resolution_method", "criterion of the resolution", "no",
           lambda s: "FSC 0.143 CUT-OFF" if s.resolution() else None, "cryoprism resolution"),
    _Field("em_map.pixel_spacing_x", "voxel size", "map",
           _Sources.voxel_size, "cryoprism reconstruct or refine"),
    _Field("primary map", "the map", "map", lambda s: s.file("map.mrc"), "cryoprism reconstruct or refine"),
    _Field("half maps", "both unfiltered half maps", "map",
           lambda s: s.file("half1.mrc", "half2.mrc"), "cryoprism reconstruct or refine"),
    _Field("em_map.contour_level", "recommended contour level", "map", lambda s: None, ""),
    _Field("image of the map", "picture of the map for the entry's page, 500 x 500 pixels", "map", lambda s: None, ""),
    _Field("mask", "the mask", "no", lambda s: s.file("mask.mrc") or s.config("mask_file"), "cryoprism resolution"),
    _Field("FSC curve", "the FSC curve", "no",
           lambda s: "there" if s.result("curves", "fsc_corrected") or s.result("fsc_unmasked") else None,
           "cryoprism resolution"),
    _Field("em_software.name", "software of every step", "no",
           lambda s: ", ".join(f"{r.kind}: CryoPrism {r.versions.get('cryoprism')}" for r in s.chain)
           if all("cryoprism" in r.versions for r in s.chain) else None, "Run the steps again."),
    _Field("EMPIAR image set", "raw images", "always", _Sources.images,
           "cryoprism extract or restore in the chain, with the micrographs beside it"),
    _Field("EMPIAR category and format", "what the raw images are", "always", lambda s: _category(s.first_image),
           "cryoprism extract or restore in the chain, with the micrographs beside it"),
    _Field("EMPIAR frames and size", "frames and size of a raw image", "always", lambda s: _extent(s.first_image),
           "cryoprism extract or restore in the chain, with the micrographs beside it"),
)  # fmt: skip


def _category(image: ImageInfo | None) -> str | None:
    if image is None:
        return None
    what = "multiframe" if image.frames > 1 else "single frame"
    return f"micrographs - {what}, {image.kind.upper()}, {image.bytes_per_pixel} bytes a value"


def _extent(image: ImageInfo | None) -> str | None:
    return None if image is None else f"{image.frames} frame(s) of {image.shape[1]} x {image.shape[0]} pixels"


def _defoci(path: Path) -> list[float]:
    """Mean defocus [Å] of every micrograph in a table; empty where it has none."""
    if not path.is_file():
        return []
    try:
        block = next((block for block in read_star(path) if block.name == "micrographs"), None)
        if block is None or not {"rlnDefocusU", "rlnDefocusV"} <= set(block.labels):
            return []
        pairs = zip(block.column("rlnDefocusU"), block.column("rlnDefocusV"), strict=True)
        values = [0.5 * (float(u) + float(v)) for u, v in pairs]
    except (InputError, ValueError):
        return []
    return values if all(map(math.isfinite, values)) else []


def _deposition(chain: Sequence[Record]) -> list[Item]:
    sources = _Sources(chain)
    has_map = any(record.kind in _MAKE_MAPS for record in chain)
    items = []
    for one in _FIELDS:
        value = sources.details.get(one.name)
        if value in (None, ""):
            value = one.find(sources)
        there = value not in (None, "")
        by_hand = f"{one.name} in {chain[0].folder / DETAILS}"
        remedy = "" if there else "Give it: " + (f"{one.remedy}, or {by_hand}" if one.remedy else by_hand) + "."
        needed = one.need == "always" or (one.need == "map" and has_map)
        found = str(value) if there else "missing"
        items.append(Item("deposition", f"{one.words} ({one.name})", there, found, remedy, needed))
    return items


def _json(path: Path, strict: bool = False) -> dict[str, Any]:
    try:
        content = read_json(path)
    except FileNotFoundError:
        return {}
    except UnreadableError:
        content = None
    if isinstance(content, dict):
        return content
    if strict:
        raise InputError(path, "is no mapping of fields to values", 'Write {"em_imaging.microscope_model": "…"}.')
    return {}


def _optics(path: Path) -> dict[str, Any]:
    """First row of the optics table of a STAR file."""
    if not path.is_file():
        return {}
    try:
        block = next((block for block in read_star(path) if block.name == "optics"), None)
    except InputError:
        return {}
    return block.records()[0] if block is not None and len(block) else {}
