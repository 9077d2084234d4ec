"""What to leave out: duplicates, particles in both half sets, junk, and micrographs that carry too little."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.spatial
import scipy.special
import torch
from torch import Tensor

from cryoprism.core import InputError, frequency_magnitude, half_plane_weights, rfft2
from cryoprism.formats import Particles

from ._same_images import same_images

__all__ = [
    "MicrographSelection",
    "find_duplicate_particles",
    "find_duplicates",
    "junk_features",
    "junk_probability",
    "junk_score",
    "leaked_halves",
    "positions_in_angstroms",
    "select_micrographs",
]

_NAMES_SHOWN = 3


def find_duplicates(
    xy_in_angstroms: Tensor,
    min_distance_in_angstroms: float,
    *,
    micrographs: Sequence[str] | None = None,
    figure_of_merit: Tensor | None = None,
) -> Tensor:
    """Mark particles that lie nearer than a distance to a better (or, without figures of merit, earlier) one.

    Parameters
    ----------
    xy_in_angstroms
        (n, 2) positions; on one micrograph, or on those that ``micrographs`` names row by row.
    min_distance_in_angstroms
        0 marks nothing.
    micrographs
        (n,) names; only particles of the same micrograph can be duplicates.
    figure_of_merit
        (n,) higher is better; ties go to the earlier row.

    Returns
    -------
    Tensor
        (n,) bool, True for those to leave out. No two of the others are nearer than the distance.
    """
    count = xy_in_angstroms.shape[0]
    drop = np.zeros(count, dtype=bool)
    if count == 0 or min_distance_in_angstroms <= 0:
        return torch.from_numpy(drop)
    order = (
        np.arange(count)
        if figure_of_merit is None
        else torch.argsort(figure_of_merit, descending=True, stable=True).numpy()
    )
    for better, worse in _close_pairs(xy_in_angstroms, min_distance_in_angstroms, micrographs, order):
        if not drop[better]:
            drop[worse] = True
    return torch.from_numpy(drop)


def _close_pairs(
    xy: Tensor, distance: float, micrographs: Sequence[str] | None, order: np.ndarray
) -> list[tuple[int, int]]:
    """Rows (better, worse) of every pair nearer than the distance, sorted by the better one's place in ``order``."""
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    points = xy.detach().cpu().double().numpy()
    if not np.isfinite(points).all():
        raise InputError("positions", "a coordinate is not finite", "Correct or delete that row.")
    names = np.zeros(len(order), dtype=np.int64)
    if micrographs is not None:
        names = np.unique(np.array(micrographs, dtype=str), return_inverse=True)[1]
    found: list[tuple[int, int]] = []
    by_name = np.argsort(names, kind="stable")
    for members in np.split(by_name, np.flatnonzero(np.diff(names[by_name])) + 1):
        pairs = scipy.spatial.cKDTree(points[members]).query_pairs(distance, output_type="ndarray")
        pairs = members[pairs]
        near = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1) < distance
        swap = rank[pairs[:, 0]] > rank[pairs[:, 1]]
        pairs[swap] = pairs[swap][:, ::-1]
        found += [(int(one), int(other)) for one, other in pairs[near]]
    return sorted(found, key=lambda pair: rank[pair[0]])


def positions_in_angstroms(particles: Particles) -> Tensor:
    """Where the particles are on their micrographs [Å], (n, 2) x, y: coordinates minus origins.

    Where the table does not give the micrograph's pixel size, that of the images is taken: the two are the same unless
    the particles were rescaled.

    Raises
    ------
    InputError
        The table has no coordinates.
    """
    if particles.coordinates_in_pixels is None:
        raise InputError(
            particles.source or "particles",
            "gives no coordinates (rlnCoordinateX, rlnCoordinateY)",
            "Use the table that the particles were extracted with.",
        )
    pixel = particles.micrograph_pixel_size_in_angstroms
    pixel = particles.pixel_size_in_angstroms if pixel is None else pixel
    position = particles.coordinates_in_pixels.double() * pixel[:, None].double()
    return position if particles.origins_in_angstroms is None else position - particles.origins_in_angstroms.double()


def find_duplicate_particles(
    particles: Particles, min_distance_in_angstroms: float, *, figure_of_merit: Tensor | None = None
) -> Tensor:
    """Mark particles of a table that lie on another one, alignment included; see :func:`find_duplicates`.

    Two picks of the same molecule meet when alignment brings both to its centre. Find them before half sets are split.

    Raises
    ------
    InputError
        The table has no coordinates or no micrograph names.
    """
    if particles.micrograph_names is None:
        raise InputError(
            particles.source or "particles", "gives no rlnMicrographName", "Add the micrograph of each particle."
        )
    return find_duplicates(
        positions_in_angstroms(particles),
        min_distance_in_angstroms,
        micrographs=particles.micrograph_names,
        figure_of_merit=figure_of_merit,
    )


def leaked_halves(particles: Particles, *, min_distance_in_angstroms: float = 20.0, contents: bool = True) -> None:
    """Refuse a table in which one particle stands in both half sets: its half maps would share noise.

    Found are: the same image name (the same image of the same file, however it is written); images with the same
    pixels; the same place on the same micrograph, origins included.

    Parameters
    ----------
    particles
        Half sets in ``half_set``; without them nothing can leak.
    min_distance_in_angstroms
        Particles of one micrograph nearer than this are the same; 0 leaves places out of it.
    contents
        Whether pixels are compared; only images that share their middle row are read as a whole.

    Raises
    ------
    InputError
        A particle is in both half sets; names the rows. Or images cannot be read.
    """
    half = particles.half_set
    if half is None or len(particles) < 2:
        return
    where = particles.source or "particles"
    files: dict[str, str] = {}

    def absolute(name: str) -> str:
        number, _, plain = name.rpartition("@")
        if plain not in files:
            beside = Path(where).parent / plain
            files[plain] = os.path.realpath(beside if beside.exists() else plain)
        return f"{int(number) if number.isdigit() else 1}@{files[plain]}"

    _refuse(where, "names the same image", [absolute(name) for name in particles.image_names], half)
    if particles.coordinates_in_pixels is not None and particles.micrograph_names is not None:
        pairs = _close_pairs(
            positions_in_angstroms(particles),
            min_distance_in_angstroms,
            particles.micrograph_names,
            np.arange(len(particles)),
        )
        leaks = [pair for pair in pairs if half[pair[0]] != half[pair[1]]] if min_distance_in_angstroms > 0 else []
        if leaks:
            raise _leak(where, f"lies within {min_distance_in_angstroms:g} Å on the same micrograph", leaks)
    if contents:
        _refuse(where, "has the same pixels", same_images(particles).tolist(), half)


def _refuse(where: str, what: str, keys: Sequence[object], half: Tensor) -> None:
    first: dict[object, int] = {}
    leaks = []
    for row, (key, number) in enumerate(zip(keys, half.tolist(), strict=True)):
        other = first.setdefault(key, row)
        if other != row and int(half[other]) != number:
            leaks.append((other, row))
    if leaks:
        raise _leak(where, what, leaks)


def _leak(where: str, what: str, pairs: Sequence[tuple[int, int]]) -> InputError:
    shown = ", ".join(f"{one + 1} and {other + 1}" for one, other in pairs[:_NAMES_SHOWN])
    more = f" and {len(pairs) - _NAMES_SHOWN} more" if len(pairs) > _NAMES_SHOWN else ""
    return InputError(
        where,
        f"the half sets share particles: what rlnRandomSubset puts into different halves {what} (rows {shown}{more})",
        "Remove duplicates, then split the halves again (delete the column rlnRandomSubset).",
    )


def junk_features(images: Tensor) -> Tensor:
    """Five numbers that tell ice, edges and aggregates from particles, (n, 5) float64.

    Logarithms of: the variance inside the circle of 75 % of the box; the power below 3 cycles per box and that between
    3 and 8; the largest |pixel|; and the excess kurtosis (as asinh).

    Parameters
    ----------
    images
        (n, box, box), normalised.
    """
    box = images.shape[-1]
    radius = frequency_magnitude((box, box), 1.0) * box
    weights = half_plane_weights(box).expand(box, -1)
    axis = torch.arange(box) - box // 2
    inside = (axis[:, None] ** 2 + axis[None, :] ** 2 <= (0.375 * box) ** 2).flatten()
    parts = []
    for block in (images[begin : begin + 256].float() for begin in range(0, images.shape[0], 256)):
        flat = block.flatten(1)
        middle = flat[:, inside]
        power = rfft2(block).abs().square() * weights / box**4
        low = power[:, (radius > 0) & (radius < 3)].sum(1)
        mid = power[:, (radius >= 3) & (radius < 8)].sum(1)
        centred = flat - flat.mean(1, keepdim=True)
        variance = centred.square().mean(1)
        kurtosis = centred.pow(4).mean(1) / variance.square().clamp_min(1e-20) - 3
        columns = [middle.var(1), low, mid, flat.abs().amax(1)]
        parts.append(torch.stack([*(c.clamp_min(1e-20).log() for c in columns), kurtosis.asinh()], dim=1))
    return torch.cat(parts).double() if parts else torch.empty(0, 5, dtype=torch.float64)


def junk_score(images: Tensor) -> Tensor:
    """Probability of each image (n, box, box) to be none of the majority's kind; see :func:`junk_probability`."""
    return junk_probability(junk_features(images))


def junk_probability(features: Tensor, *, spread_of_junk: float = 6.0) -> Tensor:
    """Probability of each image to be none of the majority's kind, (n,) float64 from 0 to 1.

    Centre and covariance come from the half of the images that hangs together best (concentration steps of the minimum
    covariance determinant, Rousseeuw & Van Driessen 1999, Technometrics 41, 212); squared distances d² are scaled so
    that their median is that of χ² with as many degrees of freedom as features. They are then a mixture of that χ² and
    of the same with all deviations ``spread_of_junk`` times larger; the share of the second is found by expectation
    and maximisation, and the score is the posterior of the second. It rises with the distance.

    The score knows the look of one image, not what is in it: it finds what sticks out, and nothing where most is junk.

    Parameters
    ----------
    features
        (n, m) of :func:`junk_features`; at least 20 rows for a judgement, 0 is returned for fewer.
    spread_of_junk
        See above.
    """
    count, dimension = features.shape
    if count < 20:
        return torch.zeros(count, dtype=torch.float64)
    centre = features.median(0).values
    spread = 1.4826 * (features - centre).abs().median(0).values
    scaled = (features - centre) / spread.clamp_min(1e-9)
    distance = scaled.square().sum(1)
    for _ in range(30):
        half = distance.argsort()[: max(count // 2, dimension + 2)]
        core = scaled[half]
        covariance = torch.cov(core.T) + 1e-6 * torch.eye(dimension, dtype=torch.float64)
        offset = scaled - core.mean(0)
        new = (offset @ torch.linalg.inv(covariance) * offset).sum(1)
        if torch.allclose(new, distance):
            break
        distance = new
    # Median of χ²; scipy.stats has it too, but takes half a second to import.
    median = 2.0 * float(scipy.special.gammaincinv(0.5 * dimension, 0.5))
    distance = distance * (median / float(distance.median().clamp_min(1e-12)))
    # Densities up to a common factor: Gaussian in `dimension` directions, narrow and wide.
    log_good = -0.5 * distance
    log_junk = -0.5 * distance / spread_of_junk**2 - dimension * math.log(spread_of_junk)
    share = 0.05
    posterior = torch.zeros_like(distance)
    for _ in range(200):
        posterior = torch.sigmoid(log_junk - log_good + math.log(share / (1 - share)))
        new_share = min(max(float(posterior.mean()), 1e-4), 0.5)
        if abs(new_share - share) < 1e-6:
            break
        share = new_share
    return posterior


@dataclass(frozen=True)
class MicrographSelection:
    """Micrographs to keep, in the order of the document, and for each of the others the reason in a sentence."""

    kept: tuple[str, ...]
    rejected: Mapping[str, str]


def select_micrographs(
    causes: Mapping[str, Any],
    *,
    min_information_share: float | None = None,
    min_information_in_bits: float | None = None,
    max_resolution_in_angstroms: float | None = None,
    max_ice_significance: float | None = None,
    max_astigmatism_in_angstroms: float | None = None,
    max_contamination: float | None = None,
) -> MicrographSelection:
    """Choose micrographs by what a restoration found out about them (``causes.json``).

    A limit that is None is not applied; a quantity that could not be determined rejects nothing, except that a
    micrograph without Thon rings cannot keep a resolution limit.

    Parameters
    ----------
    causes
        Content of ``causes.json``.
    min_information_share
        Least information left, as a share of the session's median.
    min_information_in_bits
        Least information left [bits].
    max_resolution_in_angstroms
        Thon rings have to be fitted to this resolution or finer [Å].
    max_ice_significance
        Largest z-score of crystalline-ice rings.
    max_astigmatism_in_angstroms
        Largest difference between the two defocus values [Å].
    max_contamination
        Largest share of the field under contamination and carbon.

    Raises
    ------
    InputError
        The document holds no micrographs.
    """
    entries = causes.get("micrographs")
    if not entries:
        raise InputError("causes.json", "holds no micrographs", "Give the causes.json of a finished restoration.")
    median = float(np.median([entry["information_in_bits"]["mean"] for entry in entries]))
    kept, rejected = [], {}
    for entry in entries:
        bits, limit = float(entry["information_in_bits"]["mean"]), entry.get("fit_limit_in_angstroms")
        ice = _parameter(entry, "crystalline_ice", "significance")
        astigmatism = _parameter(entry, "astigmatism", "astigmatism")
        dirt = [_parameter(entry, cause, "area_fraction") for cause in ("contamination", "carbon")]
        covered = sum(share for share in dirt if share is not None)
        reasons = []
        if min_information_share is not None and bits < min_information_share * median:
            share = bits / median if median else 0.0
            reasons.append(
                f"{share:.0%} of the session's median information are left, less than {min_information_share:.0%}"
            )
        if min_information_in_bits is not None and bits < min_information_in_bits:
            reasons.append(f"{bits:.0f} bits are left, less than {min_information_in_bits:.0f}")
        if max_resolution_in_angstroms is not None and (limit is None or limit > max_resolution_in_angstroms):
            seen = "no Thon rings rise above the noise" if limit is None else f"Thon rings end at {limit:.1f} Å"
            reasons.append(f"{seen}, {max_resolution_in_angstroms:g} Å are asked for")
        if max_ice_significance is not None and ice is not None and ice > max_ice_significance:
            reasons.append(f"crystalline ice stands {ice:.0f} deviations out, above {max_ice_significance:g}")
        if (
            max_astigmatism_in_angstroms is not None
            and astigmatism is not None
            and abs(astigmatism) > max_astigmatism_in_angstroms
        ):
            reasons.append(f"the astigmatism is {abs(astigmatism):.0f} Å, above {max_astigmatism_in_angstroms:g} Å")
        if max_contamination is not None and covered > max_contamination:
            reasons.append(f"contamination and carbon cover {covered:.0%}, above {max_contamination:.0%}")
        if reasons:
            text = "; ".join(reasons)
            rejected[str(entry["name"])] = text[0].upper() + text[1:] + "."
        else:
            kept.append(str(entry["name"]))
    return MicrographSelection(tuple(kept), rejected)


def _parameter(entry: Mapping[str, Any], cause: str, name: str) -> float | None:
    found = entry["causes"].get(cause, {}).get("parameters", {}).get(name)
    if found is None or found.get("mean") is None or not found.get("identifiable", True):
        return None
    return float(found["mean"])
