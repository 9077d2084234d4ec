"""How a refinement runs: its settings, which cells a pass searches, when it goes finer, when it ends."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from cryoprism.core import point_group_matrices

from .filaments import Filament
from .pose_search import SearchPlan

__all__ = [
    "FirstMapSettings",
    "RefinementSettings",
    "local_passes_begun",
    "next_settings",
    "order_of_next_pass",
    "plan_for",
]

# Finer cells pay when the posterior gathers in a few of them.
_GATHERED = 0.2
_SHARP = 0.6
_STALLED = 3
_WORTH_A_PASS = 0.02
_CALM = 0.7


@dataclass(frozen=True)
class RefinementSettings:
    """How a refinement runs.

    Attributes
    ----------
    symmetry
        Point group.
    diameter_in_angstroms
        Of the particle: the support of the map is a soft sphere of it.
    pixel_size_in_angstroms
        Of images and map.
    initial_resolution_in_angstroms
        Low-pass of the starting map.
    shift_range_in_angstroms
        Radius of the first search.
    iterations
        Most passes.
    finest_order
        HEALPix order at which the global search ends.
    keep
        Most cells that a level of the search divides further.
    momentum
        How far a pass goes beyond its new map, as a share of the map's change.
    local_passes
        Passes of local refinement after the global search has settled.
    seed
        Of grid offsets.
    filament
        Helical symmetry and what is known of the filaments; None for particles.
    """

    symmetry: str
    diameter_in_angstroms: float
    pixel_size_in_angstroms: float
    initial_resolution_in_angstroms: float = 30.0
    shift_range_in_angstroms: float = 12.0
    iterations: int = 15
    finest_order: int = 5
    keep: int = 32
    local_passes: int = 0
    momentum: float = 0.5
    seed: int = 0
    filament: Filament | None = None


@dataclass(frozen=True)
class FirstMapSettings:
    """How a first map is sought; what is None follows from symmetry and diameter.

    Attributes
    ----------
    starts
        Random starts.
    trial_passes
        Passes of each, after which the log evidence decides which one is continued; 12, or 8 with large cells.
    passes
        Passes of the start that is kept, in all; 30, or 16 with large cells, which settle sooner and cost more.
    finest_in_angstroms
        Detail down to which it is sought; :func:`finest_of_start` if None.
    seed
        Of starts, grids and the choice of particles.
    """

    starts: int = 3
    trial_passes: int | None = None
    passes: int | None = None
    finest_in_angstroms: float | None = None
    seed: int = 0


def plan_for(radius: int, settings: RefinementSettings, box: int) -> SearchPlan:
    """Levels of a global search up to ``radius`` shells.

    A cell should turn the rim of the particle by less than about half of the finest detail: width < ½ d / (D / 2). The
    first level uses the detail that its own cells can tell apart.
    """
    pixel, diameter = settings.pixel_size_in_angstroms, settings.diameter_in_angstroms
    detail = box * pixel / radius
    wanted = math.degrees(0.5 * detail / (0.5 * diameter))
    last = 3
    while last < settings.finest_order and 60.0 / 2**last > wanted:
        last += 1
    order = 3 if len(point_group_matrices(settings.symmetry)) >= 12 else 2
    orders = tuple(range(order, max(last, order + 1) + 1))
    coarse = math.radians(60.0 / 2**order) * 0.5 * diameter
    start = min(radius, max(5, round(box * pixel / max(coarse, 2 * pixel))))
    radii = [round(start + (radius - start) * i / (len(orders) - 1)) for i in range(len(orders))]
    step = max(1.0, min(2.0 if len(orders) > 2 else 1.5, 0.25 * box / start))
    return SearchPlan(
        orders=orders,
        radii=tuple(radii),
        shift_range=settings.shift_range_in_angstroms / pixel,
        shift_step=step,
        keep=settings.keep,
    )


def order_of_next_pass(history: tuple[dict[str, float], ...], settings: RefinementSettings) -> int:
    """Finest order of the next pass, never going back.

    One above the last, once its cells gather the posterior and another pass with them raises the evidence little or
    turns poses by less than a cell: a pass with cells of half the width takes twice as long.
    """
    order, best = settings.finest_order - 1, -math.inf
    for row in history:
        rises = row["log_evidence"] > best + _WORTH_A_PASS * abs(row["log_evidence"])
        best = max(best, row["log_evidence"])
        calm = row["change_in_degrees"] < _CALM * 60.0 / 2 ** row["order"]
        finer = row["probability"] > _GATHERED and (calm or not rises)
        order = min(settings.finest_order, max(order, int(row["order"])) + finer)
    return order


def next_settings(history: tuple[dict[str, float], ...], settings: RefinementSettings) -> RefinementSettings:
    """Return the settings of the next search: its finest order, and fewer cells where posteriors are sharp."""
    sharp = history[-1]["probability"] if history else 0.0
    keep = settings.keep if sharp < 0.3 else settings.keep // 2 if sharp < _SHARP else settings.keep // 4
    return replace(settings, finest_order=order_of_next_pass(history, settings), keep=max(4, keep))


def local_passes_begun(history: tuple[dict[str, float], ...], settings: RefinementSettings) -> int:
    """How many local passes were due: one for each pass since the refinement settled; read from the history.

    It has settled when the evidence has not risen for three passes (one is enough with finer cells than it had
    stopped rising with before), or poses moved by clearly less than a cell in two. Where finer cells are due it has
    not settled.
    """
    best, stalled, calm, local, order, enough = -math.inf, 0, 0, 0, math.inf, _STALLED
    for number, row in enumerate(history, start=1):
        now = row["log_evidence"]
        if row["order"] > order:
            stalled, calm, enough = 0, 0, 1
        order = row["order"]
        stalled = 0 if now > best + max(0.05, 4e-3 * abs(now)) else stalled + 1
        best = max(best, now)
        calm = calm + 1 if row["change_in_degrees"] < _CALM * 60.0 / 2**order else 0
        finer = order_of_next_pass(history[:number], settings) > order
        local += bool(local or (not finer and (stalled >= enough or calm >= 2)))
    return local
