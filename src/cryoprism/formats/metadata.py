"""What the microscope noted beside an image: SerialEM mdoc and EPU XML, in CryoPrism's units."""

from __future__ import annotations

import math
import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from cryoprism.core import InputError

from ._files import read_text, stem_of
from .records import Acquisition

__all__ = ["find_acquisition", "read_epu_xml", "read_mdoc"]


def _number(text: str | None, scale: float = 1.0) -> float | None:
    try:
        value = float((text or "").split()[0]) * scale
    except (ValueError, IndexError):
        return None
    return value if math.isfinite(value) else None


def _positive(text: str | None, scale: float = 1.0) -> float | None:
    value = _number(text, scale)
    return value if value is not None and value > 0 else None


def read_mdoc(path: str | os.PathLike[str]) -> tuple[Acquisition, ...]:
    """Read a SerialEM mdoc: one entry per section (``ZValue``, ``FrameSet``), globals filling its gaps.

    SerialEM's units: Voltage kV, PixelSize Å, ExposureDose e/Å², TargetDefocus µm (negative for underfocus: the sign is
    turned), TiltAngle degrees. A dose of 0 means "not measured" and becomes None.

    Raises
    ------
    InputError
        The file is missing or holds no ``key = value`` line.
    """
    file = Path(path)
    common: dict[str, str] = {}
    sections: list[dict[str, str]] = []
    current = common
    for line in read_text(file).splitlines():
        text = line.strip()
        if re.fullmatch(r"\[\s*(ZValue|FrameSet|Image)\s*=\s*.*\]", text):
            current = {}
            sections.append(current)
        elif "=" in text and not text.startswith("["):
            key, value = text.split("=", 1)
            current[key.strip()] = value.strip()
    if not common and not any(sections):
        raise InputError(file, "holds no 'key = value' line", "Give an mdoc file as SerialEM writes it.")

    def entry(section: dict[str, str]) -> Acquisition:
        fields = common | section
        defocus = _number(fields.get("TargetDefocus"), -1.0e4)
        frames = _positive(fields.get("NumSubFrames"))
        return Acquisition(
            file=file,
            program="SerialEM",
            voltage_in_kilovolts=_positive(fields.get("Voltage")),
            pixel_size_in_angstroms=_positive(fields.get("PixelSpacing")) or _positive(fields.get("PixelSize")),
            exposure_in_electrons_per_square_angstrom=_positive(fields.get("ExposureDose")),
            target_defocus_in_angstroms=defocus,
            tilt_in_degrees=_number(fields.get("TiltAngle")),
            magnification=_positive(fields.get("Magnification")),
            frames=None if frames is None else int(frames),
            gain_file=fields.get("GainReference"),
            date=fields.get("DateTime"),
        )

    return tuple(entry(section) for section in sections or [{}])


def _local(tag: str) -> str:
    return tag.rsplit("}", 1)[-1]


def _walk(node: ElementTree.Element | None, *names: str) -> ElementTree.Element | None:
    for name in names:
        node = None if node is None else next((child for child in node if _local(child.tag) == name), None)
    return node


def _value(node: ElementTree.Element | None, *names: str) -> str | None:
    found = _walk(node, *names)
    return None if found is None else found.text


def _custom(root: ElementTree.Element) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in root.iter():
        if _local(item.tag).startswith("KeyValueOf"):
            key, value = _value(item, "Key"), _value(item, "Value")
            if key and value:
                pairs[key] = value
    return pairs


def read_epu_xml(path: str | os.PathLike[str]) -> Acquisition:
    """Read the XML that EPU writes beside each image.

    EPU's units: AccelerationVoltage V, pixelSize m, dose e/m², applied defocus m (negative for underfocus: the sign is
    turned), stage tilt rad.

    Raises
    ------
    InputError
        The file is missing, not XML, or not EPU's.
    """
    file = Path(path)
    text = read_text(file)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError(file, "declares a document type, which EPU never does", "Give the XML that EPU wrote.")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(file, f"is not well-formed XML ({error})", "Copy the file again from its source.") from error
    microscope = _walk(root, "microscopeData")
    if microscope is None:
        raise InputError(file, "has no <microscopeData>", "Give the XML that EPU wrote beside the image.")
    custom = _custom(root)
    applied = _number(custom.get("AppliedDefocus"), -1.0e10)
    if applied is None:
        applied = _number(_value(microscope, "optics", "Defocus"), -1.0e10)
    return Acquisition(
        file=file,
        program="EPU",
        voltage_in_kilovolts=_positive(_value(microscope, "gun", "AccelerationVoltage"), 1e-3),
        pixel_size_in_angstroms=_positive(_value(root, "SpatialScale", "pixelSize", "x", "numericValue"), 1e10),
        exposure_in_electrons_per_square_angstrom=_positive(custom.get("Dose"), 1e-20),
        target_defocus_in_angstroms=applied,
        tilt_in_degrees=_number(_value(microscope, "stage", "Position", "A"), 180 / math.pi),
        magnification=_positive(_value(microscope, "optics", "TemMagnification", "NominalMagnification")),
        date=_value(microscope, "acquisition", "acquisitionDateTime"),
    )


def find_acquisition(image: Path) -> Acquisition | None:
    """Read the mdoc or EPU XML that belongs to an image by its name, or None where there is none.

    Looked for beside the image: ``IMAGE.mdoc`` (the full name plus .mdoc), ``STEM.mdoc``, ``STEM.xml``, where EPU's
    ``_Fractions``, ``_fractions`` and ``_EER`` at the end of the stem are left out.
    """
    stem = stem_of(image)
    short = re.sub(r"_(Fractions|fractions|EER)$", "", stem)
    for name in (image.name + ".mdoc", stem + ".mdoc", short + ".mdoc"):
        candidate = image.with_name(name)
        if candidate.is_file():
            sections = read_mdoc(candidate)
            return sections[0] if len(sections) == 1 else None
    for name in (stem + ".xml", short + ".xml"):
        candidate = image.with_name(name)
        if candidate.is_file():
            return read_epu_xml(candidate)
    return None
