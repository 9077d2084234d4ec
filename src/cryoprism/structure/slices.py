"""Central slices of a padded Fourier volume and their insertion, at a limited radius, packed.

*Packed* coefficients are those of a half plane (kx > 0, or kx = 0 and ky > 0) inside a radius of r pixels of the
unpadded transform, without the zero frequency, as one flat axis sorted by shell: what belongs to a smaller radius is a
prefix of what belongs to a larger one. Their phases count from the image centre, pixel box // 2.

A slice of the view with rotation A is V(Aᵀ k), as in :func:`cryoprism.microscope.project_volume`. Volumes are kept as
the half kx ≥ 0 of the transform of the padded box, cropped to the radius that is used; points with kx < 0 are read as
the conjugate of their mirror image. Interpolation is trilinear, its attenuation 1 / sinc² is corrected in real space.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.core import InputError

from ._packing import pack, pack_real, packed_frequencies, packed_shells, unpack
from ._transforms import PaddedGrid, gridding_correction, half_transform
from ._trilinear import corners_of_slices, interpolate, runs
from .accumulator import SliceAccumulator, split_point_group

__all__ = [
    "FourierVolume",
    "SliceAccumulator",
    "pack",
    "pack_real",
    "packed_frequencies",
    "packed_shells",
    "split_point_group",
    "unpack",
]


@dataclass(frozen=True)
class FourierVolume:
    """Transform of a map, ready to be sliced.

    Attributes
    ----------
    grid
        Geometry of the padded transform.
    table
        (z, y, x) complex64 half transform: x from 0 to ``grid.reach``, y and z from -reach to reach.
    """

    grid: PaddedGrid
    table: Tensor

    @classmethod
    def from_map(cls, volume: Tensor, padding: int = 2, max_radius: int | None = None) -> FourierVolume:
        """Correct a cubic map (z, y, x) for the interpolation, pad and transform it.

        Parameters
        ----------
        volume
            (z, y, x); its centre of rotation is voxel box // 2.
        padding
            Times the box; 2 as RELION.
        max_radius
            Largest radius [pixels of the unpadded transform] that will be asked for; (box - 1) // 2 if absent.

        Raises
        ------
        InputError
            Not a cube, padding below 1, radius beyond the box.
        """
        box = int(volume.shape[-1])
        if tuple(volume.shape) != (box, box, box):
            raise InputError("volume", f"shape {tuple(volume.shape)} is not a cube", "Pad it to (n, n, n).")
        grid = PaddedGrid.of(box, padding, max_radius)
        corrected = volume.float() / gridding_correction(grid, volume.device)
        return cls(grid, half_transform(corrected, grid))

    def slices(self, rotations: Tensor, radius: int) -> Tensor:
        """Central slices V(Aᵀ k) (m, N) complex64 at the packed frequencies of ``radius`` for rotations (m, 3, 3).

        Equal to the packed transform of the projection Σ_z of the rotated map (no voxel size in it).
        """
        frequencies = self._frequencies(radius)
        turns = rotations.to(self.table.device, torch.float32).reshape(-1, 3, 3)
        count = frequencies.shape[0]
        out = torch.empty(turns.shape[0], count, 2, dtype=torch.float32, device=self.table.device)
        bits = self._bits()
        for run in runs(turns.shape[0], count, self.table.device):
            corners = corners_of_slices(turns[run], frequencies, self.grid)
            values = interpolate(bits, corners, self.grid)[0].view(-1, 2)
            values[:, 1] *= corners.sign
            out[run] = values.view(-1, count, 2)
        return torch.view_as_complex(out)

    def gradient_slices(self, rotations: Tensor, radius: int) -> tuple[Tensor, Tensor]:
        """Slices (m, N) and their derivatives (m, N, 3) along x, y, z of the point q = Aᵀ k [per unpadded pixel].

        The derivative is that of the interpolated value, constant along each axis within a cell of the padded grid.
        """
        frequencies = self._frequencies(radius)
        turns = rotations.to(self.table.device, torch.float32).reshape(-1, 3, 3)
        count = frequencies.shape[0]
        out = torch.empty(turns.shape[0], count, 4, 2, dtype=torch.float32, device=self.table.device)
        bits = self._bits()
        for run in runs(turns.shape[0], count, self.table.device):
            corners = corners_of_slices(turns[run], frequencies, self.grid)
            value, along_x, along_y, along_z = interpolate(bits, corners, self.grid, slopes=True)
            target = out[run].view(-1, 4, 2)
            target[:, 0] = value.view(-1, 2)
            for i, slope in enumerate((along_x, along_y, along_z), start=1):
                # d/dq conj V(-q) = -conj V'(-q)
                target[:, i] = slope.view(-1, 2) * (corners.sign * self.grid.scale)[:, None]
            target[..., 1] *= corners.sign[:, None]
        both = torch.view_as_complex(out)
        return both[:, :, 0], both[:, :, 1:]

    def _frequencies(self, radius: int) -> Tensor:
        if radius > self.grid.max_radius:
            raise InputError(
                "radius", f"{radius} exceeds the {self.grid.max_radius} pixels that were kept", "Raise max_radius."
            )
        return packed_frequencies(radius, self.table.device).float() * self.grid.scale

    def _bits(self) -> Tensor:
        # A complex number is moved as one 8-byte word: half the gathers.
        return torch.view_as_real(self.table.contiguous()).view(torch.int64).reshape(-1)
