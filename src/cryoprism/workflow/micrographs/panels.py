"""Pictures and curves of one micrograph for the report: small arrays that a finished job keeps beside its results."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryoprism.causes import Estimate
from cryoprism.core import frequency_grid
from cryoprism.microscope.optics import contrast_transfer
from cryoprism.restoration import View

__all__ = ["make_panel"]

_EDGE = 480
_SPECTRUM_EDGE = 360


def _thumbnail(image: Tensor) -> Tensor:
    """Block averages of at most 480 pixels along the longer axis."""
    factor = max(1, -(-max(image.shape) // _EDGE))
    height, width = (n // factor * factor for n in image.shape)
    blocks = image[:height, :width].reshape(height // factor, factor, width // factor, factor)
    return blocks.float().mean((1, 3))


def _bytes(image: Tensor) -> np.ndarray:
    flat = image.flatten()
    sample = flat[:: max(1, flat.numel() // 40000)]
    low, high = torch.quantile(sample, 0.005), torch.quantile(sample, 0.995)
    scaled = (image - low) / (high - low).clamp_min(1e-12) * 255
    return scaled.clamp(0, 255).to(torch.uint8).numpy()


def _labels(mask: Tensor) -> np.ndarray:
    factor = max(1, -(-max(mask.shape) // _EDGE))
    height, width = (n // factor * factor for n in mask.shape)
    return mask[:height:factor, :width:factor].to(torch.uint8).numpy()


def _spectrum_plane(estimate: Estimate, picture: np.ndarray) -> tuple[np.ndarray, float]:
    """Full Fourier plane as bytes: kx < 0 observed, kx ≥ 0 the fitted rings; and its edge [1/Å]."""
    edge = picture.shape[0]
    pixel = estimate.spectrum.pixel_size_in_angstroms
    ctf = estimate.ctf
    ky, kx = frequency_grid((edge, edge), pixel)
    rings = contrast_transfer(
        ky,
        kx,
        estimate.lens,
        defocus_u_in_angstroms=ctf.defocus_u_in_angstroms,
        defocus_v_in_angstroms=ctf.defocus_v_in_angstroms,
        defocus_angle_in_degrees=ctf.defocus_angle_in_degrees,
        phase_shift_in_degrees=ctf.phase_shift_in_degrees,
    ).square()
    radius = torch.sqrt(ky * ky + kx * kx)
    limit = 1 / estimate.rings.limit_in_angstroms if estimate.rings.detected else 0.0
    rings = torch.where(radius <= limit, rings, torch.full_like(rings, 0.35))
    fitted = (rings * 255).to(torch.uint8).numpy()
    shift = edge // 2
    observed, fitted = np.roll(picture, shift, 0), np.roll(fitted, shift, 0)
    mirrored = np.roll(observed[::-1], 1, 0)[:, 1 : edge // 2 + 1][:, ::-1]
    plane = np.concatenate([mirrored, fitted[:, : edge // 2]], 1)
    # Show a little beyond the fitted rings: the rest of the plane is noise.
    reach = min(0.5 / pixel, max(1.35 * limit, 0.2))
    half = max(16, int(reach * pixel * edge))
    crop = plane[shift - half : shift + half, shift - half : shift + half]
    if crop.shape[0] > 2 * _SPECTRUM_EDGE:
        factor = -(-crop.shape[0] // _SPECTRUM_EDGE)
        size = crop.shape[0] // factor * factor
        blocks = crop[:size, :size].reshape(size // factor, factor, size // factor, factor)
        crop = blocks.mean((1, 3)).astype(np.uint8)
    return np.ascontiguousarray(crop), half / (edge * pixel)


def make_panel(estimate: Estimate, picture: np.ndarray, image: Tensor, view: View) -> dict[str, Any]:
    """Arrays of one micrograph for the report, see :func:`cryoprism.workflow.report.write_report`."""
    spectrum, fit, rings, ctf = estimate.spectrum, estimate.fit, estimate.rings, estimate.ctf
    plane, edge = _spectrum_plane(estimate, picture)
    weight = spectrum.freedom / spectrum.freedom.sum(1, keepdim=True)
    model = fit.model.log_power(fit.theta, fit.damping).exp() * estimate.scale
    noise = fit.model.log_noise(fit.theta).exp()[:, 0] * estimate.scale
    return {
        "before": _bytes(_thumbnail(image)),
        "after": _bytes(_thumbnail(view.view)),
        "residual": _bytes(_thumbnail(view.residual)),
        "mask": _labels(view.mask),
        "spectrum": plane,
        "spectrum_edge": edge,
        "k": rings.k.numpy(),
        "observed": rings.observed.numpy(),
        "fitted": rings.fitted.numpy(),
        "correlation": rings.correlation.numpy(),
        "radial_power": (spectrum.power * weight).sum(1).numpy(),
        "radial_model": (model * weight).sum(1).numpy(),
        "radial_noise": noise.numpy(),
        # Of the thumbnail, for the scale bar.
        "pixel_size": spectrum.pixel_size_in_angstroms * max(1, -(-max(image.shape) // _EDGE)),
        "limit": rings.limit_in_angstroms,
        "defocus_u": ctf.defocus_u_in_angstroms,
        "defocus_v": ctf.defocus_v_in_angstroms,
        "defocus_angle": ctf.defocus_angle_in_degrees,
    }
