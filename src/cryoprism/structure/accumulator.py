"""Insertion of central slices into a padded Fourier volume, symmetry, and the map that comes out."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from cryoprism.core import InputError

from ._normal_equations import conjugate_gradients, sphere
from ._packing import packed_frequencies, rows_of_packed
from ._transforms import PaddedGrid, gridding_correction, inverse_half_transform, resample, shells_of_grid
from ._trilinear import Corners, corner_offsets, corners_of_points, corners_of_slices, runs

__all__ = ["SliceAccumulator", "split_point_group"]

_EXACT = 1e-4


def split_point_group(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Split a point group into the subgroup that maps the grid onto itself, and representatives of its cosets.

    Every rotation is h · c with one h of the first and one c of the second. A view with rotation A that is inserted at
    A · cᵀ for every c, and whose accumulator is symmetrised with the h, is inserted at all its equivalent places
    without any interpolation of the sums.

    Parameters
    ----------
    matrices
        (order, 3, 3), all rotations of a group.

    Returns
    -------
    exact
        (e, 3, 3) signed permutations of the axes.
    representatives
        (order / e, 3, 3), the identity first.
    """
    rounded = matrices.round()
    on_grid = (matrices - rounded).abs().amax((-1, -2)) < _EXACT
    exact = rounded[on_grid]
    chosen = [torch.eye(3, dtype=matrices.dtype, device=matrices.device)]
    for matrix in matrices:
        # h c with h in the subgroup: matrix · cᵀ is a signed permutation.
        quotients = torch.stack([matrix @ c.T for c in chosen])
        if bool(((quotients - quotients.round()).abs().amax((-1, -2)) >= _EXACT).all()):
            chosen.append(matrix)
    return exact, torch.stack(chosen)


class SliceAccumulator:
    """Sums of CTF · X / σ² and CTF² / σ² on the half of a padded transform; the adjoint of slicing.

    Attributes
    ----------
    grid
        Geometry of the padded transform.
    sums
        (3, voxels) float32: real and imaginary part of the numerator, and the weight.
    """

    def __init__(
        self, box: int, padding: int = 2, max_radius: int | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.grid: Final = PaddedGrid.of(box, padding, max_radius)
        self.sums: Final = torch.zeros(3, self.grid.voxels, dtype=torch.float32, device=device)

    def add(self, values: Tensor, weights: Tensor, rotations: Tensor) -> None:
        """Insert slices.

        Parameters
        ----------
        values
            (m, N) complex: CTF · X / σ² at the packed frequencies of any radius up to ``grid.max_radius``.
        weights
            (m, N) real: CTF² / σ².
        rotations
            (m, 3, 3); a coefficient k goes to Aᵀ k.

        Raises
        ------
        InputError
            Shapes that do not match, or a radius beyond the grid's.
        """
        weights = weights.expand(values.shape)
        turns = rotations.to(self.sums.device, torch.float32).reshape(-1, 3, 3)
        frequencies = packed_frequencies(self.grid.max_radius, self.sums.device)
        count = int(values.shape[-1])
        if values.shape[0] != turns.shape[0] or count > frequencies.shape[0]:
            raise InputError(
                "values",
                f"shape {tuple(values.shape)} for {turns.shape[0]} rotations and {frequencies.shape[0]} frequencies",
                "Give one row per rotation, packed at a radius of at most max_radius.",
            )
        # Row by row, neighbouring samples share cache lines.
        rows = rows_of_packed(count, self.sums.device)
        points = frequencies[rows].float() * self.grid.scale
        offsets = corner_offsets(self.grid)
        for run in runs(turns.shape[0], count, self.sums.device):
            corners = corners_of_slices(turns[run], points, self.grid)
            part = values[run].index_select(1, rows).reshape(-1)
            sources = (
                part.real.contiguous(),
                part.imag * corners.sign,
                weights[run].index_select(1, rows).reshape(-1).float(),
            )
            shares = _shares(corners)
            # One table at a time stays in the cache. On a CPU scatter_add_ is faster than index_add_, and a view that
            # begins at the corner saves the sum of the index: together they halve the time.
            for table, source in zip(self.sums, sources, strict=True):
                for offset, share in zip(offsets, shares, strict=True):
                    table[offset:].scatter_add_(0, corners.index, source * share)

    def merge(self, other: SliceAccumulator) -> SliceAccumulator:
        """Sum of two accumulators of the same geometry, as a new one.

        Raises
        ------
        InputError
            The geometries differ.
        """
        if other.grid != self.grid:
            raise InputError("accumulators", f"{self.grid} and {other.grid}", "Merge only what has the same geometry.")
        return self._with(self.sums + other.sums)

    def symmetrised(self, matrices: Tensor) -> SliceAccumulator:
        """Sum of the accumulator over the rotations (n, 3, 3) of a point group, as a new one.

        Exact for rotations that map the grid onto itself. Others interpolate the sums, which blurs them slightly:
        insert the views at all equivalent rotations instead (:func:`split_point_group`).
        """
        tables = torch.stack(self._folded()).reshape(3, -1)
        turns = matrices.to(tables.device, torch.float32)
        if bool(((turns - turns.round()).abs() < _EXACT).all()):
            for factor in _factors(turns.round()):
                tables = tables + sum(self._turned(tables, matrix) for matrix in factor)
        else:
            tables = torch.stack([self._turned(tables, matrix) for matrix in turns]).sum(0)
        # The plane x = 0 is folded once more when it is read.
        tables = tables.clone()
        tables.view(3, *self.grid.shape)[..., 0] *= 0.5
        return self._with(tables)

    def _turned(self, tables: Tensor, matrix: Tensor) -> Tensor:
        """Tables (3, voxels) read at matrix · q for every entry q."""
        out = torch.zeros_like(tables)
        reach = self.grid.reach
        full = torch.arange(-reach, reach + 1, device=tables.device, dtype=torch.float32)
        y, x = (t.reshape(-1) for t in torch.meshgrid(full, full[reach:], indexing="ij"))
        exact = bool((matrix - matrix.round()).abs().amax() < _EXACT)
        for layer, target in enumerate(out.view(3, 2 * reach + 1, -1).unbind(1)):
            points = torch.stack([x, y, full[layer].expand_as(x)])
            if exact:
                corners = corners_of_points(matrix.round() @ points, self.grid)
                target += tables[:, corners.index]
            else:
                inside = points.square().sum(0) <= (reach - 1) ** 2
                corners = corners_of_points(matrix @ points * inside, self.grid)
                for offset, share in zip(corner_offsets(self.grid), _shares(corners), strict=True):
                    target += tables[:, corners.index + offset] * (share * inside)
            target[1] *= corners.sign
        return out

    def shell_weights(self) -> Tensor:
        """Mean weight (max_radius + 1,) of the table's entries in each shell of the unpadded transform."""
        return _shell_means(_folded(self.sums[2].view(self.grid.shape)), self._shells())[:-1]

    def reconstruct(
        self,
        regularisation: Tensor | None = None,
        *,
        iterations: int = 3,
        support_radius: float | None = None,
    ) -> Tensor:
        """Map (box, box, box) of the sums, in the units of the images that were inserted.

        The sums are divided by the weights (not below a thousandth of their shell's mean, as RELION), brought to real
        space and freed of the interpolation's attenuation. Conjugate gradients on the normal equations then account for
        how unevenly the slices cover the grid, inside a sphere.

        Parameters
        ----------
        regularisation
            (max_radius + 1,) 1 / τ² per shell in the accumulator's units (:meth:`shell_weights` over the ratio of
            signal to noise), added to the weight; none if absent.
        iterations
            Of the conjugate gradients; 0 leaves the whole box of the plain division.
        support_radius
            Radius [voxels] of the sphere outside which the map is zero if ``iterations`` > 0; box / 2 if absent.

        Raises
        ------
        InputError
            Iterations are wanted on a box that was not padded twice.
        """
        if iterations > 0 and self.grid.padded < 2 * self.grid.box:
            raise InputError(
                "iterations", f"{iterations} on a box padded to {self.grid.padded}", "Use padding 2, or iterations=0."
            )
        real, imaginary, weight = self._folded()
        numerator = torch.complex(real, imaginary)
        del real, imaginary
        inside = shells_of_grid(self.grid, weight.device) <= self.grid.max_radius
        shell = self._shells()
        typical = torch.where(inside, _shell_means(weight, shell)[shell], 0.0)
        prior = None
        if regularisation is not None:
            # Nothing is wanted beyond the last shell: any value does there.
            prior = torch.cat([regularisation.to(weight), regularisation.to(weight)[-1:]])[shell]
        level = torch.maximum(weight, 1e-3 * typical)
        if prior is not None:
            level += prior
        # Nothing was inserted where the level is zero.
        table = numerator / level.clamp_min_(1e-30)
        table *= inside
        # Where the radius is far from Nyquist, larger voxels hold all there is.
        work = self.grid.coarser()
        volume = inverse_half_transform(table, work)
        volume = volume / gridding_correction(work, volume.device)
        if iterations > 0:
            radius = 0.5 * self.grid.box if support_radius is None else support_radius
            volume = conjugate_gradients(
                numerator,
                weight,
                prior,
                typical,
                volume,
                work,
                support=sphere(work, radius * work.box / self.grid.box, volume.device),
                iterations=iterations,
            )
        # The inverse transform has divided by the number of coarser voxels.
        return resample(volume, self.grid.box) * (work.box / self.grid.box) ** 3

    def _shells(self) -> Tensor:
        """Shell (z, y, x) of each entry of the table; max_radius + 1 for all that lies beyond."""
        distance = shells_of_grid(self.grid, self.sums.device)
        return distance.round_().clamp_max_(self.grid.max_radius + 1).int()

    def _folded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Tables (z, y, x) whose plane x = 0 holds the mirrored halves of the slices too."""
        real, imaginary, weight = self.sums.view(3, *self.grid.shape)
        return _folded(real), _folded(imaginary, -1.0), _folded(weight)

    def _with(self, sums: Tensor) -> SliceAccumulator:
        new = SliceAccumulator.__new__(SliceAccumulator)
        object.__setattr__(new, "grid", self.grid)
        object.__setattr__(new, "sums", sums)
        return new


def _folded(table: Tensor, sign: float = 1.0) -> Tensor:
    """One real table (z, y, x) whose plane x = 0 holds its mirror image too, times ``sign``; a new tensor."""
    folded = table.clone()
    folded[..., 0] += sign * table[..., 0].flip(0, 1)
    return folded


def _shell_means(weight: Tensor, shell: Tensor) -> Tensor:
    """Mean weight (max_radius + 2,) of the table's entries in each shell, the last of all that lies beyond."""
    bins = shell.reshape(-1)
    count = torch.bincount(bins)
    total = torch.zeros(count.shape[0], device=weight.device).index_add_(0, bins, weight.reshape(-1))
    return total / count


def _shares(corners: Corners) -> tuple[Tensor, ...]:
    """Trilinear shares (n,) of the eight corners, in the order of :func:`corner_offsets`."""
    tx, ty, tz = corners.fraction
    ux, uy, uz = 1 - corners.fraction
    low, right, up, both = uy * uz, ty * uz, uy * tz, ty * tz
    return (low * ux, low * tx, right * ux, right * tx, up * ux, up * tx, both * ux, both * tx)


def _factors(matrices: Tensor) -> list[list[Tensor]]:
    """Factors K₁, K₂ … of a group of signed permutations, the identity left out of each.

    Every rotation is one product of an element (or the identity) of each factor, so that a sum over a group of 24 takes
    5 rotations of the sums instead of 23.
    """
    group = {_key(matrix): matrix for matrix in matrices}
    identity = torch.eye(3, dtype=matrices.dtype, device=matrices.device)

    def extend(known: dict[tuple[int, ...], Tensor]) -> list[list[Tensor]] | None:
        if len(known) == len(group):
            return []
        for matrix in group.values():
            for powers in ([matrix], [matrix, matrix @ matrix]):
                grown = dict(known)
                for power in powers:
                    grown |= {_key(old @ power): old @ power for old in known.values()}
                if len(grown) != len(known) * (len(powers) + 1) or len(group) % len(grown):
                    continue
                rest = extend(grown)
                if rest is not None:
                    return [powers, *rest]
        return None

    found = extend({_key(identity): identity})
    return [[m for m in matrices if _key(m) != _key(identity)]] if found is None else found


def _key(matrix: Tensor) -> tuple[int, ...]:
    return tuple(int(v) for v in matrix.round().reshape(-1).tolist())
