"""Whether a model lies in the frame of its map, in words, and residues that belong together as ranges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cryoprism.evaluation.consistency import FINE, Consistency, Envelope, Model, residue_words
from cryoprism.formats import Volume

from .assess_words import ENOUGH
from .scale_of_map import scale_of_map

__all__ = ["ResidueRange", "misfits", "ranges_of", "with_frame_remark"]

#: A shift is named where it brings at least so many into the envelope.
_CONVINCING: Final = 0.8
_MOST_ATOMS: Final = 20_000
#: Molecules whose lengths differ by more are not the same at the same scale; a part of a complex is no shorter.
_OTHER_SIZE: Final = 2.0


@dataclass(frozen=True)
class ResidueRange:
    """Residues of one chain that follow one another in the file."""

    chain: str
    first: str
    last: str
    residues: int

    def words(self) -> str:
        """Return ``Ala 12 to Gly 40 (29 residues)``."""
        return self.first if self.residues == 1 else f"{self.first} to {self.last} ({self.residues:,} residues)"

    def to_json(self) -> dict[str, Any]:
        """Return it as ``assessment.json`` has it."""
        return {"chain": self.chain, "first": self.first, "last": self.last, "residues": self.residues}


def ranges_of(model: Model, residues: Iterable[int]) -> tuple[ResidueRange, ...]:
    """Return residues, given by their places in the file, as ranges in the order of the file."""
    runs: list[list[int]] = []
    for number in sorted(set(residues)):
        one = model.residues[number]
        before = model.residues[runs[-1][-1]] if runs else None
        follows = before is not None and runs[-1][-1] == number - 1
        if follows and before is not None and (before.chain, before.role) == (one.chain, one.role):
            runs[-1].append(number)
        else:
            runs.append([number])
    return tuple(
        ResidueRange(
            model.residues[run[0]].chain,
            residue_words(model.residues[run[0]], chain=False),
            residue_words(model.residues[run[-1]], chain=False),
            len(run),
        )
        for run in runs
    )


def misfits(result: Consistency) -> frozenset[int]:
    """Return the residues outside the envelope of the map, by their places in the file."""
    return frozenset(
        residue
        for rule in result.rules
        if rule.name == "envelope"
        for offender in rule.offenders
        for residue in offender.residues
    )


def with_frame_remark(result: Consistency, volume: Volume | None) -> tuple[Consistency, str | None]:
    """Say why most of a model lies outside its map: another frame, another size, or another molecule.

    Returns
    -------
    Consistency, str or None
        The result with the remark, and the remark; None where at least half of the residues lie within the envelope.
    """
    judged = next((rule.obligations for rule in result.rules if rule.name == "envelope"), 0)
    if volume is None or result.envelope is None or not judged:
        return result, None
    within = 1 - len(misfits(result)) / judged
    if within >= ENOUGH:
        return result, None
    text = _why(result.model, volume, result.envelope, within)
    return replace(result, remarks=(text, *result.remarks)), text


def _why(model: Model, volume: Volume, envelope: Envelope, within: float) -> str:
    heavy = np.flatnonzero(model.kinds < 3)
    places = model.points[heavy[:: max(1, len(heavy) // _MOST_ATOMS)]]
    head = f"Only {100 * within:.0f} % of the residues lie in the map."
    origin = np.array(volume.origin_in_angstroms)
    size = volume.voxel_size_in_angstroms
    data = volume.data.numpy()
    index = np.rint(((places + model.corner) / 1000 - origin) / size).astype(int)
    here = index[((index >= 0) & (index < np.array(data.shape[::-1]))).all(axis=1)]
    if len(here) and float(data[here[:, 2], here[:, 1], here[:, 0]].mean()) < float(data.mean() - data.std()):
        return (
            f"{head} The map is lower at the atoms than around them: its contrast is inverted. Turn it with "
            "'relion_image_handler --i IN --o OUT --multiply_constant -1'."
        )
    start, stop = ((edge(places, axis=0) + model.corner) / 1000 for edge in (np.min, np.max))
    long, filled = float((stop - start).max()), _extent(envelope, size)
    if max(long, filled) > _OTHER_SIZE * min(long, filled):
        return (
            f"{head} The molecule in the map is about {filled:.0f} Å long, the model {long:.0f} Å: the voxel size of "
            f"{size:g} Å (--pixel-size) or the contour (--contour) is wrong, or they are different molecules."
        )
    to_middle = origin + np.array([n // 2 for n in volume.data.shape[::-1]]) * size
    z, y, x = (float(axis.mean()) for axis in np.nonzero(envelope.inside))
    to_centre = origin + np.array([x, y, z]) * size - (places.mean(axis=0) + model.corner) / 1000
    known = {
        f"the model counts from the map's first voxel, which the map's header puts at {_triple(origin)} Å": origin,
        f"the model counts from the map's middle, which the map's header puts at {_triple(to_middle)} Å": to_middle,
        "that brings their centres together; the model is not fitted into this map, or the map has lost its "
        "origin": to_centre,
    }
    if (found := scale_of_map(places / 1000, volume)) is not None:
        return (
            f"{head} The map looks like the model at {found.scale:.2f} times its size (correlation "
            f"{found.correlation:.2f}, at its own size {found.as_it_is:.2f}): its voxels are probably "
            f"{size / found.scale:.2f} Å and not {size:g} Å. Give that size with --pixel-size, or correct the header; "
            "only then look whether the model has to be moved."
        )
    for words, shift in known.items():
        share = _share(places, envelope, shift)
        if np.abs(shift).max() > size and share >= _CONVINCING:
            return (
                f"{head} Moved by {_triple(shift)} Å, {100 * share:.0f} % of its atoms would: {words}. Move the model, "
                "or correct the origin in the map's header."
            )
    return f"{head} The model is not fitted into this map, or this is the map of another molecule."


def _share(places: NDArray[np.int64], envelope: Envelope, shift: NDArray[np.float64]) -> float:
    moved = places + np.rint(1000 * shift).astype(np.int64)
    index = (moved * FINE - np.array(envelope.origin)) // envelope.voxel
    valid = ((index >= 0) & (index < np.array(envelope.inside.shape[::-1]))).all(axis=1)
    x, y, z = index[valid].T
    return float(np.count_nonzero(envelope.inside[z, y, x])) / len(places)


def _extent(envelope: Envelope, size: float) -> float:
    """Longest side of what the contour holds [Å]; single voxels of noise do not make it long."""
    longest = 0.0
    for axis in range(3):
        others = tuple(k for k in range(3) if k != axis)
        profile = np.cumsum(envelope.inside.sum(axis=others))
        low, high = np.searchsorted(profile, (0.01 * profile[-1], 0.99 * profile[-1]))
        longest = max(longest, float(high - low + 1) * size)
    return max(longest - 2 * envelope.margin_in_angstroms, size)


def _triple(values: Sequence[float] | NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in values) + ")"
