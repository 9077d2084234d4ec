"""Which causes the data of one micrograph determine, and why the others are abstained on."""

from __future__ import annotations

import math

import torch

from .estimate import Estimate
from .evidence import ring_windows
from .graph import CAUSES
from .model import B_UNIT, LAYOUT

__all__ = ["abstentions"]


def abstentions(estimate: Estimate) -> dict[str, str]:
    """Causes that are not identifiable from this micrograph, each with the reason in words.

    A fitted cause is determined when its posterior is clearly narrower than its prior; drift has to stand clear of
    zero by three standard deviations and blur clear of the session's sharpest micrographs by two, since every spectrum
    is a little uneven.
    """
    reasons = {name: CAUSES[name].unidentifiable_when for name in ("beam_tilt", "heterogeneity", "crowding")}
    reasons["coincidence"] = CAUSES["coincidence"].unidentifiable_when
    fit, known = estimate.fit, estimate.known
    if not estimate.rings.detected:
        for name in ("defocus", "astigmatism", "phase_shift", "motion", "envelope", "tilt"):
            reasons[name] = "no Thon rings rise above the noise"
    else:
        prior = fit.prior.standard_deviation
        b = LAYOUT.index("b_factor")
        blur = (fit.value("b_factor")) * B_UNIT - fit.prior.sharpest_b_factor
        if fit.deviation("b_factor") > 0.75 * float(prior[b]) or blur < 2 * fit.deviation("b_factor") * B_UNIT:
            reasons["envelope"] = CAUSES["envelope"].unidentifiable_when
        drift = torch.stack([fit.theta[LAYOUT.index("drift_y")], fit.theta[LAYOUT.index("drift_x")]])
        length = float(drift.norm())
        index = [LAYOUT.index("drift_y"), LAYOUT.index("drift_x")]
        direction = drift / max(length, 1e-6)
        deviation = math.sqrt(max(float(direction @ fit.covariance[index][:, index] @ direction), 0.0))
        # A length of two noisy components passes 2 σ by chance in one of eight; 3.03 σ in one of a hundred.
        if length < 1.0 or length < 3.03 * deviation:
            reasons["motion"] = CAUSES["motion"].unidentifiable_when
        if min(estimate.spectrum.shape) < 3 * estimate.spectrum.grid.edge:
            reasons["tilt"] = CAUSES["tilt"].unidentifiable_when
    if not estimate.phase_is_free:
        reasons["phase_shift"] = CAUSES["phase_shift"].unidentifiable_when
    if not bool(ring_windows(estimate.spectrum.grid).any()):
        reasons["crystalline_ice"] = CAUSES["crystalline_ice"].unidentifiable_when
    if estimate.thickness is None:
        reasons["ice_thickness"] = CAUSES["ice_thickness"].unidentifiable_when
    if known.exposure_in_electrons_per_square_angstrom is None:
        reasons["damage"] = CAUSES["damage"].unidentifiable_when
        reasons["exposure"] = CAUSES["exposure"].unidentifiable_when
    if known.mtf_squared is None:
        reasons["detector"] = CAUSES["detector"].unidentifiable_when
    if not (known.semi_angle_in_milliradians or known.focal_spread_in_angstroms):
        reasons["coherence"] = CAUSES["coherence"].unidentifiable_when
    return {name: reasons[name] for name in CAUSES if name in reasons}
