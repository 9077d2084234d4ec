"""MRC and MRCS: one header reader, one data reader, one atomic writer.

Layout: MRC2014 (Cheng et al. 2015, J. Struct. Biol. 192, 146). The header's field table is mrcfile's; the bytes are
read here so that frames can be mapped one by one, half-read files are named, and 4096² images are written in one pass.
"""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray
from torch import Tensor

from cryoprism.core import CryoPrismWarning, InputError

from ._files import atomic_writer, compression_of, existing_file, open_plain

__all__ = ["MrcHeader", "read_mrc", "read_mrc_header", "write_mrc"]

_HEADER_BYTES = 1024
_MODES: dict[int, str] = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_IMOD_STAMP = 1146047817


@dataclass(frozen=True)
class MrcHeader:
    """What the header of an MRC file says.

    ``shape`` is (sections, rows, columns) as stored; ``pixel_size_in_angstroms`` is that along the columns, None where
    the header gives none (0 or nonsense); ``voxel_size_in_angstroms`` is (z, y, x) with 0 for unknown; ``axes`` are the
    crystal axes (1 = x, 2 = y, 3 = z) of columns, rows and sections; ``start`` and ``origin_in_angstroms`` are (x, y,
    z). ``sections_of_cell`` (mz) is 1 in a stack of images, the number of sections in a map.
    """

    shape: tuple[int, int, int]
    mode: int
    dtype: np.dtype[Any]
    data_offset: int
    pixel_size_in_angstroms: float | None
    voxel_size_in_angstroms: tuple[float, float, float]
    axes: tuple[int, int, int]
    start: tuple[int, int, int]
    origin_in_angstroms: tuple[float, float, float]
    space_group: int
    sections_of_cell: int
    extended_type: str
    compression: str | None

    @property
    def data_bytes(self) -> int:
        """Number of bytes that the pixels take."""
        return math.prod(self.shape) * self.dtype.itemsize


def _plausible(header: NDArray[Any]) -> bool:
    sizes = (int(header["nx"]), int(header["ny"]), int(header["nz"]))
    return all(0 < n < 1_000_000 for n in sizes) and 0 <= int(header["mode"]) <= 101 and int(header["nsymbt"]) >= 0


def _parse(raw: bytes, path: Path) -> tuple[NDArray[Any], str]:
    little = np.frombuffer(raw, dtype=HEADER_DTYPE.newbyteorder("<"))[0]
    big = np.frombuffer(raw, dtype=HEADER_DTYPE.newbyteorder(">"))[0]
    # Many programs write no machine stamp, and some a wrong one: the sizes and the mode decide where the stamp does
    # not.
    first = bytes(little["machst"])[:1]
    order = [(big, ">"), (little, "<")] if first == b"\x11" else [(little, "<"), (big, ">")]
    for header, byte_order in order:
        if _plausible(header):
            return header, byte_order
    sizes = tuple(int(little[key]) for key in ("nx", "ny", "nz", "mode"))
    raise InputError(
        path,
        f"is not an MRC file: its header gives nx, ny, nz, mode = {sizes}",
        "Check that the right file was named; copy it again if it should be MRC.",
    )


def _spacing(header: NDArray[Any], axis: str) -> float:
    grid = int(header["m" + axis])
    cell = float(header["cella"][axis])
    spacing = cell / grid if grid > 0 else 0.0
    return spacing if math.isfinite(spacing) and spacing > 0 else 0.0


def read_mrc_header(path: str | os.PathLike[str]) -> MrcHeader:
    """Read the header of an MRC file (plain, gzip or bzip2; either byte order) and check it against the file's length.

    Raises
    ------
    InputError
        No such file, not an MRC file, a mode other than 0, 1, 2, 6 or 12, or fewer bytes than the header promises.
    """
    file = existing_file(path)
    compression = compression_of(file)
    with open_plain(file, compression) as stream:
        raw = stream.read(_HEADER_BYTES)
    if len(raw) < _HEADER_BYTES:
        raise InputError(
            file,
            f"holds {len(raw)} bytes where an MRC header takes {_HEADER_BYTES}",
            "The file was cut short: copy it again from its source, or leave it out.",
        )
    header, order = _parse(raw, file)
    mode = int(header["mode"])
    if mode not in _MODES:
        raise InputError(
            file,
            f"MRC mode {mode} is not one of 0, 1, 2, 6, 12",
            "Convert it to mode 2, for example with 'newstack -mode 2' or 'relion_image_handler'.",
        )
    code = _MODES[mode]
    if mode == 0 and _imod_unsigned(raw, order):
        code = "u1"
    voxel = (_spacing(header, "z"), _spacing(header, "y"), _spacing(header, "x"))
    result = MrcHeader(
        shape=(int(header["nz"]), int(header["ny"]), int(header["nx"])),
        mode=mode,
        dtype=np.dtype(order + code),
        data_offset=_HEADER_BYTES + int(header["nsymbt"]),
        pixel_size_in_angstroms=voxel[2] or None,
        voxel_size_in_angstroms=voxel,
        axes=(int(header["mapc"]), int(header["mapr"]), int(header["maps"])),
        start=(int(header["nxstart"]), int(header["nystart"]), int(header["nzstart"])),
        origin_in_angstroms=(
            float(header["origin"]["x"]),
            float(header["origin"]["y"]),
            float(header["origin"]["z"]),
        ),
        space_group=int(header["ispg"]),
        sections_of_cell=int(header["mz"]),
        extended_type=bytes(header["exttyp"]).decode("latin-1").strip("\x00 "),
        compression=compression,
    )
    if compression is None:
        _check_length(file, result, file.stat().st_size)
    if voxel[1] and voxel[2] and abs(voxel[1] / voxel[2] - 1) > 1e-3:
        warnings.warn(
            f"{file}: pixels are {voxel[2]:.4f} Å wide and {voxel[1]:.4f} Å high; the width is used. "
            "Correct the header, or give the pixel size yourself.",
            CryoPrismWarning,
            stacklevel=2,
        )
    return result


def _imod_unsigned(raw: bytes, order: str) -> bool:
    # IMOD before 4.2.23 wrote bytes 0 to 255 as mode 0 and says so by its stamp with the "signed" flag off.
    stamp, flags = np.frombuffer(raw, dtype=order + "i4", count=2, offset=152)
    return int(stamp) == _IMOD_STAMP and not int(flags) & 1


def _check_length(file: Path, header: MrcHeader, found: int) -> None:
    expected = header.data_offset + header.data_bytes
    if found < expected:
        sections, rows, columns = header.shape
        raise InputError(
            file,
            f"holds {found} bytes where {columns} x {rows} x {sections} pixels of mode {header.mode} take {expected}",
            "The file was cut short (or is still being written): copy it again from its source, or leave it out.",
        )


def map_mrc(path: str | os.PathLike[str], header: MrcHeader | None = None) -> NDArray[Any]:
    """Return the pixels (sections, rows, columns) as stored, mapped from disk where the file is not compressed.

    The array is read-only and in the file's own type and byte order.
    """
    file = Path(path)
    header = header or read_mrc_header(file)
    if header.compression is None:
        return np.memmap(file, dtype=header.dtype, mode="r", offset=header.data_offset, shape=header.shape)
    buffer = bytearray(header.data_bytes)
    with open_plain(file, header.compression) as stream:
        stream.read(header.data_offset)
        filled = _fill(stream, memoryview(buffer))
    _check_length(file, header, header.data_offset + filled)
    return np.frombuffer(buffer, dtype=header.dtype).reshape(header.shape)


def _fill(stream: IO[bytes], view: memoryview) -> int:
    filled = 0
    while filled < len(view):
        chunk = stream.read(min(1 << 24, len(view) - filled))
        if not chunk:
            break
        view[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    return filled


def to_float32(array: NDArray[Any]) -> Tensor:
    """Make a float32 tensor that owns its memory: exactly one copy, whatever the type and byte order."""
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C", copy=True))


def require_finite(data: Tensor, path: str | os.PathLike[str], *, volume: bool = False) -> None:
    """Raise an InputError where an image, or a map, holds NaN or infinity, naming how many and the first."""
    # The extremes carry NaN and infinity: one vectorised pass, no temporary.
    if data.numel() == 0 or all(math.isfinite(float(extreme)) for extreme in torch.aminmax(data)):
        return
    bad = ~torch.isfinite(data)
    first = tuple(int(i) for i in bad.nonzero()[0])
    raise InputError(
        Path(path),
        f"{int(bad.sum())} of {data.numel()} {'voxels' if volume else 'pixels'} are NaN or infinite, the first at "
        f"index {first}",
        "Make the map again from its particles, or replace them: 'relion_image_handler --i IN --o OUT --remove_nan'."
        if volume
        else "Leave the image out, or replace such pixels, for example 'relion_image_handler --remove_nan'.",
    )


def read_mrc(path: str | os.PathLike[str], *, allow_nonfinite: bool = False) -> tuple[Tensor, MrcHeader]:
    """Read all pixels of an MRC file as float32 (sections, rows, columns) in the file's order of axes.

    Raises
    ------
    InputError
        As :func:`read_mrc_header`; or pixels are NaN or infinite and ``allow_nonfinite`` is False.
    """
    header = read_mrc_header(path)
    data = to_float32(map_mrc(path, header))
    if not allow_nonfinite and header.dtype.kind == "f":
        require_finite(data, path)
    return data, header


def _statistics(data: NDArray[Any]) -> tuple[float, float, float, float]:
    # Minimum, maximum, mean and standard deviation by blocks that stay in the cache. The sums of squares are taken
    # about the first block's mean, so that a large mean costs no digits.
    flat = data.reshape(-1)
    if flat.size == 0 or flat.dtype.kind == "c":
        return 0.0, -1.0, -2.0, -1.0
    block = 1 << 17
    shift = np.float32(flat[:block].mean(dtype=np.float64))
    low, high, total, squares = math.inf, -math.inf, 0.0, 0.0
    for begin in range(0, flat.size, block):
        part = flat[begin : begin + block]
        low, high = min(low, float(part.min())), max(high, float(part.max()))
        centred = np.subtract(part, shift, dtype=np.float32)
        total += float(centred.sum(dtype=np.float64))
        squares += float(np.dot(centred, centred))
    mean = total / flat.size
    return low, high, mean + float(shift), math.sqrt(max(0.0, squares / flat.size - mean * mean))


def _as_mode(data: NDArray[Any], mode: int, path: Path) -> NDArray[Any]:
    if mode not in _MODES:
        raise InputError(path, f"MRC mode {mode} was asked for", "Use mode 0, 1, 2, 6 or 12.")
    dtype = np.dtype("<" + _MODES[mode])
    if data.dtype == dtype:
        return np.ascontiguousarray(data)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        rounded = np.rint(data) if data.dtype.kind == "f" else data
        low, high = float(rounded.min()), float(rounded.max())
        if not (low >= limits.min and high <= limits.max):
            raise InputError(
                path,
                f"values from {low:g} to {high:g} do not fit MRC mode {mode} ({limits.min} to {limits.max})",
                "Write mode 2, or rescale the values.",
            )
        return np.ascontiguousarray(rounded.astype(dtype))
    if mode == 12 and data.size and float(np.abs(data[np.isfinite(data)]).max(initial=0.0)) > 65504.0:
        raise InputError(path, "values beyond 65504 do not fit MRC mode 12", "Write mode 2, or rescale the values.")
    return np.ascontiguousarray(data, dtype=dtype)


def header_bytes(
    shape: tuple[int, int, int],
    pixel_size_in_angstroms: float,
    statistics: tuple[float, float, float, float],
    *,
    volume: bool = False,
    mode: int = 2,
    origin_in_angstroms: tuple[float, float, float] = (0.0, 0.0, 0.0),
    start: tuple[int, int, int] = (0, 0, 0),
) -> bytes:
    """MRC2014 header of a file of ``shape`` (sections, rows, columns); statistics: minimum, maximum, mean, deviation.

    Other arguments as in :func:`write_mrc`.
    """
    sections, rows, columns = shape
    spacing = pixel_size_in_angstroms
    header = np.zeros((), dtype=HEADER_DTYPE.newbyteorder("<"))
    header["nx"], header["ny"], header["nz"] = columns, rows, sections
    header["mode"] = mode
    header["nxstart"], header["nystart"], header["nzstart"] = start
    header["mx"], header["my"], header["mz"] = columns, rows, sections if volume else 1
    header["cella"] = (columns * spacing, rows * spacing, (sections if volume else 1) * spacing)
    header["cellb"] = (90.0, 90.0, 90.0)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["dmin"], header["dmax"], header["dmean"], header["rms"] = statistics
    header["ispg"] = 1 if volume else 0
    header["nversion"] = 20141
    header["origin"] = origin_in_angstroms
    header["map"] = b"MAP "
    header["machst"] = (0x44, 0x44, 0, 0)
    header["nlabl"] = 1
    header["label"][0] = b"CryoPrism"
    return header.tobytes()


def write_mrc(
    path: str | os.PathLike[str],
    data: Tensor | NDArray[Any],
    pixel_size_in_angstroms: float,
    volume: bool = False,
    mode: int = 2,
    *,
    origin_in_angstroms: tuple[float, float, float] = (0.0, 0.0, 0.0),
    start: tuple[int, int, int] = (0, 0, 0),
) -> None:
    """Atomically write an image (y, x), a stack (n, y, x) or, with ``volume``, a map (z, y, x).

    Parameters
    ----------
    path
        The file to write; its folder must exist. The old file stands until the new one is complete.
    data
        Real numbers; moved to the CPU if need be and never changed.
    pixel_size_in_angstroms
        Written as the cell: extent of each axis = number of pixels × pixel size.
    volume
        True writes space group 1 (a volume), False 0 (an image or a stack of images).
    mode
        2 (float32), 12 (float16), or 0, 1, 6 (int8, int16, uint16: rounded, refused where values do not fit).
    origin_in_angstroms
        Origin field (x, y, z).
    start
        nxstart, nystart, nzstart.

    Raises
    ------
    InputError
        Values do not fit the mode, the pixel size is not positive, or the file cannot be written.
    """
    target = Path(path)
    array = data.detach().to("cpu").numpy() if isinstance(data, Tensor) else np.asarray(data)
    if array.ndim not in (2, 3) or (volume and array.ndim != 3) or array.size == 0 or array.dtype.kind not in "iufb":
        raise InputError(
            target,
            f"an array of shape {array.shape} and type {array.dtype} cannot be written",
            "Give real numbers of shape (y, x) or (n, y, x).",
        )
    if not (math.isfinite(pixel_size_in_angstroms) and pixel_size_in_angstroms > 0):
        raise InputError(target, f"the pixel size is {pixel_size_in_angstroms}", "Give a positive pixel size in Å.")
    pixels = _as_mode(array, mode, target)
    sections, rows, columns = (1, *array.shape) if array.ndim == 2 else array.shape
    header = header_bytes(
        (sections, rows, columns),
        float(pixel_size_in_angstroms),
        _statistics(pixels),
        volume=volume,
        mode=mode,
        origin_in_angstroms=origin_in_angstroms,
        start=start,
    )
    with atomic_writer(target) as stream:
        stream.write(header)
        stream.write(pixels.reshape(-1).view(np.uint8).data)
