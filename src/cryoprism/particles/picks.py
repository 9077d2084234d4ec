"""Picks: where particles are on one micrograph, how sure that is, and the way there from a map of scores.

Every picker maps a micrograph to a score map; what follows is the same for all: local maxima, a parabola for the
fraction of a pixel, the best of all that lie too close together, nothing at edges, nothing on artefacts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.ndimage
import scipy.spatial
import torch
from torch import Tensor

from cryoprism.core import InputError
from cryoprism.formats import Coordinates
from cryoprism.restoration import LABELS, ArtefactMask

__all__ = [
    "REFUSED_LABELS",
    "Picks",
    "at_least",
    "outside_artefacts",
    "pick_from_score_map",
    "suppress_neighbours",
    "surviving_null",
    "threshold_for_false_discoveries",
    "within_field",
    "without_small_contamination",
]

#: Where no particle is taken; single defects are mended and do no harm.
REFUSED_LABELS = ("contamination", "carbon", "crystalline ice")


@dataclass(frozen=True)
class Picks:
    """Particles of one micrograph, best first.

    Attributes
    ----------
    xy_in_pixels
        (n, 2) float64: x, y in pixels of the full micrograph, the first pixel in the file being (0, 0).
    figure_of_merit
        (n,) float32; higher is surer.
    angles_in_degrees
        (n, 3) rot, tilt, psi of the view that fits best, or None.
    diameter_in_angstroms
        (n,) where the picker tells the size of each particle, or None.
    """

    xy_in_pixels: Tensor
    figure_of_merit: Tensor
    angles_in_degrees: Tensor | None = None
    diameter_in_angstroms: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of picks."""
        return int(self.xy_in_pixels.shape[0])

    def __getitem__(self, which: Tensor) -> Picks:
        """Return the picks that an index or boolean tensor names."""
        return Picks(
            self.xy_in_pixels[which],
            self.figure_of_merit[which],
            None if self.angles_in_degrees is None else self.angles_in_degrees[which],
            None if self.diameter_in_angstroms is None else self.diameter_in_angstroms[which],
        )

    def coordinates(self) -> Coordinates:
        """Return them as what ``formats.write_coordinates`` takes."""
        return Coordinates(self.xy_in_pixels, self.figure_of_merit)


def pick_from_score_map(
    score_map: Tensor,
    pixel_size_of_map: float | tuple[float, float],
    min_distance_in_angstroms: float,
    threshold: float,
    *,
    pixel_size_in_angstroms: float,
    merit_map: Tensor | None = None,
    place_map: Tensor | None = None,
    view_map: Tensor | None = None,
    view_angles_in_degrees: Tensor | None = None,
    diameter_map: Tensor | None = None,
) -> Picks:
    """Local maxima of a score map at or above a threshold, none nearer to a better one than a distance.

    Parameters
    ----------
    score_map
        (h, w); pixel (0, 0) lies on pixel (0, 0) of the micrograph.
    pixel_size_of_map
        [Å], one for both axes or (y, x).
    min_distance_in_angstroms
        Of the two picks that lie nearer than this only the better is kept.
    threshold
        Lowest score.
    pixel_size_in_angstroms
        Of the micrograph, in whose pixels the picks are.
    merit_map
        (h, w) figure of merit, if it is not the score: the threshold and the order of the picks go by it, places by
        the score, of which then every maximum among the eight pixels around counts.
    place_map
        (h, w) towards whose maximum each pick is moved in the end, by two pixels at most and not too close to
        another: a score that was sharpened to tell neighbours apart is not the best judge of their places.
    view_map, view_angles_in_degrees
        (h, w) number of the best view, and (views, 3) rot, tilt, psi of each.
    diameter_map
        (h, w) best diameter [Å].

    Raises
    ------
    InputError
        The map is not two-dimensional, or a distance or pixel size is not positive.
    """
    if score_map.ndim != 2:
        raise InputError("score_map", f"shape {tuple(score_map.shape)}", "Give the score map of one micrograph.")
    per_axis = (pixel_size_of_map,) * 2 if isinstance(pixel_size_of_map, int | float) else pixel_size_of_map
    for name, value in (
        ("pixel_size_of_map", min(per_axis)),
        ("pixel_size_in_angstroms", pixel_size_in_angstroms),
        ("min_distance_in_angstroms", min_distance_in_angstroms),
    ):
        if not value > 0:
            raise InputError(name, f"{value}", "Give a positive number of Å.")
    score = score_map.detach().cpu().float().numpy()
    # A maximum of a smaller neighbourhood than the distance: the parabola moves it by less than a pixel.
    reach = max(1, math.floor(0.4 * min_distance_in_angstroms / max(per_axis)))
    reach = min(reach, 4) if merit_map is None else 1
    highest = scipy.ndimage.maximum_filter(score, size=2 * reach + 1, mode="nearest")
    merit = score if merit_map is None else merit_map.detach().cpu().float().numpy()
    rows, columns = np.nonzero((score == highest) & (merit >= threshold))
    dy, dx, gain = _parabola(score, rows, columns)
    if merit_map is not None:
        gain = np.zeros_like(gain)
    scale = np.array(per_axis[::-1]) / pixel_size_in_angstroms
    xy = torch.from_numpy(np.stack([columns + dx, rows + dy], 1) * scale)
    best = torch.from_numpy((merit[rows, columns] + gain).astype(np.float32))
    at = torch.from_numpy(rows), torch.from_numpy(columns)
    picks = Picks(
        xy,
        best,
        None if view_map is None or view_angles_in_degrees is None else view_angles_in_degrees[view_map[at].long()],
        None if diameter_map is None else diameter_map[at],
    )
    distance = min_distance_in_angstroms / pixel_size_in_angstroms
    picks = suppress_neighbours(picks, distance)
    if place_map is None:
        return picks
    place = place_map.detach().cpu().float().numpy()
    near = np.round(picks.xy_in_pixels.numpy() / scale).astype(int)
    rows, columns = _uphill(place, near[:, 1], near[:, 0])
    dy, dx, _ = _parabola(place, rows, columns)
    moved = torch.from_numpy(np.stack([columns + dx, rows + dy], 1) * scale)
    return _moved_apart(picks, moved, distance)


def _moved_apart(picks: Picks, xy: Tensor, distance_in_pixels: float) -> Picks:
    """Move picks, best first, to new places (n, 2); where two come too close, the worse stays, then the better too."""
    at = xy.clone()
    stays = torch.zeros(len(picks), dtype=torch.bool)
    while len(picks):
        pairs = scipy.spatial.cKDTree(at.numpy()).query_pairs(distance_in_pixels * (1 - 1e-9), output_type="ndarray")
        better, worse = torch.from_numpy(pairs.min(1)).long(), torch.from_numpy(pairs.max(1)).long()
        fresh = ~stays[better] | ~stays[worse]
        if not bool(fresh.any()):
            break
        better, worse = better[fresh], worse[fresh]
        chosen = torch.where(stays[worse], better, worse)
        stays[chosen] = True
        at[chosen] = picks.xy_in_pixels[chosen]
    return replace(picks, xy_in_pixels=at)


def _uphill(score: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns after two steps, each to the highest of a pixel and the eight around it."""
    padded = np.pad(score, 1, constant_values=-np.inf)
    around = np.array([(0, 0), *((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0))])
    for _ in range(2):
        values = padded[rows + 1 + around[:, :1], columns + 1 + around[:, 1:]]
        step = around[values.argmax(0)]
        rows, columns = rows + step[:, 0], columns + step[:, 1]
    return rows, columns


def _parabola(score: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offset (y, x) of the vertex of a parabola through each maximum and its neighbours, and what it is higher by."""
    padded = np.pad(score, 1, mode="edge").astype(np.float64)
    r, c = rows + 1, columns + 1
    centre = padded[r, c]

    def axis(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        bend = 2.0 * centre - before - after
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = np.where(bend > 0, 0.5 * (after - before) / bend, 0.0)
        shift = np.clip(np.nan_to_num(shift), -0.5, 0.5)
        return shift, 0.25 * (after - before) * shift

    dy, above_y = axis(padded[r - 1, c], padded[r + 1, c])
    dx, above_x = axis(padded[r, c - 1], padded[r, c + 1])
    # The border has no neighbour beyond it: the edge value would pull the vertex.
    inner = (rows > 0) & (rows < score.shape[0] - 1) & (columns > 0) & (columns < score.shape[1] - 1)
    return dy * inner, dx * inner, (above_y + above_x) * inner


def suppress_neighbours(picks: Picks, distance_in_pixels: float) -> Picks:
    """Greedy non-maximum suppression: best first, each pick removes all worse ones nearer than the distance.

    Done in rounds over all picks at once (a pick stays when no better undecided one is near), which gives what the
    sequential rule gives. The result is sorted, best first; ties go to the earlier row.
    """
    order = torch.argsort(picks.figure_of_merit, descending=True, stable=True)
    picks = picks[order]
    if len(picks) < 2:
        return picks
    xy = picks.xy_in_pixels.numpy()
    pairs = scipy.spatial.cKDTree(xy).query_pairs(distance_in_pixels, output_type="ndarray")
    better, worse = pairs.min(1), pairs.max(1)
    near = np.linalg.norm(xy[better] - xy[worse], axis=1) < distance_in_pixels
    better, worse = better[near], worse[near]
    undecided, kept = np.ones(len(picks), dtype=bool), np.zeros(len(picks), dtype=bool)
    while undecided.any():
        live = undecided[better] & undecided[worse]
        better, worse = better[live], worse[live]
        beaten = np.zeros(len(picks), dtype=bool)
        beaten[worse] = True
        fresh = undecided & ~beaten
        kept |= fresh
        undecided &= ~fresh
        undecided[worse[fresh[better]]] = False
    return picks[torch.from_numpy(kept)]


def within_field(picks: Picks, shape: tuple[int, int], edge_in_pixels: float) -> Picks:
    """Leave out picks nearer than a margin to an edge of the (height, width) field."""
    x, y = picks.xy_in_pixels.unbind(-1)
    inside = (x >= edge_in_pixels) & (y >= edge_in_pixels)
    inside &= (x <= shape[1] - 1 - edge_in_pixels) & (y <= shape[0] - 1 - edge_in_pixels)
    return picks[inside]


def outside_artefacts(
    picks: Picks,
    mask: ArtefactMask | Tensor,
    shape: tuple[int, int],
    radius_in_pixels: float,
    *,
    largest_fraction: float = 0.5,
    labels: Sequence[str] = REFUSED_LABELS,
) -> Picks:
    """Leave out picks whose centre lies on an artefact, or whose disc is covered by more than a fraction.

    Parameters
    ----------
    picks
        To be sorted out.
    mask
        Labels of ``restoration.LABELS`` over the field, at any resolution (for example a ``masks/*.mrc``).
    shape
        Height and width of the micrograph [pixels].
    radius_in_pixels
        Of a particle, in pixels of the micrograph.
    largest_fraction
        Of the disc's part inside the field.
    labels
        Which are refused.
    """
    given = mask.labels if isinstance(mask, ArtefactMask) else mask
    refused = torch.zeros(given.shape, dtype=torch.bool)
    for label in labels:
        refused |= given == LABELS[label]
    if not bool(refused.any()) or not len(picks):
        return picks
    # About eight mask pixels along the radius are enough; a full mask has many more.
    factor = max(1, int(radius_in_pixels * given.shape[0] / shape[0] / 8))
    bad = torch.nn.functional.avg_pool2d(refused[None, None].float(), factor, ceil_mode=True)[0, 0].numpy()
    per_pixel = np.array([given.shape[0] / shape[0], given.shape[1] / shape[1]]) / factor
    radius = radius_in_pixels * per_pixel
    half = np.ceil(radius).astype(int)
    y, x = np.ogrid[-half[0] : half[0] + 1, -half[1] : half[1] + 1]
    disc = ((y / max(radius[0], 0.5)) ** 2 + (x / max(radius[1], 0.5)) ** 2 <= 1.0).astype(np.float32)
    covered = scipy.ndimage.convolve(bad, disc, mode="constant")
    inside = scipy.ndimage.convolve(np.ones_like(bad), disc, mode="constant")
    xy = picks.xy_in_pixels.numpy()
    rows, columns = (
        np.clip(((value + 0.5) * per_pixel[axis]).astype(int), 0, bad.shape[axis] - 1)
        for axis, value in ((0, xy[:, 1]), (1, xy[:, 0]))
    )
    fraction = covered[rows, columns] / np.maximum(inside[rows, columns], 1.0)
    return picks[torch.from_numpy((bad[rows, columns] < 0.5) & (fraction <= largest_fraction))]


def without_small_contamination(
    mask: ArtefactMask, diameter_in_pixels: float, *, smallest_in_particles: float = 4.0
) -> ArtefactMask:
    """Take contamination off a mask where it covers less than a few particles.

    What is dark and about as large as a clump of particles may be one: particles with dense cores, or lying on each
    other. Darkness cannot tell them apart, shape can, and that is what pickers look at.

    Parameters
    ----------
    mask
        Not changed.
    diameter_in_pixels
        Of a particle, in pixels of the micrograph.
    smallest_in_particles
        Area in discs of a particle from which on a connected region counts as contamination.
    """
    found = (mask.labels == LABELS["contamination"]).numpy()
    pieces, count = scipy.ndimage.label(found)
    if count == 0:
        return mask
    scale = (mask.labels.shape[0] / mask.shape[0]) * (mask.labels.shape[1] / mask.shape[1])
    least = smallest_in_particles * 0.25 * math.pi * diameter_in_pixels**2 * scale
    area = np.bincount(pieces.ravel())
    small = torch.from_numpy((area < least)[pieces] & found)
    return ArtefactMask(torch.where(small, torch.zeros_like(mask.labels), mask.labels), mask.shape)


def at_least(picks: Picks, threshold: float) -> Picks:
    """Return the picks whose figure of merit reaches the threshold."""
    return picks[picks.figure_of_merit >= threshold]


def surviving_null(null: Picks, picks: Picks, distance_in_pixels: float) -> Tensor:
    """Scores (m,) of those picks of a null that would be kept among the picks of the data.

    A null pick counts as a false pick to be expected only where it would not lose to a better pick of the data nearer
    than the distance: in a crowded field little room is left for false ones.
    """
    if not len(null) or not len(picks):
        return null.figure_of_merit
    tree = scipy.spatial.cKDTree(picks.xy_in_pixels.numpy())
    near = tree.query_ball_point(null.xy_in_pixels.numpy(), distance_in_pixels)
    score = picks.figure_of_merit.numpy()
    best = np.array([score[members].max() if members else -np.inf for members in near])
    return null.figure_of_merit[torch.from_numpy(best <= null.figure_of_merit.numpy())]


def threshold_for_false_discoveries(scores: Tensor, null_scores: Tensor, rate: float = 0.05) -> float:
    """Threshold from which on a null gives fewer than ``rate`` of the picks that the data give.

    Estimate of the false discovery rate of all picks at or above t: FDR(t) = n₀(≥ t) / n(≥ t), with the counts of peaks
    in a null of the same area (Storey & Tibshirani 2003, PNAS 100, 9440; :func:`surviving_null` stands for their π₀).
    The lowest t that keeps FDR(t) within the rate is taken, as in Benjamini & Hochberg (1995).

    Parameters
    ----------
    scores
        (n,) scores of peaks in the data.
    null_scores
        (m,) scores of peaks in the null, over the same area.
    rate
        Tolerated share of false picks.

    Returns
    -------
    float
        Infinity where no threshold is good enough: then the data hold nothing that the null does not.
    """
    if not scores.numel():
        return math.inf
    found = torch.sort(scores.double(), descending=True).values
    null = torch.sort(null_scores.double()).values
    false = null.numel() - torch.searchsorted(null, found, right=False)
    share = false / torch.arange(1, found.numel() + 1)
    good = torch.nonzero(share <= rate)
    return float(found[int(good[-1])]) if good.numel() else math.inf
