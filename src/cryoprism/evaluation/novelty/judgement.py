"""How new the shape of a map or a model is against an index of known ones, with its nearest neighbours."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cryoprism.evaluation.evidence import Answer, available, not_available

from .calibration import AROUND, Calibration, Crowd, known_probability, shipped_calibration
from .descriptor import DESCRIPTOR, Descriptor, NoShapeError, describe_file
from .entries import Entry
from .index import ShapeIndex
from .states import state_similarity
from .storage import INDEX_REMEDY

__all__ = ["Neighbour", "Novelty", "judge", "novelty_of"]

#: Neighbours whose likelihood ratios are added up; the others are farther and count next to nothing.
_SUMMED: Final = 64
#: A small index is compared in 3Di states whole; of a large one only the neighbours in shape are.
_COMPARED_IN_STATES: Final = 10_000
#: In larger indexes the probability was measured to be wrong by so much that it is said and counted in.
_CALIBRATED: Final = 10_000
_NORMAL_90: Final = 1.645
#: To be new among fewer says little.
_LITTLE: Final = 1000


@dataclass(frozen=True, eq=False)
class Neighbour:
    """An entry near the query.

    Attributes
    ----------
    entry
        What it is.
    distance
        Of the two vectors.
    likelihood_ratio
        How much likelier this distance is for equal shapes than for different ones; None without a calibration.
    probability
        That this entry, of all, is the one with the query's shape; None without a calibration.
    state_similarity
        Of the 3Di states, 0 to 1; None where one of the two is no protein model.
    is_same_file
        Whether the entry was made from this very file.
    """

    entry: Entry
    distance: float
    likelihood_ratio: float | None
    probability: float | None
    state_similarity: float | None
    is_same_file: bool

    def to_json(self) -> dict[str, Any]:
        """Return it for ``novelty.json``."""
        return {
            "name": self.entry.name,
            "source": self.entry.source,
            "kind": self.entry.kind,
            "radius_of_gyration_in_angstroms": self.entry.radius_of_gyration_in_angstroms,
            "volume_in_cubic_angstroms": self.entry.volume_in_cubic_angstroms,
            "distance": self.distance,
            "likelihood_ratio": self.likelihood_ratio,
            "probability": self.probability,
            "state_similarity": self.state_similarity,
            "is_same_file": self.is_same_file,
        }


@dataclass(frozen=True, eq=False)
class Novelty:
    """How new a shape is.

    Attributes
    ----------
    query
        Descriptor of the map or model; None where there is no index.
    value
        1 - probability that the index holds an entry of this shape; None where there is no answer.
    deviation, interval
        Standard deviation and 5 to 95 % of the value over the samples of the calibration's proteins.
    neighbours
        In shape, the nearest first.
    fold_neighbours
        Most alike in 3Di states, the most alike first; empty for maps.
    entries, is_flat, prior
        Entries of the index, whether every one was compared in full, and the prior that it holds the shape.
    reason, remedy
        Where there is no value: why, and how to get one.
    notes
        What to be careful about.
    crowding, crowd
        How many times more strangers are around the query than around most shapes, and the count behind it.
    used
        What the probability comes from: ``shape``, or ``shape and 3Di states``.
    calibration_error
        By how much the probability was wrong on average in measured indexes of this size, where they are so large that
        it counts; deviation and interval hold it.
    """

    query: Descriptor | None
    value: float | None
    deviation: float | None
    interval: tuple[float, float] | None
    neighbours: tuple[Neighbour, ...]
    fold_neighbours: tuple[Neighbour, ...]
    entries: int
    is_flat: bool
    prior: float
    reason: str = ""
    remedy: str = ""
    notes: tuple[str, ...] = ()
    crowding: float | None = None
    crowd: Crowd | None = None
    used: str = ""
    calibration_error: float = 0.0

    def sentences(self) -> tuple[str, ...]:
        """Say it in words, the verdict first."""
        if self.value is None or self.interval is None or not self.neighbours:
            return (self.reason, self.remedy, *self.notes)
        best = self.neighbours[0]
        low, high = self.interval
        said = _verdict(self.value, best.entry.name, self.entries)
        words = [
            f"{said} Novelty {self.value:.2f} ({low:.2f} to {high:.2f}): "
            f"the probability that none of {_shapes(self.entries)} is this one, where {1 - self.prior:.2f} was "
            "expected beforehand.",
            f"The nearest is {best.entry.name} at a distance of {best.distance:.3f}, which is {_times(best)} for "
            "different ones.",
        ]
        if self.calibration_error:
            words.append(
                f"In an index of more than {_CALIBRATED:,} shapes the probability is not calibrated: measured ones of "
                f"this size were wrong by {self.calibration_error:.2f} on average, calling known shapes too new. "
                "Deviation and interval hold that."
            )
        if self.crowding is not None and self.crowd is not None:
            words.append(
                f"Around it lie {_crowded(self.crowding)} most shapes ({self.crowd.count} of {self.crowd.sampled} at "
                f"distances of {AROUND[0]:g} to {AROUND[1]:g}); the probability counts that in."
            )
        if best.is_same_file:
            words.append(f"The index holds this very file: {best.entry.name}.")
        if self.fold_neighbours:
            alike = self.fold_neighbours[0]
            words.append(f"In 3Di states {alike.entry.name} is most alike ({alike.state_similarity:.2f} of 1).")
        words.append(f"The probability comes from {self.used or 'shape'}{'' if ' ' in self.used else ' alone'}.")
        return (*words, *self.notes)

    def answer(self) -> Answer:
        """Return it as one of the answers about a result."""
        if self.value is None or self.deviation is None or self.interval is None:
            return not_available(self.reason, self.remedy, self.evidence())
        return available(self.value, self.deviation, self.sentences(), self.evidence())

    def evidence(self) -> dict[str, Any]:
        """Return everything behind the value, as JSON values."""
        query = self.query
        return {
            "query": None
            if query is None
            else {
                "name": query.entry.name,
                "source": query.entry.source,
                "kind": query.entry.kind,
                "radius_of_gyration_in_angstroms": query.entry.radius_of_gyration_in_angstroms,
                "volume_in_cubic_angstroms": query.entry.volume_in_cubic_angstroms,
                "share_outside": query.share_outside,
            },
            "descriptor": DESCRIPTOR,
            "interval": None if self.interval is None else list(self.interval),
            "prior": self.prior,
            "index_entries": self.entries,
            "index_is_flat": self.is_flat,
            "crowding": self.crowding,
            "crowd": None if self.crowd is None else {"count": self.crowd.count, "sampled": self.crowd.sampled},
            "used": self.used or None,
            "calibration_error": self.calibration_error,
            "neighbours": [one.to_json() for one in self.neighbours],
            "fold_neighbours": [one.to_json() for one in self.fold_neighbours],
        }


def _crowded(crowding: float) -> str:
    if 0.95 <= crowding < 1.05:
        return "about as many strangers as around"
    return f"{crowding:.{1 if crowding >= 1 else 2}f} times as many strangers as around"


def _shapes(entries: int) -> str:
    return "1 known shape" if entries == 1 else f"{entries:,} known shapes"


def _verdict(value: float, nearest: str, entries: int) -> str:
    if value <= 0.1:
        return f"This shape is known: {nearest}."
    if value < 0.9:
        return f"Whether this shape is new among {_shapes(entries)} cannot be told."
    little = ", which says little of the world's" if entries < _LITTLE else ""
    return f"This shape is new among {_shapes(entries)}{little}."


def _times(best: Neighbour) -> str:
    ratio = best.likelihood_ratio or 0.0
    if ratio >= 1e6:
        return "more than a million times likelier for equal shapes than"
    if ratio >= 1:
        shown = f"{ratio:.2g}" if ratio < 100 else f"about {round(ratio, 1 - len(str(int(ratio)))):,.0f}"
        return f"{shown} times likelier for equal shapes than"
    if ratio < 1e-6:
        return "far less likely for equal shapes than"
    return f"{1 / ratio:.2g} times less likely for equal shapes than"


def novelty_of(
    path: str | os.PathLike[str],
    index: str | os.PathLike[str] | None,
    *,
    assembly: str | None = None,
    symmetry: str | None = None,
    centre_in_angstroms: tuple[float, float, float] = (0.0, 0.0, 0.0),
    voxel_size_in_angstroms: float | None = None,
    neighbours: int = 10,
    prior: float = 0.5,
    calibration: Calibration | None = None,
) -> Novelty:
    """How new the shape of a map or a model is.

    Parameters
    ----------
    path
        Map or model.
    index
        Folder of an index of known shapes; None gives "not available".
    assembly, symmetry, centre_in_angstroms, voxel_size_in_angstroms
        As in :func:`describe_file`.
    neighbours
        How many are listed.
    prior
        Probability that the index holds the shape, before it was looked at.
    calibration
        That which comes with the program if absent.

    Raises
    ------
    InputError
        The file cannot be used, the index is missing, damaged or of another descriptor, or faiss is absent.
    """
    if index is None:
        return _nothing(None, "No index of known shapes was given.", INDEX_REMEDY, prior)
    opened = ShapeIndex.open(index, DESCRIPTOR)
    try:
        query = describe_file(
            path,
            resolution_in_angstroms=float(opened.page["resolution_in_angstroms"]),
            assembly=assembly,
            symmetry=symmetry,
            centre_in_angstroms=centre_in_angstroms,
            voxel_size_in_angstroms=voxel_size_in_angstroms,
        )
    except NoShapeError as error:
        nothing = _nothing(None, f"{Path(error.where).name}: {error.found}.", error.remedy, prior)
        return replace(nothing, entries=len(opened), is_flat=opened.is_flat)
    return judge(query, opened, neighbours=neighbours, prior=prior, calibration=calibration)


def judge(
    query: Descriptor,
    index: ShapeIndex,
    *,
    neighbours: int = 10,
    prior: float = 0.5,
    calibration: Calibration | None = None,
) -> Novelty:
    """As :func:`novelty_of`, for a descriptor that is there already."""
    if not len(index):
        return _nothing(query, f"The index {index.path} is empty.", INDEX_REMEDY, prior)
    law = shipped_calibration() if calibration is None else calibration
    looks = query.looks()
    found = index.search(looks, max(neighbours, _SUMMED))
    distances = np.array([match.distance for match in found])
    resolution = float(index.page["resolution_in_angstroms"])
    if abs(resolution - law.resolution_in_angstroms) > 1e-6:
        shown = tuple(_neighbour(m.entry, m.distance, query, None, None) for m in found[:neighbours])
        made = law.resolution_in_angstroms
        return Novelty(
            query, None, None, None, shown, (), len(index), index.is_flat, prior,
            f"The index was built at {resolution:g} Å, the calibration at {made:g} Å.",
            f"Build the index at {made:g} Å: cryoprism novelty build FOLDER --out INDEX --resolution {made:g}.",
        )  # fmt: skip
    crowd = Crowd.of(_apart(looks, index.sample()))
    alike = np.array([_similarity(query.entry, match.entry) for match in found])
    ratios = law.log_ratio(distances, alike, crowd)
    known = known_probability(ratios, len(index), prior)
    each = (law.log_ratio(distances, alike, crowd, draw) for draw in law.draws)
    drawn = 1 - np.array([known_probability(ratio, len(index), prior) for ratio in each])
    wrong = law.error(len(index)) if len(index) > _CALIBRATED else 0.0
    low, high = np.quantile(drawn, [0.05, 0.95])
    low, high = max(0.0, low - _NORMAL_90 * wrong), min(1.0, high + _NORMAL_90 * wrong)
    shares = np.exp(ratios - ratios.max())
    shares = known * shares / shares.sum()
    shown = tuple(
        _neighbour(match.entry, match.distance, query, float(np.exp(min(ratio, 700.0))), float(share))
        for match, ratio, share in zip(found[:neighbours], ratios, shares, strict=False)
    )
    notes = list(query.notes)
    very_file = shown[0].is_same_file
    if distances[0] < law.range_of_distances[0] and not very_file:
        notes.append(
            f"The nearest is nearer than any two different shapes of the calibration were "
            f"({law.range_of_distances[0]:.3f}): there its law is extrapolated."
        )
    if query.restored is not None and index.search(query.vector, 1)[0].distance > distances[0] + 1e-6:
        notes.append(
            "The nearest was found with the low frequencies of the map restored: it seems to have lost a part of them."
        )
    if query.share_outside > 0.1:
        notes.append(
            f"{100 * query.share_outside:.0f} % of the envelope lies beyond 1.8 radii of gyration, which the "
            "invariants do not see."
        )
    return Novelty(
        query, 1 - known, float(np.hypot(drawn.std(), wrong)),
        (float(min(low, 1 - known)), float(max(high, 1 - known))), shown,
        _alike(query, index, [(m.entry, m.distance) for m in found], neighbours),
        len(index), index.is_flat, prior, notes=tuple(notes), crowding=law.crowding(crowd), crowd=crowd,
        calibration_error=wrong,
        used="shape and 3Di states" if law.uses_states and bool(np.isfinite(alike).any()) else "shape",
    )  # fmt: skip


def _nothing(query: Descriptor | None, reason: str, remedy: str, prior: float) -> Novelty:
    return Novelty(query, None, None, None, (), (), 0, True, prior, reason, remedy)


def _neighbour(
    entry: Entry, distance: float, query: Descriptor, ratio: float | None, probability: float | None
) -> Neighbour:
    alike = _similarity(query.entry, entry)
    return Neighbour(
        entry,
        distance,
        ratio,
        probability,
        alike if np.isfinite(alike) else None,
        bool(entry.sha256) and entry.sha256 == query.entry.sha256 and entry.name == query.entry.name,
    )


def _apart(looks: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Distances (n,) of vectors (n, d) to the nearest of looks (k, d); rounding counts for nothing at 0.2 and more."""
    squares = (looks**2).sum(1)[:, None] + (vectors**2).sum(1) - 2 * looks @ vectors.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)).min(0), dtype=np.float64)


def _similarity(one: Entry, other: Entry) -> float:
    """In 3Di states; NaN where one of the two has none."""
    if one.states is None or other.states is None:
        return float("nan")
    return state_similarity(one.states, other.states)


def _alike(
    query: Descriptor, index: ShapeIndex, near: Sequence[tuple[Entry, float]], count: int
) -> tuple[Neighbour, ...]:
    """Entries most alike in 3Di states: of all in a small index, else of the neighbours in shape."""
    if query.entry.states is None:
        return ()
    everything: Iterable[tuple[Entry, float]] = near
    if len(index) <= _COMPARED_IN_STATES:
        vectors = index.vectors()
        everything = (
            (entry, float(np.linalg.norm(vectors[number] - query.vector))) for number, entry in index.all_entries()
        )
    made = (_neighbour(entry, distance, query, None, None) for entry, distance in everything)
    listed = sorted((one for one in made if one.state_similarity is not None), key=lambda n: -(n.state_similarity or 0))
    return tuple(listed[:count])
