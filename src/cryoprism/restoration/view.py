"""The view: a micrograph for eyes and pickers, deconvolved and denoised by the fitted spectra, linear from the pixels.

Wiener estimate of the specimen signal (Wiener 1949; Penczek 2010, Methods in Enzymology 482, 73)::

    view = F⁻¹[W · F(image - background)],    W = H·S / (H²·S + N)

It corrects the CTF, the envelopes and the detector's MTF, and returns to zero wherever the image says nothing.
Particles are dark as recorded: nothing is inverted. Only a defective pixel is replaced and only a reflection of ice is
cut; all else is linear in the image. The view is never to be used for a reconstruction or a resolution (see decision
5).

The residual is kept on the side of the measured image::

    image = removed_background + F⁻¹[H · F(view)] + residual

so it has the particle's part N/(H²S + N) that the filter could not tell from noise, and nothing but noise where the
signal was clear. A structure that is sharp in the residual was eaten. (Image minus view would not show that: it differs
by the CTF's fringes everywhere.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoprism.core import InputError, generator_for

from ._model import FittedModel, SpectralTable, tabulate
from .background import Background, fit_background
from .crystalline import IceSuppression
from .defects import Defects, _replace, find_defects
from .low_frequencies import continue_to_low_frequencies
from .masks import ArtefactMask, artefact_mask
from .wiener import SignalSupport, deconvolve, pass_band, signal_cutoff, signal_support

__all__ = ["View", "restore_view"]


@dataclass(frozen=True)
class View:
    """A restored micrograph with what belongs beside it; all (h, w).

    Attributes
    ----------
    view
        Specimen signal [grey units of the image], zero mean, particles dark.
    residual
        What was taken away [grey units]: image - background - view seen through the fitted transfer.
    deviation
        Posterior standard deviation of each pixel of the view [grey units].
    mask
        uint8 labels: 0 good, 1 defect, 2 contamination, 3 carbon, 4 crystalline ice.
    removed_background
        Slow background [grey units].
    support
        Evidence for signal in this image.
    resolution_limit_in_angstroms
        Finest spacing in the view; finer ones have a signal-to-noise ratio below 0.001.
    prior_deviation
        Standard deviation of the specimen signal before looking [grey units].
    artefacts, defects, background, ice
        How the mask, the replaced pixels, the background and the ice reflections came about.
    focal_planes
        Number of defocus values that the field was divided into.
    """

    view: Tensor
    residual: Tensor
    deviation: Tensor
    mask: Tensor
    removed_background: Tensor
    support: SignalSupport
    resolution_limit_in_angstroms: float
    prior_deviation: float
    artefacts: ArtefactMask
    defects: Defects
    background: Background
    ice: IceSuppression
    focal_planes: int


def restore_view(
    image: Tensor,
    model: FittedModel,
    *,
    seed: int = 0,
    name: str = "",
    defects: Defects | None = None,
    artefacts: ArtefactMask | None = None,
    background_order: int = 3,
    correct_ice: bool = True,
) -> View:
    """Restore one micrograph for viewing and picking.

    Parameters
    ----------
    image
        (h, w) as recorded [any grey unit]; not changed.
    model
        Its fitted spectra.
    seed, name
        Give the grey values of replaced pixels; same seed and name, same view.
    defects, artefacts
        Results of :func:`find_defects` and :func:`artefact_mask` if they are at hand; computed otherwise.
    background_order
        Degree of the polynomial that is removed.
    correct_ice
        Suppress reflections of crystalline ice.

    Raises
    ------
    InputError
        The image is not two-dimensional, is too small, or the model is not usable.
    """
    if image.ndim != 2:
        raise InputError("image", f"shape {tuple(image.shape)}", "Give one micrograph; sum a movie first.")
    image = image.detach()
    shape = (image.shape[0], image.shape[1])
    table = tabulate(model)
    defects = find_defects(image) if defects is None else defects
    work = image.to(torch.float32, copy=True)
    _replace(work, defects.mask, generator_for(seed, "defects", name))
    bad = torch.from_numpy(np.flatnonzero(defects.mask.numpy()))
    recorded, replaced = image.reshape(-1)[bad].float(), work.view(-1)[bad]
    if artefacts is None:
        artefacts = artefact_mask(work, model.pixel_size_in_angstroms)
    background = fit_background(work, order=background_order, ignore=artefacts.labels > 0)
    removed = background.field()
    work -= removed

    band = pass_band(shape, table)
    coefficients = band.forward(work)
    support = signal_support(coefficients, band, model)
    if support.factor > 0.0:
        model = continue_to_low_frequencies(coefficients, band, model)
        table = tabulate(model)
    view, reblurred, ice, planes = deconvolve(coefficients, band, model, table, support.factor, correct_ice)
    # The image's own memory becomes the residual: a fresh array of this size costs more than the subtraction.
    residual = work.sub_(reblurred)
    del reblurred, coefficients
    deviation, prior = _deviation(residual, table, support.factor, artefacts)
    if bad.numel():
        jump = recorded - replaced
        residual.view(-1)[bad] += torch.where(torch.isfinite(jump), jump, 0.0)
        deviation.view(-1)[bad] = prior
    return View(
        view=view,
        residual=residual,
        deviation=deviation,
        mask=artefacts.full_labels(defects.mask),
        removed_background=removed,
        support=support,
        resolution_limit_in_angstroms=1.0 / signal_cutoff(table),
        prior_deviation=prior,
        artefacts=artefacts,
        defects=defects,
        background=background,
        ice=ice,
        focal_planes=planes,
    )


def _deviation(residual: Tensor, table: SpectralTable, factor: float, artefacts: ArtefactMask) -> tuple[Tensor, float]:
    """Compute the standard deviation (h, w) of view minus specimen signal, and that of the signal itself.

    Variance per pixel: mean over all coefficients of (1 - WH)²·S + W²·f·N with the local noise level f relative to the
    field's mean; at f = 1 that is the posterior variance S·N/(H²S + N), elsewhere the error of this same filter.
    Inside an artefact the model of the specimen does not hold: prior deviation.
    """
    signal = factor * table.signal
    power = (table.transfer_squared * signal + table.noise).clamp_min(1e-30)
    prior = math.sqrt(float((signal * table.density).sum(dtype=torch.float64)))
    missed = float((signal * (table.noise / power).square() * table.density).sum(dtype=torch.float64))
    passed = float(
        (table.transfer_squared * signal.square() * table.noise / power.square() * table.density).sum(
            dtype=torch.float64
        )
    )
    coarse = missed + passed * _local_noise(residual)
    grid = artefacts.labels.shape
    coarse = torch.nn.functional.interpolate(coarse[None, None], size=grid, mode="bilinear", align_corners=False)[0, 0]
    coarse = torch.where(artefacts.labels > 0, prior, coarse.sqrt())
    height, width = residual.shape
    full = torch.nn.functional.interpolate(
        coarse[None, None], size=(height, width), mode="bilinear", align_corners=False
    )
    return full[0, 0], prior


def _local_noise(residual: Tensor) -> Tensor:
    """Noise variance of blocks over its mean, from differences between neighbouring pixels."""
    height, width = residual.shape
    by, bx = max(1, height // 64), max(1, width // 64)
    sy, sx = height // by, width // bx
    block = residual[: by * sy, : bx * sx].reshape(by, sy, bx, sx)[:, ::2]
    power = (block[..., 1:] - block[..., :-1]).square_().mean(dim=(1, 3))
    if min(by, bx) >= 3:  # a block's own estimate has a few per cent of chance in it
        power = torch.nn.functional.avg_pool2d(power[None, None], 3, 1, 1, count_include_pad=False)[0, 0]
    # Contamination is rough; it must not lower everything else.
    return power / power.clamp_max(4.0 * float(power.median())).mean().clamp_min(1e-30)
