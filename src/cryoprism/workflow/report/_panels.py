"""What the report draws of one micrograph: its small file, and the pictures in it as text for a page."""

from __future__ import annotations

import base64
import math
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from ._style import MASK_COLOURS

__all__ = ["Panel", "jpeg_source", "mask_source", "read_panel", "spectrum_picture"]

_QUALITIES: Final = (85, 75, 65, 55, 45)
_PICTURES: Final = ("before", "after", "residual", "mask", "spectrum")
_CURVES: Final = ("k", "observed", "fitted", "correlation", "radial_power", "radial_model", "radial_noise")


@dataclass(frozen=True, eq=False)
class Panel:
    """Pictures and curves of one micrograph.

    Attributes
    ----------
    before, after, residual
        Thumbnails, uint8 (h, w); first row at the top.
    mask
        Labels of ``MASK_LABELS``, uint8 (h, w).
    spectrum
        Fourier plane, uint8 (n, n), zero frequency at [n // 2, n // 2]: observed where kx < 0, fitted elsewhere.
    spectrum_edge
        Frequency [1/Å] at the edge of that picture.
    k
        Frequencies of the curves [1/Å], (s,).
    observed, fitted, correlation
        Thon-ring oscillation along curves of equal phase without its background, its fit, and their local correlation,
        (s,).
    radial_power, radial_model, radial_noise
        Mean power, the whole model and its noise part, (s,).
    pixel_size
        Of the thumbnails [Å].
    limit
        Where the fit stops agreeing with the data [Å]; infinite without Thon rings.
    defocus_u, defocus_v, defocus_angle
        [Å], [Å], degrees from x (columns) towards y (rows) as RELION counts them.
    """

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    residual: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    spectrum: NDArray[np.uint8]
    spectrum_edge: float
    k: NDArray[np.float64]
    observed: NDArray[np.float64]
    fitted: NDArray[np.float64]
    correlation: NDArray[np.float64]
    radial_power: NDArray[np.float64]
    radial_model: NDArray[np.float64]
    radial_noise: NDArray[np.float64]
    pixel_size: float
    limit: float
    defocus_u: float
    defocus_v: float
    defocus_angle: float

    def ring_at(self, frequency: float, angle: float) -> float:
        """Frequency [1/Å] of the curve of equal phase through ``frequency`` at an angle [rad] from x towards y.

        k² Δf is constant along it; the spherical aberration is left out.
        """
        mean = 0.5 * (self.defocus_u + self.defocus_v)
        local = mean + 0.5 * (self.defocus_u - self.defocus_v) * math.cos(
            2 * (angle - math.radians(self.defocus_angle))
        )
        return frequency * math.sqrt(mean / local) if mean * local > 0 else frequency


def read_panel(path: Path) -> Panel | None:
    """Read a panel file; None where it is missing, unreadable or incomplete: no report fails for want of a picture."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            found: dict[str, Any] = {}
            for field in fields(Panel):
                value = stored[field.name]
                if field.name in _PICTURES:
                    found[field.name] = np.ascontiguousarray(value, dtype=np.uint8)
                elif field.name in _CURVES:
                    found[field.name] = np.asarray(value, dtype=np.float64)
                else:
                    found[field.name] = float(value)
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile):
        return None
    if any(found[name].ndim != 2 or found[name].size == 0 for name in _PICTURES):
        return None
    if any(found[name].shape != found["k"].shape or found[name].ndim != 1 for name in _CURVES):
        return None
    return Panel(**found)


def spectrum_picture(panel: Panel) -> NDArray[np.uint8]:
    """Spectrum for the eye: observed upper left, its average along curves of equal phase lower left, fitted right.

    The observed quarter is smoothed over 3 × 3 pixels. The averaged quarter is divided by its own local strength, so
    that weak rings show as well as strong ones. Without Thon rings nothing is averaged.
    """
    picture = panel.spectrum.copy()
    n, half = picture.shape[0], picture.shape[1] // 2
    padded = np.pad(panel.spectrum[:, :half].astype(np.float32), 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    smooth = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    low, high = np.quantile(smooth[::3, ::3], (0.02, 0.995))
    picture[:, :half] = np.clip((smooth - low) / max(float(high - low), 1e-6) * 255, 0, 255).astype(np.uint8)
    if not math.isfinite(panel.limit) or panel.k.size < 4:
        return picture
    top = n // 2
    ky = (np.arange(top, n) - n // 2)[:, None] * (2 * panel.spectrum_edge / n)
    kx = (np.arange(half) - half)[None, :] * (2 * panel.spectrum_edge / n)
    # Along a curve of equal phase k² Δf is constant: this is the frequency at which it meets the mean defocus.
    mean, spread = 0.5 * (panel.defocus_u + panel.defocus_v), 0.5 * (panel.defocus_u - panel.defocus_v)
    local = mean + spread * np.cos(2 * (np.arctan2(ky, kx) - math.radians(panel.defocus_angle)))
    k = np.hypot(ky, kx) * np.sqrt(np.clip(local / (mean or 1.0), 0.25, 4.0))
    oscillation = np.nan_to_num(panel.observed)
    width = max(5, oscillation.size // 12) | 1
    power = np.convolve(np.pad(oscillation**2, width // 2, mode="edge"), np.ones(width) / width, mode="valid")
    strength = np.sqrt(np.maximum(power, 1e-12 + 1e-9 * power.max()))
    shown = np.interp(k, panel.k, oscillation / strength, left=0.0, right=0.0)
    picture[top:, :half] = np.clip(127 + 85 * shown, 0, 255).astype(np.uint8)
    return picture


def jpeg_source(picture: NDArray[np.uint8], budget_in_bytes: int) -> str:
    """Grey picture as a ``data:`` address, at the best of five qualities that fits the budget, or at the lowest."""
    encoded: bytes | bytearray = b""
    for quality in _QUALITIES:
        encoded = imagecodecs.jpeg8_encode(picture, level=quality)
        if len(encoded) <= budget_in_bytes:
            break
    return "data:image/jpeg;base64," + base64.b64encode(encoded).decode("ascii")


def mask_source(mask: NDArray[np.uint8]) -> str:
    """Mask labels as a half-transparent coloured picture."""
    table = np.zeros((256, 4), dtype=np.uint8)
    table[1:] = (255, 255, 255, 150)
    for label, colour in enumerate(MASK_COLOURS):
        table[label] = (*colour, 150 if label else 0)
    encoded = imagecodecs.png_encode(table[mask], level=6)
    return "data:image/png;base64," + base64.b64encode(encoded).decode("ascii")
