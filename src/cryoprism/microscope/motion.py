"""Motion of the specimen during the exposure: drift, jitter, tracks over frames, and local motion.

A point at r shows up in frame t at r + r_t; the transform of that frame is multiplied by exp(-2πi k·r_t). The sum over
the exposure therefore has the mean of these phases as its transfer function (:func:`track_transfer`); uniform drift
gives a directional sinc (:func:`drift_envelope`) and isotropic Gaussian jitter a B-factor (:func:`jitter_envelope`).
Displacements are in Å along y (rows) and x (columns).

Sources: Brilot et al. (2012), J. Struct. Biol. 177, 630 and Zheng et al. (2017), Nat. Methods 14, 331 for fast early
motion, decaying within the first few e/Å²; Zivanov, Nakane & Scheres (2019), IUCrJ 6, 5 for smooth local motion.
"""

from __future__ import annotations

import math
from types import MappingProxyType

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from cryoprism.core import irfft2, rfft2

from ._registry import Mechanism, Parameters
from ._tensors import Scalar, apply_transfer, grid_of, number, over_grid, uniform

__all__ = [
    "MECHANISMS",
    "b_factor_envelope",
    "drift_envelope",
    "fast_start_track",
    "jitter_b_factor",
    "jitter_envelope",
    "local_displacement",
    "local_motion_sum",
    "sample_track",
    "shift_frames",
    "track_transfer",
    "warp_frames",
]


def b_factor_envelope(k: Tensor, b_factor_in_square_angstroms: Scalar) -> Tensor:
    """Amplitude exp(-B k²/4) at frequency ``k`` [1/Å], B [Å²] a scalar or a batch (b,)."""
    return torch.exp(-0.25 * over_grid(b_factor_in_square_angstroms, k) * k * k)


def jitter_b_factor(jitter_in_angstroms: Scalar) -> Scalar:
    """B = 8π²σ² [Å²] of Gaussian jitter with standard deviation σ [Å] along each axis."""
    return 8 * math.pi**2 * jitter_in_angstroms**2


def jitter_envelope(k: Tensor, jitter_in_angstroms: Scalar) -> Tensor:
    """Amplitude exp(-2π²σ²k²) of Gaussian jitter with standard deviation σ [Å] along each axis, at ``k`` [1/Å]."""
    return b_factor_envelope(k, jitter_b_factor(torch.as_tensor(jitter_in_angstroms, dtype=k.dtype, device=k.device)))


def drift_envelope(ky: Tensor, kx: Tensor, drift_y_in_angstroms: Scalar, drift_x_in_angstroms: Scalar) -> Tensor:
    """Directional envelope sinc(k·d) of uniform drift by the vector d [Å] during the whole exposure.

    sinc(x) = sin(πx)/(πx). Signed: past the first zero the contrast is reversed. The phase is that of the middle of the
    exposure, that is the image is centred. d and -d give the same envelope.

    Parameters
    ----------
    ky, kx
        Frequencies [1/Å] that broadcast to (h, w).
    drift_y_in_angstroms, drift_x_in_angstroms
        Displacement from start to end of the exposure [Å]; scalars or batches (b,).
    """
    return torch.sinc(ky * over_grid(drift_y_in_angstroms, ky) + kx * over_grid(drift_x_in_angstroms, kx))


def track_transfer(
    ky: Tensor,
    kx: Tensor,
    track_y_in_angstroms: Tensor,
    track_x_in_angstroms: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """Transfer function of a sum over a track: Σ_t w_t exp(-2πi k·r_t), complex, unit at zero frequency.

    Parameters
    ----------
    ky, kx
        Frequencies [1/Å]: (h, 1) and (1, w), or any shapes that broadcast to (h, w).
    track_y_in_angstroms, track_x_in_angstroms
        Positions (..., t) [Å].
    weights
        Non-negative (t,) or (..., t), normalised here to sum 1; equal if absent.
    """
    y, x = track_y_in_angstroms.to(ky.dtype), track_x_in_angstroms.to(ky.dtype)
    y, x = y + torch.zeros_like(x), x + torch.zeros_like(y)
    w = torch.ones_like(y) if weights is None else weights.to(ky.dtype).expand_as(y)
    w = w / w.sum(-1, keepdim=True)
    if ky.ndim == 2 and kx.ndim == 2 and ky.shape[1] == 1 and kx.shape[0] == 1:
        # Separable phases: one small matrix product instead of t grids.
        rows = w[..., None] * torch.exp(-2j * math.pi * (y[..., None] * ky[:, 0]))
        columns = torch.exp(-2j * math.pi * (x[..., None] * kx[0]))
        return rows.transpose(-1, -2) @ columns
    total = torch.zeros((), dtype=ky.dtype, device=ky.device) * 0j
    for t in range(y.shape[-1]):
        phase = -2 * math.pi * (ky * over_grid(y[..., t], ky) + kx * over_grid(x[..., t], kx))
        total = total + over_grid(w[..., t], ky) * torch.exp(1j * phase)
    return total


def fast_start_track(
    exposure: Tensor,
    *,
    early_displacement_y_in_angstroms: Scalar,
    early_displacement_x_in_angstroms: Scalar,
    drift_rate_y: Scalar = 0.0,
    drift_rate_x: Scalar = 0.0,
    decay_in_electrons_per_square_angstrom: Scalar = 4.0,
) -> tuple[Tensor, Tensor]:
    """Track whose velocity decays exponentially to a constant drift: r(N) = e (1 - exp(-N/τ)) + v N.

    Parameters
    ----------
    exposure
        Accumulated exposure N (t,) [e/Å²] at which positions are wanted.
    early_displacement_y_in_angstroms, early_displacement_x_in_angstroms
        Total displacement e [Å] of the fast start; scalars or batches (b,).
    drift_rate_y, drift_rate_x
        Late drift v [Å per e/Å²].
    decay_in_electrons_per_square_angstrom
        τ [e/Å²], positive.

    Returns
    -------
    track_y, track_x
        Positions [Å] relative to N = 0, shapes (..., t).
    """
    tau = over_grid(decay_in_electrons_per_square_angstrom, exposure, axes=1)
    start = -torch.expm1(-exposure / tau)
    early_y, early_x, late_y, late_x = (
        over_grid(value, exposure, axes=1)
        for value in (early_displacement_y_in_angstroms, early_displacement_x_in_angstroms, drift_rate_y, drift_rate_x)
    )
    return early_y * start + late_y * exposure, early_x * start + late_x * exposure


def sample_track(
    frames: int,
    exposure_per_frame_in_electrons_per_square_angstrom: float,
    generator: Generator,
    *,
    early_displacement_in_angstroms: float = 4.0,
    drift_rate: float = 0.02,
    jitter_in_angstroms: float = 0.1,
    decay_in_electrons_per_square_angstrom: float = 4.0,
) -> Tensor:
    """Draw a random track (t, 2) [Å; columns y, x] at the middle of each frame, with zero mean over the frames.

    The direction of the early motion and that of the late drift are uniform and independent; their sizes are
    half-normal with the given root mean squares; each frame adds independent Gaussian jitter along each axis.

    Parameters
    ----------
    frames
        Number of frames.
    exposure_per_frame_in_electrons_per_square_angstrom
        Exposure of one frame [e/Å²].
    generator
        Source of the random numbers.
    early_displacement_in_angstroms
        Root mean square of the early displacement [Å].
    drift_rate
        Root mean square of the late drift rate [Å per e/Å²].
    jitter_in_angstroms
        Standard deviation of the position in one frame along each axis [Å].
    decay_in_electrons_per_square_angstrom
        Decay τ of the early motion [e/Å²].
    """
    device = generator.device
    draws = torch.randn(2, 2, generator=generator, device=device) / math.sqrt(2)
    noise = torch.randn(frames, 2, generator=generator, device=device) * jitter_in_angstroms
    exposure = (torch.arange(frames, device=device) + 0.5) * exposure_per_frame_in_electrons_per_square_angstrom
    y, x = fast_start_track(
        exposure,
        early_displacement_y_in_angstroms=draws[0, 0] * early_displacement_in_angstroms,
        early_displacement_x_in_angstroms=draws[0, 1] * early_displacement_in_angstroms,
        drift_rate_y=draws[1, 0] * drift_rate,
        drift_rate_x=draws[1, 1] * drift_rate,
        decay_in_electrons_per_square_angstrom=decay_in_electrons_per_square_angstrom,
    )
    track = torch.stack([y, x], -1) + noise
    return track - track.mean(0)


def shift_frames(
    frames: Tensor, shift_y_in_angstroms: Tensor, shift_x_in_angstroms: Tensor, pixel_size_in_angstroms: float
) -> Tensor:
    """Move each frame (..., t, y, x) by (..., t) [Å] towards larger indices, by Fourier phases (periodic, no blur).

    At an even size the Nyquist coefficient of a fractional shift keeps its real part only, as in every real shift.
    """
    ky, kx = grid_of(frames, pixel_size_in_angstroms)
    y = shift_y_in_angstroms.to(frames.dtype)[..., None, None]
    x = shift_x_in_angstroms.to(frames.dtype)[..., None, None]
    return apply_transfer(frames, torch.exp(-2j * math.pi * (ky * y)) * torch.exp(-2j * math.pi * (kx * x)))


def _unit_coordinates(shape: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    v = torch.linspace(-1, 1, shape[0], dtype=like.dtype, device=like.device)[:, None]
    u = torch.linspace(-1, 1, shape[1], dtype=like.dtype, device=like.device)[None, :]
    return v, u


def local_displacement(coefficients: Tensor, shape: tuple[int, int]) -> Tensor:
    """Smooth displacement field (..., 2, h, w) [Å; y then x] from polynomial coefficients.

    d(v, u) = c0 + c1 v + c2 u + c3 v² + c4 v u + c5 u², with v and u from -1 to 1 down the rows and along the columns.
    Doming (ice that bulges and carries its particles outwards) is c1 of y = c2 of x = a; fewer terms may be given.

    Parameters
    ----------
    coefficients
        (..., 2, n) [Å] with 1 ≤ n ≤ 6.
    shape
        (h, w) of the field.
    """
    v, u = _unit_coordinates(shape, coefficients)
    one = torch.ones(shape, dtype=coefficients.dtype, device=coefficients.device)
    terms = [one, v * one, u * one, v * v * one, v * u, u * u * one]
    basis = torch.stack(terms[: coefficients.shape[-1]])
    return torch.einsum("...n,nhw->...hw", coefficients, basis)


def warp_frames(frames: Tensor, displacement: Tensor, pixel_size_in_angstroms: float) -> Tensor:
    """Move the content of frames (..., y, x) by a smooth field (..., 2, y, x) [Å; y then x], bicubically.

    The output at r is the input at r - d(r): right to first order in the gradient of d, which is below 1e-3 in
    practice. Bicubic interpolation loses some amplitude near Nyquist; use :func:`local_motion_sum` where that matters.
    Frames continue by their border.
    """
    height, width = frames.shape[-2:]
    lead = np.broadcast_shapes(frames.shape[:-2], displacement.shape[:-3])
    image = frames.expand(*lead, height, width).reshape(-1, 1, height, width)
    field = displacement.to(frames.dtype).expand(*lead, 2, height, width).reshape(-1, 2, height, width)
    v, u = _unit_coordinates((height, width), frames)
    step = 2.0 / pixel_size_in_angstroms
    grid = torch.stack(
        [u - field[:, 1] * (step / max(width - 1, 1)), v - field[:, 0] * (step / max(height - 1, 1))], dim=-1
    )
    warped = functional.grid_sample(image, grid, mode="bicubic", padding_mode="border", align_corners=True)
    return warped.reshape(*lead, height, width)


def local_motion_sum(image: Tensor, tracks: Tensor, pixel_size_in_angstroms: float) -> Tensor:
    """Blur a static image by tracks that differ over the field: the mean over frames of its local shifts.

    The field is covered by a grid of nodes; each node's transfer function (:func:`track_transfer`) is applied to the
    whole image and the results are blended bilinearly between nodes. Exact where the tracks are equal; no interpolation
    loss.

    Parameters
    ----------
    image
        (..., y, x).
    tracks
        (rows, columns, t, 2) [Å; y then x]: nodes spread evenly from edge to edge.
    pixel_size_in_angstroms
        Pixel size [Å].
    """
    rows, columns = tracks.shape[:2]
    ky, kx = grid_of(image, pixel_size_in_angstroms)
    height, width = image.shape[-2:]
    transform = rfft2(image)
    v, u = _unit_coordinates((height, width), image)
    total = torch.zeros_like(image)
    for row in range(rows):
        weight_y = (1 - ((v + 1) / 2 * (rows - 1) - row).abs()).clamp_min(0)
        for column in range(columns):
            weight_x = (1 - ((u + 1) / 2 * (columns - 1) - column).abs()).clamp_min(0)
            transfer = track_transfer(ky, kx, tracks[row, column, :, 0], tracks[row, column, :, 1])
            total = total + irfft2(transform * transfer, (height, width)) * (weight_y * weight_x)
    return total


def _apply_drift(image: Tensor, p: Parameters, generator: Generator | None) -> Tensor:
    ky, kx = grid_of(image, number(p, "pixel_size_in_angstroms"))
    return apply_transfer(image, drift_envelope(ky, kx, p["drift_y_in_angstroms"], p["drift_x_in_angstroms"]))


def _apply_jitter(image: Tensor, p: Parameters, generator: Generator | None) -> Tensor:
    ky, kx = grid_of(image, number(p, "pixel_size_in_angstroms"))
    return apply_transfer(image, jitter_envelope(torch.sqrt(ky * ky + kx * kx), p["jitter_in_angstroms"]))


def _apply_frame_motion(movie: Tensor, p: Parameters, generator: Generator | None) -> Tensor:
    per_frame = number(p, "exposure_per_frame_in_electrons_per_square_angstrom")
    exposure = (torch.arange(movie.shape[-3], device=movie.device, dtype=movie.dtype) + 0.5) * per_frame
    y, x = fast_start_track(
        exposure,
        early_displacement_y_in_angstroms=p["early_displacement_y_in_angstroms"],
        early_displacement_x_in_angstroms=p["early_displacement_x_in_angstroms"],
        drift_rate_y=p["drift_rate_y"],
        drift_rate_x=p["drift_rate_x"],
        decay_in_electrons_per_square_angstrom=p["decay_in_electrons_per_square_angstrom"],
    )
    return shift_frames(movie, y, x, number(p, "pixel_size_in_angstroms"))


def _apply_doming(movie: Tensor, p: Parameters, generator: Generator | None) -> Tensor:
    frames = movie.shape[-3]
    progress = -torch.expm1(-(torch.arange(frames, device=movie.device, dtype=movie.dtype) + 0.5) / (0.2 * frames))
    amount = over_grid(p["doming_in_angstroms"], movie, axes=1) * progress
    zero = torch.zeros_like(amount)
    coefficients = torch.stack(
        [torch.stack([zero, amount, zero], -1), torch.stack([zero, zero, amount], -1)], dim=-2
    )  # (..., t, 2, 3)
    field = local_displacement(coefficients, (movie.shape[-2], movie.shape[-1]))
    return warp_frames(movie, field, number(p, "pixel_size_in_angstroms"))


_MOTION_BOUNDS = MappingProxyType(
    {
        "drift_y_in_angstroms": (-20.0, 20.0),
        "drift_x_in_angstroms": (-20.0, 20.0),
    }
)

MECHANISMS = (
    Mechanism(
        name="linear_drift",
        cause="drift",
        stage="motion",
        apply=_apply_drift,
        sample_parameters=lambda g: {
            "pixel_size_in_angstroms": 1.0,
            "drift_y_in_angstroms": uniform(g, -4, 4),
            "drift_x_in_angstroms": uniform(g, -4, 4),
        },
        ideal=MappingProxyType({"drift_y_in_angstroms": 0.0, "drift_x_in_angstroms": 0.0}),
        bounds=_MOTION_BOUNDS,
        units=MappingProxyType({"drift_y_in_angstroms": "Å", "drift_x_in_angstroms": "Å"}),
        linear=True,
        random=False,
        differentiable=True,
        input_kind="image",
        gradient_parameters=("drift_y_in_angstroms", "drift_x_in_angstroms"),
    ),
    Mechanism(
        name="jitter",
        cause="jitter",
        stage="motion",
        apply=_apply_jitter,
        sample_parameters=lambda g: {"pixel_size_in_angstroms": 1.0, "jitter_in_angstroms": uniform(g, 0.1, 1.0)},
        ideal=MappingProxyType({"jitter_in_angstroms": 0.0}),
        bounds=MappingProxyType({"jitter_in_angstroms": (0.0, 5.0)}),
        units=MappingProxyType({"jitter_in_angstroms": "Å"}),
        linear=True,
        random=False,
        differentiable=True,
        input_kind="image",
        gradient_parameters=("jitter_in_angstroms",),
    ),
    Mechanism(
        name="frame_motion",
        cause="motion",
        stage="motion",
        apply=_apply_frame_motion,
        sample_parameters=lambda g: {
            "pixel_size_in_angstroms": 1.0,
            "exposure_per_frame_in_electrons_per_square_angstrom": 1.0,
            "early_displacement_y_in_angstroms": uniform(g, -6, 6),
            "early_displacement_x_in_angstroms": uniform(g, -6, 6),
            "drift_rate_y": uniform(g, -0.05, 0.05),
            "drift_rate_x": uniform(g, -0.05, 0.05),
            "decay_in_electrons_per_square_angstrom": uniform(g, 2, 6),
        },
        ideal=MappingProxyType(
            {
                "early_displacement_y_in_angstroms": 0.0,
                "early_displacement_x_in_angstroms": 0.0,
                "drift_rate_y": 0.0,
                "drift_rate_x": 0.0,
            }
        ),
        bounds=MappingProxyType(
            {
                "early_displacement_y_in_angstroms": (-30.0, 30.0),
                "early_displacement_x_in_angstroms": (-30.0, 30.0),
                "drift_rate_y": (-1.0, 1.0),
                "drift_rate_x": (-1.0, 1.0),
                "decay_in_electrons_per_square_angstrom": (0.5, 20.0),
            }
        ),
        units=MappingProxyType(
            {
                "early_displacement_y_in_angstroms": "Å",
                "early_displacement_x_in_angstroms": "Å",
                "drift_rate_y": "Å per e/Å²",
                "drift_rate_x": "Å per e/Å²",
                "decay_in_electrons_per_square_angstrom": "e/Å²",
            }
        ),
        linear=True,
        random=False,
        differentiable=True,
        input_kind="movie",
        gradient_parameters=("early_displacement_y_in_angstroms", "early_displacement_x_in_angstroms"),
    ),
    Mechanism(
        name="doming",
        cause="local_motion",
        stage="motion",
        apply=_apply_doming,
        sample_parameters=lambda g: {"pixel_size_in_angstroms": 1.0, "doming_in_angstroms": uniform(g, -4, 4)},
        ideal=MappingProxyType({"doming_in_angstroms": 0.0}),
        bounds=MappingProxyType({"doming_in_angstroms": (-30.0, 30.0)}),
        units=MappingProxyType({"doming_in_angstroms": "Å at the edge of the field"}),
        linear=True,
        random=False,
        differentiable=True,
        input_kind="movie",
        gradient_parameters=("doming_in_angstroms",),
    ),
)
