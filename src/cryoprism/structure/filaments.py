"""Refinement of filaments: what is known of their poses before the images, and maps that obey rise and twist.

The axis of the map is z, so the third column of a pose A is the direction of the filament in the view. Filaments lie
nearly in the plane of the ice, or where their track says (``rlnAngleTiltPrior``, ``rlnAnglePsiPrior``), in either
polarity: the log prior of a pose is -d²/2s² with the angle d between its axis and that line. A shift along the filament
by one rise is a rotation by the twist, so that shifts along it end at half a rise; across it they are Gaussian. As in
RELION (He & Scheres 2017, J. Struct. Biol. 198, 163) segments may be inserted as several units, and the map is
symmetrised in real space from its central part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryoprism.core import InputError

from .helical import HelicalCopies, HelicalSymmetry, impose_helical_symmetry, refine_helical_symmetry
from .masks import soft_cylinder

__all__ = ["Filament", "FilamentPrior"]

# Orientations whose axis lies this many spreads away are not searched.
_FARTHEST = 4.0
# Maps of the first passes are too coarse to show the rise: what was found there led away from the truth.
_BLURRED = 3
# Part of the box along z that is compared: a long lever, short of where segments fade.
_SEARCHED = 0.7


@dataclass(frozen=True)
class Filament:
    """What a refinement knows of a filament.

    Attributes
    ----------
    symmetry
        Rise and twist.
    diameter_in_angstroms
        Outer diameter: the support of the map ends there.
    units
        Asymmetrical units that a segment is inserted as: about the distance between segments over the rise.
    central_fraction
        Part of the box along z from which the map is symmetrised.
    axis_spread_in_degrees
        Standard deviation of axes about the plane, or about the priors of the table.
    rise_range_in_angstroms, twist_range_in_degrees
        How far rise and twist are searched after each pass; 0 keeps them.
    """

    symmetry: HelicalSymmetry
    diameter_in_angstroms: float
    units: int = 1
    central_fraction: float = 0.3
    axis_spread_in_degrees: float = 10.0
    rise_range_in_angstroms: float = 0.0
    twist_range_in_degrees: float = 0.0

    def __post_init__(self) -> None:
        if not self.diameter_in_angstroms > 0:
            raise InputError("helical diameter", f"{self.diameter_in_angstroms} Å", "Give the outer diameter.")
        if not self.axis_spread_in_degrees > 0:
            raise InputError("spread of the axes", f"{self.axis_spread_in_degrees}°", "Give a positive one.")

    def with_history(self, history: tuple[dict[str, float], ...]) -> Filament:
        """Return the filament with the rise and twist that the last pass found."""
        if not history or "rise_in_angstroms" not in history[-1]:
            return self
        last = history[-1]
        return replace(self, symmetry=HelicalSymmetry(last["rise_in_angstroms"], last["twist_in_degrees"]))

    def copies(self, voxel_size_in_angstroms: float) -> HelicalCopies | None:
        """How views are inserted again; None where once is enough."""
        return HelicalCopies(self.symmetry, self.units, voxel_size_in_angstroms) if self.units > 1 else None

    def symmetrised(self, volume: Tensor, voxel_size_in_angstroms: float) -> Tensor:
        """Map (z, y, x) with the symmetry imposed."""
        return impose_helical_symmetry(
            volume, voxel_size_in_angstroms, self.symmetry, central_fraction=self.central_fraction
        )

    def support(self, sphere: Tensor, voxel_size_in_angstroms: float) -> Tensor:
        """Cut the sphere (z, y, x) of the particle down to the filament's cylinder."""
        z, y, x = (int(n) for n in sphere.shape)
        edge = max(6.0, 3 * voxel_size_in_angstroms)
        radius = 0.5 * self.diameter_in_angstroms
        return sphere * soft_cylinder((z, y, x), voxel_size_in_angstroms, radius, soft_edge_in_angstroms=edge)

    def refined(self, halves: list[Tensor], voxel_size_in_angstroms: float, passes_done: int) -> HelicalSymmetry:
        """Rise and twist in the ranges given under which the maps agree best with themselves, mean of the halves.

        Called on the filament as it was at the start, so that the ranges do not move with what is found.
        """
        if passes_done < _BLURRED or (self.rise_range_in_angstroms == 0 and self.twist_range_in_degrees == 0):
            return self.symmetry
        found = [
            refine_helical_symmetry(
                half,
                voxel_size_in_angstroms,
                self.symmetry,
                rise_range_in_angstroms=self.rise_range_in_angstroms,
                twist_range_in_degrees=self.twist_range_in_degrees,
                central_fraction=max(self.central_fraction, _SEARCHED),
                outer_radius_in_angstroms=0.5 * self.diameter_in_angstroms,
            )
            for half in halves
        ]
        return HelicalSymmetry(
            sum(one.rise_in_angstroms for one in found) / len(found),
            sum(one.twist_in_degrees for one in found) / len(found),
        )

    def prior(self, axes: Tensor | None, shift_range: float, voxel_size_in_angstroms: float) -> FilamentPrior:
        """Prior of poses.

        Parameters
        ----------
        axes
            (n, 3) unit vector of each particle's axis in its view; absent or not finite where only the plane is known.
        shift_range
            Of the search across the axis [pixels].
        """
        return FilamentPrior(
            axes,
            math.radians(self.axis_spread_in_degrees),
            0.5 * self.symmetry.rise_in_angstroms / voxel_size_in_angstroms,
            max(0.5 * shift_range, 1e-3),
        )


@dataclass(frozen=True)
class FilamentPrior:
    """Log prior of poses for :func:`cryoprism.structure.search`; made by :meth:`Filament.prior`.

    Attributes
    ----------
    axes
        (n, 3) in the view, or None.
    spread
        Standard deviation of the axis [radians].
    half_rise, across
        Largest shift along the axis, and standard deviation across it [pixels].
    """

    axes: Tensor | None
    spread: float
    half_rise: float
    across: float

    def possible(self, rotations: Tensor, margin_in_degrees: float) -> Tensor:
        """Whether a cell (m,) with its centre at rotations (m, 3, 3) can matter for any particle."""
        highest = 0.0
        if self.axes is not None:
            known = self.axes[torch.isfinite(self.axes).all(1), 2].abs()
            highest = float(torch.arcsin(known.clamp_max(1.0)).max()) if len(known) else 0.0
        most = highest + _FARTHEST * self.spread + math.radians(margin_in_degrees)
        return rotations[:, 2, 2].abs() <= math.sin(min(most, 0.5 * math.pi)) + 1e-6

    def orientations(self, rotations: Tensor, rows: slice) -> Tensor:
        """Log prior (b or 1, m) of rotations (b or 1, m, 3, 3) of the particles ``rows``, up to a constant."""
        axis = rotations[..., 2]
        away = torch.arcsin(axis[..., 2].clamp(-1, 1))
        if self.axes is not None:
            told = self.axes[rows].to(axis)
            known = torch.isfinite(told).all(1, keepdim=True)
            # Either polarity: the angle to a line.
            cosine = torch.einsum("bmi,bi->bm", axis.expand(len(told), -1, 3), told).abs().clamp_max(1.0)
            away = torch.where(known, torch.arccos(cosine), away)
        return -0.5 * (away / self.spread).square()

    def shifts(self, shifts: Tensor, rotations: Tensor, step: float) -> Tensor:
        """Log prior (b, s, m) of shifts (b, s, 2) on a grid of ``step`` [pixels] at rotations (b, m, 3, 3)."""
        axis = torch.nn.functional.normalize(rotations[..., :2, 2], dim=-1)
        along = shifts @ axis.transpose(1, 2)
        across = (shifts.square().sum(-1, keepdim=True) - along.square()).clamp_min(0)
        # Half a step more, or a coarse grid would hold the zero alone.
        beyond = (along.abs() - self.half_rise - 0.5 * step).clamp_min(0)
        return -0.5 * (across / self.across**2 + (beyond / (0.1 * step + 1e-6)).square())

    def log_volume(self, step: float) -> float:
        """Log share that one shift of a grid of ``step`` has of the prior of shifts."""
        length = max(2 * self.half_rise, step)
        return math.log(step**2 / (length * math.sqrt(2 * math.pi) * self.across))
