"""How many bits a rendered micrograph truly holds about its particles, and how many a cause took away.

The image is modelled in small patches of the Fourier plane (ring × sector) as m = g u + n, with u the particles'
contrast through the true CTF at each particle's own height (:attr:`Rendered.signal`), g what envelopes, motion, damage
and detector leave of it, and n everything else. Because u already carries the CTF, g is smooth and patches may be wide.
Then

    |g|² = |⟨m u*⟩|² / ⟨|u|²⟩² - ⟨|n|²⟩ / (c ⟨|u|²⟩)   (the last term removes the bias of c coefficients)
    SSNR(k) = |g|² S CTF²(k) / ⟨|n|²⟩,   S = ⟨|u|²⟩ / ⟨CTF²⟩
    I = Σ_k ½ log2(1 + SSNR(k))   over all coefficients up to Nyquist.

g is measured on the expected counts, where shot noise is absent, n on the recorded ones; neither is clipped at zero, so
that an image without particles has zero bits on average, not some. The bits lost to a cause are the difference to the
twin that was rendered without it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.core import InputError, frequency_grid, half_plane_weights, rfft2
from cryoprism.microscope.optics import contrast_transfer

from .render import Engine, Rendered, render_micrograph
from .scene import Scene, intervene
from .specimen import Specimen

__all__ = ["Information", "bits_lost", "information_in_bits", "information_of"]


@dataclass(frozen=True, kw_only=True)
class Information:
    """Bits about the particles in one image.

    Parameters
    ----------
    bits
        Sum up to Nyquist.
    standard_error
        Its standard error [bits] from the finite number of coefficients in each patch.
    frequency_in_inverse_angstroms, bits_per_ring, ssnr_per_ring
        (rings,) middle of each ring, its bits, and its mean spectral signal-to-noise ratio.
    """

    bits: float
    standard_error: float
    frequency_in_inverse_angstroms: Tensor
    bits_per_ring: Tensor
    ssnr_per_ring: Tensor


def information_in_bits(
    image: Tensor,
    signal: Tensor,
    pixel_size_in_angstroms: float,
    *,
    squared_ctf: Tensor,
    expected: Tensor | None = None,
    excluded: Tensor | None = None,
    sectors: int = 12,
    least_coefficients: int = 150,
    ring_width_in_pixels: int = 6,
) -> Information:
    """Coherent information [bits] between an image and the signal that is truly in it.

    Parameters
    ----------
    image
        (y, x) recorded counts.
    signal
        (y, x) particles through the true CTF, any scale.
    pixel_size_in_angstroms
        Pixel size.
    squared_ctf
        (y, x // 2 + 1) true CTF² on the half grid of the image.
    expected
        (y, x) the image without shot noise, on the scale of ``image``; the image itself if absent (unbiased as well,
        more scatter).
    excluded
        (y, x) 0 … 1, where 1 is left out of both (defects, contamination).
    sectors
        Angular patches of the half plane.
    least_coefficients
        Fewest coefficients of a patch.
    ring_width_in_pixels
        Smallest width of a ring.

    Raises
    ------
    InputError
        Shapes differ or everything is excluded.
    """
    shape = (int(image.shape[-2]), int(image.shape[-1]))
    for name, other in (("signal", signal), ("expected", expected), ("excluded", excluded)):
        if other is not None and tuple(other.shape) != shape:
            raise InputError(name, f"has shape {tuple(other.shape)} for an image of {shape}", "Give the same shape.")
    taper = _taper(shape)
    window = taper
    if excluded is not None:
        window = window * (1 - excluded.to(window).clamp(0, 1))
    # Bits count for the area that is left; the taper at the edges is no loss.
    fill = float((window**2).mean() / (taper**2).mean())
    if fill < 0.01:
        raise InputError("excluded", "leaves less than 1 % of the image", "Exclude less.")
    # A mask correlates coefficients over more than a patch's width: this many count of one.
    independent = float((window**2).mean()) ** 2 / float((window**4).mean())
    # The taper itself correlates next neighbours only; half of that stays within a patch of six pixels.
    independent /= (float((taper**2).mean()) ** 2 / float((taper**4).mean())) ** 0.5
    m, u = (_windowed(x, window) for x in (image, signal))
    e = m if expected is None else _windowed(expected, window)
    patch, rings, middles = _patches(shape, pixel_size_in_angstroms, sectors, least_coefficients, ring_width_in_pixels)
    inside = patch >= 0
    index = patch[inside]
    weight = half_plane_weights(shape[1], dtype=torch.float64).expand(patch.shape)[inside]
    count = rings * sectors

    def total(values: Tensor) -> Tensor:
        return torch.zeros(count, dtype=values.dtype).index_add_(0, index, values)

    size = total(weight)
    n = size.clamp_min(1.0)
    uu = total(weight * u[inside].abs().square()) / n
    eu = total(weight * e[inside] * u[inside].conj()) / n
    ee = total(weight * e[inside].abs().square()) / n
    mu = eu if expected is None else total(weight * m[inside] * u[inside].conj()) / n
    mm = total(weight * m[inside].abs().square()) / n
    cc = total(weight * squared_ctf[inside].double()) / n
    safe = uu.clamp_min(1e-300)
    freedom = (0.5 * n * independent).clamp_min(1.5)  # complex coefficients of the half plane
    # The residual of a fit of one complex number has lost one degree of freedom.
    rest_e = (ee - eu.abs().square() / safe).clamp_min(0) * (freedom / (freedom - 1))
    rest_m = (mm - mu.abs().square() / safe).clamp_min(1e-300) * (freedom / (freedom - 1))
    gain = eu.abs().square() / safe**2 - rest_e / (freedom * safe)
    ratio = gain * safe / (rest_m * cc.clamp_min(1e-12))  # SSNR / CTF²
    ssnr = (ratio[index] * squared_ctf[inside].double()).clamp_min(-0.5)
    bits = 0.5 * fill * total(weight * torch.log2(1 + ssnr))
    slope = 0.5 * fill / 0.6931 * size
    spread = (
        slope
        * (
            2 * (gain.clamp_min(0) * safe / rest_m) * rest_e / (freedom * rest_m) + (rest_e / (freedom * rest_m)) ** 2
        ).sqrt()
    )
    per_ring = bits.reshape(rings, sectors).sum(1)
    mean = (total(weight * ssnr) / n).reshape(rings, sectors).mean(1)
    return Information(
        bits=float(bits.sum()),
        standard_error=float(spread.square().sum().sqrt()),
        frequency_in_inverse_angstroms=middles,
        bits_per_ring=per_ring,
        ssnr_per_ring=mean,
    )


def information_of(rendered: Rendered, *, exclude: tuple[str, ...] = ()) -> Information:
    """Information in a rendered micrograph without the areas of the masks that ``exclude`` names.

    Masks are ``defects``, ``contamination``, ``carbon`` and ``crystalline_ice``.
    """
    scene = rendered.scene
    counts = rendered.counts if rendered.counts.ndim == 2 else rendered.counts.sum(0)
    excluded = None
    for name in exclude:
        if name not in rendered.masks:
            raise InputError("exclude", f"'{name}' is no mask", f"Use some of {', '.join(rendered.masks)}.")
        mask = rendered.masks[name].float()
        excluded = mask if excluded is None else torch.maximum(excluded, mask)
    ky, kx = frequency_grid(scene.shape, scene.pixel_size_in_angstroms)
    return information_in_bits(
        counts,
        rendered.signal,
        scene.pixel_size_in_angstroms,
        squared_ctf=contrast_transfer(ky, kx, scene.lens, **scene.aberrations()).square(),
        expected=rendered.expected,
        excluded=excluded,
    )


def bits_lost(
    scene: Scene,
    specimen: Specimen,
    *causes: str,
    engine: Engine = "projection",
    exclude: tuple[str, ...] = (),
    rendered: Rendered | None = None,
) -> float:
    """Bits that the named causes together took from a scene: information of the twin without them minus its own.

    Parameters
    ----------
    scene, specimen, engine
        What to render.
    causes
        Names in ``CAUSES``.
    exclude
        Masks that the scene's own information leaves out (the twin has nothing to leave out).
    rendered
        The scene already rendered with the same engine, to save time.
    """
    actual = render_micrograph(scene, specimen, engine) if rendered is None else rendered
    twin = render_micrograph(intervene(scene, *causes), specimen, engine)
    return information_of(twin).bits - information_of(actual, exclude=exclude).bits


def _taper(shape: tuple[int, int], fraction: float = 0.06) -> Tensor:
    """Window (y, x) that falls to zero as a cosine over a fraction of each edge."""

    def one(n: int) -> Tensor:
        x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        edge = torch.minimum(x, 1 - x) / fraction
        return 0.5 - 0.5 * torch.cos(torch.pi * edge.clamp_max(1.0))

    return one(shape[0])[:, None] * one(shape[1])[None, :]


def _windowed(image: Tensor, window: Tensor) -> Tensor:
    values = image.double()
    mean = (values * window).sum() / window.sum()
    return rfft2((values - mean) * window)


def _patches(shape: tuple[int, int], pixel: float, sectors: int, least: int, width: int) -> tuple[Tensor, int, Tensor]:
    """Patch of each coefficient of the half grid (-1 beyond Nyquist and at zero), number of rings, middles [1/Å]."""
    ky, kx = frequency_grid(shape, pixel)
    k = torch.sqrt(ky * ky + kx * kx)
    nyquist = 0.5 / pixel
    step = 1.0 / (min(shape) * pixel)
    population = shape[0] * shape[1] * pixel**2  # coefficients per unit of frequency area
    edges = [0.0]
    while edges[-1] < nyquist:
        area = sectors * least / (0.5 * torch.pi * population)  # half plane: π (b² - a²) / 2 × population
        edges.append(max(edges[-1] + width * step, (edges[-1] ** 2 + area) ** 0.5))
    if len(edges) > 2:
        edges.pop()
    edges[-1] = nyquist
    boundaries = torch.tensor(edges)
    ring = torch.bucketize(k.contiguous(), boundaries, right=True) - 1
    angle = torch.atan2(ky.expand_as(k), kx.expand_as(k))  # -90° … 90° on the half grid
    sector = ((angle / torch.pi + 0.5) * sectors).long() % sectors
    patch = torch.where((ring >= 0) & (ring < len(edges) - 1) & (k > 0), ring * sectors + sector, -1)
    return patch, len(edges) - 1, 0.5 * (boundaries[1:] + boundaries[:-1])
