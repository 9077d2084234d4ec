"""The data product: parameters and weights for a reconstruction, with the raw pixels left as they are.

RELION multiplies its CTF by ``rlnCtfScalefactor · exp(-rlnCtfBfactor · k² / 4)`` (RELION 3.1, ``CTF::getCTF``): both
act on the amplitude, and a positive B-factor damps. Nothing here filters, denoises or deconvolves an image; the only
pixels that may change are defective ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryoprism.core import InputError, generator_for
from cryoprism.microscope.optics import Lens, contrast_transfer

from ._model import FittedModel, SpectralTable, tabulate
from .defects import Defects, replace_defects
from .gain import GainResidue
from .masks import ArtefactMask

__all__ = [
    "Damping",
    "DataProduct",
    "FittedOptics",
    "FrequencyWeights",
    "data_product",
    "fit_damping",
    "frequency_weights",
    "relative_to_session",
    "relion_columns",
]


@dataclass(frozen=True, kw_only=True)
class FittedOptics:
    """The fitted lens of one micrograph, in RELION's convention.

    Attributes
    ----------
    lens
        Voltage, spherical aberration, amplitude contrast.
    defocus_u_in_angstroms, defocus_v_in_angstroms, defocus_angle_in_degrees
        Defocus [Å], positive for underfocus, and the direction of U counter-clockwise from x [degrees].
    phase_shift_in_degrees
        Phase plate shift [degrees].
    figure_of_merit
        Correlation of fit and data, 0 to 1.
    max_resolution_in_angstroms
        How far the rings were fitted [Å].
    """

    lens: Lens
    defocus_u_in_angstroms: float
    defocus_v_in_angstroms: float
    defocus_angle_in_degrees: float = 0.0
    phase_shift_in_degrees: float = 0.0
    figure_of_merit: float = 0.0
    max_resolution_in_angstroms: float = math.inf

    def transfer(self, ky: Tensor, kx: Tensor) -> Tensor:
        """CTF without any envelope; +amplitude contrast at zero frequency."""
        return contrast_transfer(
            ky,
            kx,
            self.lens,
            defocus_u_in_angstroms=self.defocus_u_in_angstroms,
            defocus_v_in_angstroms=self.defocus_v_in_angstroms,
            defocus_angle_in_degrees=self.defocus_angle_in_degrees,
            phase_shift_in_degrees=self.phase_shift_in_degrees,
        )


@dataclass(frozen=True)
class Damping:
    """Amplitude left of the signal: scale · exp(-B k² / 4).

    Attributes
    ----------
    scale
        Factor at zero frequency.
    b_factor_in_square_angstroms
        B [Å²]; positive damps.
    misfit
        Root mean square of the logarithm of the envelope about this Gaussian, weighted as the fit.
    identified
        False if the micrograph has no signal to fit; then scale is 1 and B is 0, which means unknown.
    """

    scale: float
    b_factor_in_square_angstroms: float
    misfit: float
    identified: bool


@dataclass(frozen=True)
class FrequencyWeights:
    """Signal-to-noise ratio and weight per frequency, free of the CTF's oscillation.

    Attributes
    ----------
    frequency
        (r,) [1/Å].
    angle_in_degrees
        (a,) directions from x towards +y in [0, 180).
    radial_ssnr, directional_ssnr
        (r,) and (a, r): envelope² · S / N where the CTF would be 1.
    radial_weight, directional_weight
        ssnr / (1 + ssnr), from 0 (leave out) to 1 (trust fully).
    noise_weight
        (a, r): 1 / N, scaled to a mean of 1 over all coefficients: the factor on F and on CTF² that whitens the noise.
    """

    frequency: Tensor
    angle_in_degrees: Tensor
    radial_ssnr: Tensor
    directional_ssnr: Tensor
    radial_weight: Tensor
    directional_weight: Tensor
    noise_weight: Tensor


@dataclass(frozen=True)
class DataProduct:
    """What goes to a reconstruction for one micrograph.

    Attributes
    ----------
    columns
        RELION column names without underscore, and values.
    damping
        Scale and B-factor with their quality.
    weights
        Per-frequency weights.
    leave_out
        (h, w) uint8 labels; 0 is good, see :data:`cryoprism.restoration.LABELS`.
    micrograph
        (h, w) raw pixels with only the defective ones replaced, or ``None`` if it was not asked for or nothing is
        defective.
    """

    columns: dict[str, float]
    damping: Damping
    weights: FrequencyWeights
    leave_out: Tensor
    micrograph: Tensor | None


def _ctf(table: SpectralTable, optics: FittedOptics) -> Tensor:
    radians = torch.deg2rad(table.angle_in_degrees)[:, None]
    return optics.transfer(table.frequency * radians.sin(), table.frequency * radians.cos())


def _envelope_squared(table: SpectralTable, ctf: Tensor, directional: bool) -> Tensor:
    """Square of the envelope: Σ H² CTF² / Σ CTF⁴ over angles, or over 64 neighbouring shells of each direction."""
    ctf2 = ctf.square()
    product, norm = table.transfer_squared * ctf2, ctf2.square()
    if not directional:
        return product.sum(0) / norm.sum(0).clamp_min(1e-20)
    width = min(65, 2 * (table.frequency.numel() // 8) + 1)
    smooth = [
        torch.nn.functional.avg_pool1d(v[:, None], width, 1, width // 2, count_include_pad=False)[:, 0]
        for v in (product, norm)
    ]
    return smooth[0] / smooth[1].clamp_min(1e-20)


def frequency_weights(model: FittedModel, optics: FittedOptics) -> FrequencyWeights:
    """Signal-to-noise ratio and weights of one micrograph per frequency and direction."""
    table = tabulate(model)
    ctf = _ctf(table, optics)
    noise = table.noise.clamp_min(1e-30)
    ratio = table.signal / noise
    radial = _envelope_squared(table, ctf, False) * table.signal.mean(0) / noise.mean(0)
    directional = _envelope_squared(table, ctf, True) * ratio
    whitening = 1.0 / noise
    whitening = whitening / (whitening * table.density).sum()
    return FrequencyWeights(
        frequency=table.frequency,
        angle_in_degrees=table.angle_in_degrees,
        radial_ssnr=radial,
        directional_ssnr=directional,
        radial_weight=radial / (1.0 + radial),
        directional_weight=directional / (1.0 + directional),
        noise_weight=whitening,
    )


def fit_damping(model: FittedModel, optics: FittedOptics) -> Damping:
    """Gaussian that describes the fitted envelope best, for ``rlnCtfScalefactor`` and ``rlnCtfBfactor``.

    Weighted straight line through log(envelope) against k², with the weight of a shell its number of coefficients times
    (ssnr / (1 + ssnr))²: where there is no signal the envelope does not matter. The envelope is the ratio of the
    model's transfer to the CTF of ``optics``, so it holds coherence, motion, MTF, damage and √transmission. The
    specimen's own power stays out of the scale: it grows with the number of particles, not with the quality of each.
    """
    table = tabulate(model)
    ctf = _ctf(table, optics)
    envelope2 = _envelope_squared(table, ctf, False)
    ssnr = envelope2 * table.signal.mean(0) / table.noise.mean(0).clamp_min(1e-30)
    weight = (table.density * (ssnr / (1.0 + ssnr)).square()).double()
    use = envelope2 > 1e-12
    weight = torch.where(use, weight, 0.0)
    if float(weight.sum()) * table.angle_in_degrees.numel() < 1e-6:
        return Damping(1.0, 0.0, math.nan, False)
    y = 0.5 * envelope2.clamp_min(1e-12).log().double()
    x = table.frequency.double().square()
    total = weight.sum()
    mx, my = (weight * x).sum() / total, (weight * y).sum() / total
    variance = (weight * (x - mx).square()).sum() / total
    slope = float(((weight * (x - mx) * (y - my)).sum() / total) / variance.clamp_min(1e-30))
    intercept = float(my) - slope * float(mx)
    misfit = math.sqrt(float((weight * (y - intercept - slope * x).square()).sum() / total))
    return Damping(math.exp(intercept), -4.0 * slope, misfit, True)


def relative_to_session(dampings: Sequence[Damping]) -> list[Damping]:
    """Express the scales of a session relative to their geometric mean, as RELION keeps its group scales about 1.

    B-factors stay absolute. Micrographs without an identified damping keep scale 1 and B 0.
    """
    known = [math.log(d.scale) for d in dampings if d.identified]
    mean = sum(known) / len(known) if known else 0.0
    return [replace(d, scale=d.scale / math.exp(mean)) if d.identified else d for d in dampings]


def relion_columns(optics: FittedOptics, damping: Damping) -> dict[str, float]:
    """RELION's per-micrograph CTF columns.

    ``rlnDefocusU/V`` [Å], ``rlnDefocusAngle`` and ``rlnPhaseShift`` [degrees], ``rlnCtfFigureOfMerit``,
    ``rlnCtfMaxResolution`` [Å], ``rlnCtfBfactor`` [Å²], ``rlnCtfScalefactor``.

    Raises
    ------
    InputError
        A value is not finite (an unknown maximum resolution is written as 999 Å).
    """
    limit = optics.max_resolution_in_angstroms
    columns = {
        "rlnDefocusU": optics.defocus_u_in_angstroms,
        "rlnDefocusV": optics.defocus_v_in_angstroms,
        "rlnDefocusAngle": optics.defocus_angle_in_degrees,
        "rlnPhaseShift": optics.phase_shift_in_degrees,
        "rlnCtfFigureOfMerit": optics.figure_of_merit,
        "rlnCtfMaxResolution": limit if math.isfinite(limit) else 999.0,
        "rlnCtfBfactor": damping.b_factor_in_square_angstroms,
        "rlnCtfScalefactor": damping.scale,
    }
    for name, value in columns.items():
        if not math.isfinite(value):
            raise InputError(name, f"{value}", "Fit this micrograph again or leave it out.")
    return {name: float(value) for name, value in columns.items()}


def data_product(
    image: Tensor,
    model: FittedModel,
    optics: FittedOptics,
    *,
    defects: Defects,
    artefacts: ArtefactMask,
    damping: Damping | None = None,
    gain: GainResidue | None = None,
    with_micrograph: bool = False,
    seed: int = 0,
    name: str = "",
) -> DataProduct:
    """Collect the data product of one micrograph.

    Parameters
    ----------
    image
        (h, w) as recorded; not changed.
    model, optics
        Fitted spectra and lens.
    defects, artefacts
        From :func:`find_defects` and :func:`artefact_mask`.
    damping
        Scale and B-factor, for example from :func:`relative_to_session`; fitted from the model if absent.
    gain
        Fixed pattern of the session, divided out of the written micrograph if one was found.
    with_micrograph
        Also return the micrograph with bad pixels replaced (the same pixels as :func:`restore_view` with the same seed
        and name).
    """
    damping = fit_damping(model, optics) if damping is None else damping
    micrograph = None
    patterned = gain is not None and gain.pattern is not None
    if with_micrograph and (patterned or bool(defects.mask.any())):
        corrected = gain.correct(image) if gain is not None else image
        micrograph = replace_defects(corrected.float(), defects.mask, generator_for(seed, "defects", name))
    return DataProduct(
        columns=relion_columns(optics, damping),
        damping=damping,
        weights=frequency_weights(model, optics),
        leave_out=artefacts.full_labels(defects.mask),
        micrograph=micrograph,
    )
