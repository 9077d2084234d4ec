"""How good picks are on micrographs with known centres."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .picks import Picks

__all__ = ["Precision", "judged", "precision_of"]


@dataclass(frozen=True)
class Precision:
    """How good picks are: area under precision against recall; best F1, and precision, recall and threshold there."""

    average_precision: float
    f1: float
    precision: float
    recall: float
    threshold: float


def judged(picks: Sequence[Picks], truths: Sequence[Tensor], reach_in_pixels: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Scores (n,) of all picks and which of them are right (n,) bool; arguments as of :func:`precision_of`.

    Best picks first; each takes the nearest centre within reach that is still free, or counts as false.
    """
    scores: list[float] = []
    hits: list[bool] = []
    for found, truth, reach in zip(picks, truths, reach_in_pixels, strict=True):
        free = np.ones(len(truth), dtype=bool)
        centres = truth.double().numpy().reshape(-1, 2)
        for index in torch.argsort(found.figure_of_merit, descending=True, stable=True).tolist():
            distance = np.linalg.norm(centres - found.xy_in_pixels[index].numpy(), axis=1)
            distance[~free] = np.inf
            nearest = int(distance.argmin()) if distance.size else -1
            hit = nearest >= 0 and bool(distance[nearest] <= reach)
            if hit:
                free[nearest] = False
            scores.append(float(found.figure_of_merit[index]))
            hits.append(hit)
    return torch.tensor(scores, dtype=torch.float64), torch.tensor(hits, dtype=torch.bool)


def precision_of(picks: Sequence[Picks], truths: Sequence[Tensor], reach_in_pixels: Sequence[float]) -> Precision:
    """Average precision and best F1 of picks on micrographs with known centres, all micrographs together.

    Parameters
    ----------
    picks, truths, reach_in_pixels
        One per micrograph: picks, centres (n, 2) as x, y, and how far a pick may be off.
    """
    ranked, right = (value.numpy() for value in judged(picks, truths, reach_in_pixels))
    total = sum(len(truth) for truth in truths)
    if not len(ranked) or not total:
        return Precision(0.0, 0.0, 0.0, 0.0, math.inf)
    order = np.argsort(-ranked, kind="stable")
    correct = np.cumsum(right[order])
    precision, recall = correct / np.arange(1, len(order) + 1), correct / total
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    area = float(np.sum(np.diff(recall, prepend=0.0) * envelope))
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1.argmax())
    return Precision(area, float(f1[best]), float(precision[best]), float(recall[best]), float(ranked[order][best]))
