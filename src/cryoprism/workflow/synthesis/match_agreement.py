"""Whether the real micrographs show the specimen at all: their mean particle beside the map's own."""

from __future__ import annotations

import warnings

from cryoprism.core import CryoPrismWarning, InputError
from cryoprism.synthesis import MatchedMicrograph, SessionMatch

__all__ = ["LEAST_AGREEMENT", "agreement_words", "require_agreement"]

#: Correlation of mean particles; with the right map real sessions have 0.88 to 0.99.
LEAST_AGREEMENT = 0.8
_NONE = 0.3
_FEWEST = 8  # whole particles in the field, by the density there: the mean of fewer says little


def _judged(match: SessionMatch) -> list[MatchedMicrograph]:
    def particles(one: MatchedMicrograph) -> float:
        scene = one.scene
        pixels = scene.width_in_pixels * scene.height_in_pixels
        return one.density_in_inverse_square_micrometers * pixels * scene.pixel_size_in_angstroms**2 * 1e-8

    return [one for one in match.micrographs if particles(one) >= _FEWEST]


def agreement_words(match: SessionMatch) -> str:
    """Say how many real micrographs do not show the map's particle; nothing where all do."""
    judged = _judged(match)
    low = [one.agreement for one in judged if not one.agreement >= LEAST_AGREEMENT]
    if not low:
        return ""
    where = "on the real micrograph" if len(judged) == 1 else f"on {len(low)} of {len(judged)} real micrographs"
    return (
        f"The mean particle {where} agrees with the map to {min(low):.2f}"
        + (" at the least" if len(low) > 1 else "")
        + f", below {LEAST_AGREEMENT:g}: contrast and noise may be those of something else"
    )


def require_agreement(match: SessionMatch, *, single_particles: bool = True) -> None:
    """Warn where the mean particle of real micrographs is not the map's.

    Raises
    ------
    InputError
        It is nowhere like it. Not for filaments (``single_particles`` is False), whose units overlap in any mean.
    """
    judged = _judged(match)
    if judged and single_particles and not any(one.agreement >= _NONE for one in judged):
        best = max(one.agreement for one in judged)
        raise InputError(
            "--map",
            f"is not what the real micrographs show: their mean particle agrees with it to {best:.2f} at best "
            "(1 is the same)",
            "Check that it is this specimen, its voxel size, --diameter and the picks (--coordinates).",
        )
    if words := agreement_words(match):
        remedy = "Check the map, its voxel size, --diameter and the picks."
        warnings.warn(CryoPrismWarning(f"{words}. {remedy}"), stacklevel=2)
