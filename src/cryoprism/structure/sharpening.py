"""Guinier plot, B-factor, and sharpening with weights from the FSC."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.core import InputError
from cryoprism.formats import Mtf

from .fsc import cosine_edge, radial_filter, rfft3, shell_frequencies, shell_sums

__all__ = ["Guinier", "Sharpening", "fit_guinier", "fsc_weights", "guinier_plot", "sharpen"]

_COARSEST_OF_FIT = 10.0
_FEWEST_SHELLS = 4


@dataclass(frozen=True, eq=False)
class Guinier:
    """Logarithm of the mean amplitude by shell, and the line through it.

    Attributes
    ----------
    frequency, logarithm
        (shells,) [1/Å] and ln⟨|F|⟩; not finite where nothing is.
    b_factor_in_square_angstroms
        4 × slope of ln⟨|F|⟩ over 1/d²: negative for a map that falls off, the B-factor that sharpens it (RELION's
        sign). None where it cannot be told; ``reason`` says why.
    standard_deviation_in_square_angstroms
        Of the fit.
    intercept
        Of the line.
    fitted_from_in_angstroms, fitted_to_in_angstroms
        Range of the fit, coarse and fine end.
    reason
        Why there is no B-factor; empty if there is one.
    """

    frequency: Tensor
    logarithm: Tensor
    b_factor_in_square_angstroms: float | None
    standard_deviation_in_square_angstroms: float | None
    intercept: float | None
    fitted_from_in_angstroms: float | None
    fitted_to_in_angstroms: float | None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Sharpening:
    """A sharpened map (z, y, x) and the Guinier plots before and after weighting and sharpening."""

    data: Tensor
    weighted: Guinier
    original: Guinier
    sharpened: Guinier
    low_pass_in_angstroms: float | None


def guinier_plot(volume: Tensor, voxel_size_in_angstroms: float) -> tuple[Tensor, Tensor]:
    """Frequency [1/Å] and ln of the mean amplitude |F| of each shell of a volume (z, y, x), both (shells,) double.

    F is the transform divided by the number of voxels, as in RELION.
    """
    shape = (int(volume.shape[0]), int(volume.shape[1]), int(volume.shape[2]))
    amplitude = rfft3(volume).abs() / volume.numel()
    mean = shell_sums(amplitude, shape) / shell_sums(None, shape, volume.device)
    return shell_frequencies(shape, voxel_size_in_angstroms), mean.log().cpu()


def fit_guinier(
    frequency: Tensor,
    logarithm: Tensor,
    *,
    finest_in_angstroms: float,
    coarsest_in_angstroms: float = _COARSEST_OF_FIT,
) -> Guinier:
    """Straight line through a Guinier plot between two resolutions; its slope times 4 is the B-factor.

    Rosenthal & Henderson (2003), J. Mol. Biol. 333, 721. Coarser than 10 Å the molecule's shape, not Wilson's
    statistics of atoms, makes the amplitudes; with fewer than four shells between 10 Å and the resolution there is no
    fit.
    """
    chosen = (
        (frequency >= 1 / coarsest_in_angstroms)
        & (frequency <= 1 / finest_in_angstroms * (1 + 1e-9))
        & torch.isfinite(logarithm)
    )
    count = int(chosen.sum())
    if count < _FEWEST_SHELLS:
        reason = (
            f"at a resolution of {finest_in_angstroms:.3g} Å the molecule's shape, not its atoms, makes the amplitudes"
            if finest_in_angstroms >= coarsest_in_angstroms
            else f"only {count} shells lie between {coarsest_in_angstroms:g} Å and the resolution of "
            f"{finest_in_angstroms:.3g} Å: too few for a slope"
        )
        return Guinier(frequency, logarithm, None, None, None, None, None, reason)
    x, y = frequency[chosen] ** 2, logarithm[chosen]
    dx = x - x.mean()
    slope = float((dx * y).sum() / dx.square().sum())
    intercept = float(y.mean()) - slope * float(x.mean())
    residual = y - intercept - slope * x
    error = math.sqrt(float(residual.square().sum()) / (count - 2) / float(dx.square().sum()))
    return Guinier(frequency, logarithm, 4 * slope, 4 * error, intercept, coarsest_in_angstroms, finest_in_angstroms)


def fsc_weights(fsc: Tensor) -> Tensor:
    """C_ref = √(2 FSC / (1 + FSC)) by shell: expected correlation of the averaged map with the truth; 0 below FSC = 0.

    From the first shell below 0.0001 on everything is 0, so that chance agreement at high frequency stays out.
    """
    weight = (2 * fsc.clamp_min(0) / (1 + fsc.clamp_min(0))).sqrt()
    weight[0] = 1.0
    dead = torch.nonzero(fsc[1:] < 1e-4).flatten()
    if dead.numel():
        weight[int(dead[0]) + 1 :] = 0.0
    return weight


def sharpen(
    volume: Tensor,
    voxel_size_in_angstroms: float,
    fsc: Tensor,
    *,
    resolution_in_angstroms: float | None,
    b_factor_in_square_angstroms: float | None = None,
    mtf: Mtf | None = None,
    mtf_pixel_size_in_angstroms: float | None = None,
    low_pass: bool = True,
) -> Sharpening:
    """Divide by the detector's MTF, weight by the FSC, sharpen by the B-factor, and filter to the resolution.

    Parameters
    ----------
    volume
        Unfiltered mean of the half maps (z, y, x).
    voxel_size_in_angstroms
        [Å].
    fsc
        Corrected FSC of the halves, (shells,).
    resolution_in_angstroms
        Fine end of the fit and of the map; None (halves that do not agree at all) leaves the map as it is.
    b_factor_in_square_angstroms
        Negative sharpens; fitted after weighting if absent. A fitted B above zero, or one that its own uncertainty
        reaches, is not applied.
    mtf, mtf_pixel_size_in_angstroms
        Detector curve, and the pixel size of the micrographs [Å] if the map was down-scaled.
    low_pass
        Whether to end the map at the resolution.

    Raises
    ------
    InputError
        The FSC has not one value per shell, or the MTF vanishes below Nyquist.
    """
    frequency, logarithm = guinier_plot(volume, voxel_size_in_angstroms)
    if fsc.shape != frequency.shape:
        raise InputError("fsc", f"{fsc.numel()} values for {frequency.numel()} shells", "Give one value per shell.")
    finest = resolution_in_angstroms or 2 * voxel_size_in_angstroms
    gain = fsc_weights(fsc.double()) if resolution_in_angstroms is not None else torch.ones_like(frequency)
    if mtf is not None:
        curve = mtf.at((frequency * (mtf_pixel_size_in_angstroms or voxel_size_in_angstroms)).float()).double()
        if bool((curve[gain > 0] <= 1e-3).any()):
            raise InputError("--mtf", "the curve falls to 0 inside the map's frequencies", "Check its pixel size.")
        gain = torch.where(gain > 0, gain / curve.clamp_min(1e-3), 0.0)
    weighted = fit_guinier(frequency, logarithm + gain.log(), finest_in_angstroms=finest)
    b_factor = b_factor_in_square_angstroms
    if b_factor is None:
        b_factor, error = weighted.b_factor_in_square_angstroms, weighted.standard_deviation_in_square_angstroms
        if resolution_in_angstroms is None or b_factor is None or error is None or b_factor > -error:
            b_factor = 0.0
    gain = gain * torch.exp(-0.25 * b_factor * frequency.square())
    if low_pass and resolution_in_angstroms is not None:
        gain = gain * cosine_edge(frequency, 1 / resolution_in_angstroms)
    result = radial_filter(volume, gain)
    return Sharpening(
        result,
        weighted,
        fit_guinier(frequency, logarithm, finest_in_angstroms=finest),
        fit_guinier(frequency, logarithm + gain.log(), finest_in_angstroms=finest),
        resolution_in_angstroms if low_pass else None,
    )
