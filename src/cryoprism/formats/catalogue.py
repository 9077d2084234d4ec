"""One typed catalogue out of a STAR file, a cryoSPARC file, a folder, a glob or a list of images."""

from __future__ import annotations

import glob
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryoprism.core import CryoPrismWarning, InputError

from ._files import COMPRESSED_SUFFIXES, stem_of
from .images import format_of, read_image_info
from .metadata import find_acquisition
from .records import Acquisition, Catalogue, MicrographRecord, OpticsGroup

__all__ = ["read_catalogue"]

_DEFAULT_CS = 2.7
_DEFAULT_AMPLITUDE_CONTRAST = 0.1
_IMAGE_SUFFIXES = (".mrc", ".mrcs", ".tif", ".tiff", ".eer", ".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Overrides:
    """What the user said on the command line; it wins over every file."""

    pixel_size_in_angstroms: float | None = None
    voltage_in_kilovolts: float | None = None
    spherical_aberration_in_millimeters: float | None = None
    amplitude_contrast: float | None = None
    mtf_file: Path | None = None


def read_catalogue(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    pixel_size_in_angstroms: float | None = None,
    voltage_in_kilovolts: float | None = None,
    spherical_aberration_in_millimeters: float | None = None,
    amplitude_contrast: float | None = None,
    exposure_in_electrons_per_square_angstrom: float | None = None,
    gain_file: str | os.PathLike[str] | None = None,
    mtf_file: str | os.PathLike[str] | None = None,
    must_exist: bool = True,
) -> Catalogue:
    """Read what the user pointed at into one catalogue.

    Parameters
    ----------
    source
        A STAR file (RELION 3.0 or 3.1; micrographs, movies or particles), a cryoSPARC ``.cs`` file, a folder, a glob
        (``**`` goes into subfolders), one image, or a list of images.
    pixel_size_in_angstroms, voltage_in_kilovolts, spherical_aberration_in_millimeters, amplitude_contrast
        What is given here wins over the files. Without it: the STAR or .cs file, then mdoc or EPU XML beside the
        images, then (pixel size only) the image header; Cs 2.7 mm and amplitude contrast 0.1 are assumed with a
        warning.
    exposure_in_electrons_per_square_angstrom
        Total exposure of each micrograph, where it is not in the metadata.
    gain_file, mtf_file
        For all micrographs.
    must_exist
        True (the default) refuses a catalogue whose images are missing from disk.

    Returns
    -------
    Catalogue
        Records in the order of the source (folders and globs sorted by name), with unique names: where two images share
        a stem, the folder's name is put in front.

    Raises
    ------
    InputError
        Nothing there, nothing that matches, an empty folder, a damaged STAR file, images missing, no pixel size, no
        voltage, or two images that would write the same outputs.
    """
    overrides = Overrides(
        pixel_size_in_angstroms,
        voltage_in_kilovolts,
        spherical_aberration_in_millimeters,
        amplitude_contrast,
        None if mtf_file is None else Path(mtf_file),
    )
    single = Path(source) if isinstance(source, str | os.PathLike) else None
    if single is not None and single.suffix.lower() == ".star":
        from .relion import catalogue_from_star

        catalogue = catalogue_from_star(single, overrides)
    elif single is not None and single.suffix.lower() == ".cs":
        from .cryosparc import catalogue_from_cs

        catalogue = catalogue_from_cs(single, overrides)
    else:
        if isinstance(source, str | os.PathLike):
            files, label = _expand(os.fspath(source)), os.fspath(source)
        else:
            files, label = [Path(item) for item in source], f"{len(source)} files"
            if not files:
                raise InputError("list of images", "is empty", "Name at least one image.")
        if gain_file is not None:
            files = [file for file in files if file.absolute() != Path(gain_file).absolute()]
        if must_exist:
            require_present(files, label)
        catalogue = _from_files(files, label, overrides)
    records = catalogue.micrographs
    if must_exist:
        require_present([record.path for record in records], catalogue.source)
    gain = None if gain_file is None else Path(gain_file)
    if gain is not None and not gain.is_file():
        raise InputError(gain, "the gain reference does not exist", "Correct --gain.")
    if overrides.mtf_file is not None and not overrides.mtf_file.is_file():
        raise InputError(overrides.mtf_file, "the MTF curve does not exist", "Correct --mtf.")
    exposure = exposure_in_electrons_per_square_angstrom
    if gain is not None or exposure is not None:
        records = tuple(
            replace(
                record,
                gain_file=gain or record.gain_file,
                exposure_in_electrons_per_square_angstrom=exposure
                if exposure is not None
                else record.exposure_in_electrons_per_square_angstrom,
            )
            for record in records
        )
    return replace(catalogue, micrographs=with_unique_names(records))


def _is_image(name: str) -> bool:
    lower = name.lower()
    for suffix in COMPRESSED_SUFFIXES:
        lower = lower.removesuffix(suffix)
    return lower.endswith(_IMAGE_SUFFIXES) and not name.startswith(".")


def _expand(text: str) -> list[Path]:
    path = Path(text)
    suffixes = ", ".join(_IMAGE_SUFFIXES)
    try:
        if path.is_dir():
            files = sorted(entry for entry in path.iterdir() if entry.is_file() and _is_image(entry.name))
            if not files:
                empty = not any(path.iterdir())
                raise InputError(
                    path,
                    "is an empty folder" if empty else f"holds no image ({suffixes})",
                    f"Name the folder that holds them, or a glob such as '{path}/**/*.mrc' for subfolders.",
                )
            return files
    except OSError as error:
        raise InputError(
            path, f"cannot be read ({error.strerror})", "Check the folder's permissions and its disk."
        ) from error
    if path.is_file():
        format_of(path)
        return [path]
    if glob.has_magic(text):
        files = sorted(Path(name) for name in glob.glob(text, recursive=True) if Path(name).is_file())
        images = [file for file in files if _is_image(file.name)]
        if not images:
            found = f"matches {len(files)} files but no image ({suffixes})" if files else "matches nothing"
            raise InputError(text, found, "Check the pattern; quote it so that the shell passes it on.")
        return images
    raise InputError(path, "does not exist", "Give a STAR or .cs file, a folder, a glob or image files.")


def require_present(files: Iterable[Path], source: str) -> None:
    """Raise an InputError that counts the files that are missing from disk and names the first."""
    files = list(files)
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise InputError(
            source,
            f"{len(missing)} of {len(files)} images do not exist, the first is {missing[0]}",
            "Names are looked for beside the STAR file, then in the current folder: change into the project's folder.",
        )


def with_unique_names(records: Sequence[MicrographRecord]) -> tuple[MicrographRecord, ...]:
    """Give every record a name of its own: parent folders are put in front where stems repeat.

    Raises
    ------
    InputError
        The same file stands twice, or two files differ only by suffix or by dots and slashes.
    """
    seen = Counter(os.path.abspath(record.path) for record in records)
    twice = [path for path, count in seen.items() if count > 1]
    if twice:
        raise InputError(twice[0], f"is listed {seen[twice[0]]} times", "List every micrograph once.")
    names = [record.name for record in records]
    for depth in range(1, 8):
        counts = Counter(names)
        if all(count == 1 for count in counts.values()):
            break
        for index, record in enumerate(records):
            parents = Path(os.path.abspath(record.path)).parent.parts[1:]
            if counts[names[index]] > 1 and len(parents) >= depth:
                names[index] = "_".join((*parents[-depth:], record.name))
    clash = next((name for name, count in Counter(names).items() if count > 1), None)
    if clash is not None:
        files = [str(record.path) for record, name in zip(records, names, strict=True) if name == clash]
        raise InputError(
            files[0], f"and {files[1]} would write the same outputs ('{clash}')", "Rename one, or leave one out."
        )
    return tuple(replace(record, name=name) for record, name in zip(records, names, strict=True))


def header_pixel_size(path: Path) -> float | None:
    """Pixel size [Å] of an image header; None for 0 and nonsense; exactly 1 is returned with a warning."""
    pixel = read_image_info(path).pixel_size_in_angstroms
    if pixel == 1.0:
        warnings.warn(
            f"{path}: the header's pixel size is exactly 1 Å, which often means that it was never set. "
            "Check it, and give --pixel-size if it is wrong.",
            CryoPrismWarning,
            stacklevel=2,
        )
    return pixel


def no_pixel_size(where: object, found: str = "the header gives no pixel size") -> InputError:
    """Error for a pixel size that nobody gave."""
    return InputError(where, found, "Give it with --pixel-size (Å per pixel of the micrograph).")


def _from_files(files: Sequence[Path], label: str, overrides: Overrides) -> Catalogue:
    groups: dict[tuple[float, float, float, float], str] = {}
    records: list[MicrographRecord] = []
    assumed: set[str] = set()
    warned_about_one = False
    broken: dict[int, InputError] = {}
    for position, file in enumerate(files):
        try:
            info = read_image_info(file)
        except InputError as error:
            # One file that cannot be read must not keep the others waiting: whoever reads its pixels says so again.
            broken[position] = error
            continue
        notes = find_acquisition(file)
        header = info.pixel_size_in_angstroms
        pixel = overrides.pixel_size_in_angstroms
        if pixel is None and notes is not None:
            pixel = notes.pixel_size_in_angstroms
        if pixel is None:
            pixel = header
            if header == 1.0 and not warned_about_one:
                header_pixel_size(file)
                warned_about_one = True
        if pixel is None:
            raise no_pixel_size(file)
        group = _group(file, round(pixel, 5), overrides, notes, assumed)
        name = groups.setdefault(group, f"opticsGroup{len(groups) + 1}")
        records.append(
            MicrographRecord(
                name=stem_of(file),
                path=file,
                optics_group=name,
                exposure_in_electrons_per_square_angstrom=None
                if notes is None
                else notes.exposure_in_electrons_per_square_angstrom,
                is_movie=info.kind == "eer" or info.frames > 1,
                acquisition=notes,
            )
        )
    if broken:
        if not records:
            raise next(iter(broken.values()))
        group_of_the_others = records[0].optics_group
        for position in sorted(broken):
            file = files[position]
            records.insert(position, MicrographRecord(stem_of(file), file, group_of_the_others))
    if assumed:
        warnings.warn(
            f"{label}: nothing gives {' and '.join(sorted(assumed))}. "
            "Give --cs and --amplitude-contrast if this is wrong.",
            CryoPrismWarning,
            stacklevel=3,
        )
    optics = {name: OpticsGroup(name, *group, overrides.mtf_file) for group, name in groups.items()}
    return Catalogue(optics, tuple(records), label)


def _group(
    file: Path, pixel: float, overrides: Overrides, notes: Acquisition | None, assumed: set[str]
) -> tuple[float, float, float, float]:
    voltage = overrides.voltage_in_kilovolts
    if voltage is None and notes is not None:
        voltage = notes.voltage_in_kilovolts
    if voltage is None:
        raise InputError(file, "nothing gives the acceleration voltage", "Give it with --voltage (kV).")
    cs = overrides.spherical_aberration_in_millimeters
    if cs is None and notes is not None:
        cs = notes.spherical_aberration_in_millimeters
    if cs is None:
        assumed.add(f"Cs ({_DEFAULT_CS} mm is assumed)")
        cs = _DEFAULT_CS
    contrast = overrides.amplitude_contrast
    if contrast is None:
        assumed.add(f"amplitude contrast ({_DEFAULT_AMPLITUDE_CONTRAST} is assumed)")
        contrast = _DEFAULT_AMPLITUDE_CONTRAST
    return (voltage, cs, contrast, pixel)


def text_mapping(row: Mapping[str, str]) -> Mapping[str, str]:
    """Return a copy of a row that cannot be changed."""
    from types import MappingProxyType

    return MappingProxyType(dict(row))
