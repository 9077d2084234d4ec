"""Two half maps ready to be compared with particles of their own half set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.core import InputError

from ._packing import packed_frequencies
from .fsc import fourier_shell_correlation, radial_filter
from .masks import soft_sphere
from .slices import FourierVolume

__all__ = ["MapReference"]


@dataclass(frozen=True)
class MapReference:
    """Two half maps ready to be compared with particles.

    Attributes
    ----------
    halves
        Transforms of half 1 and half 2, each shell multiplied by the correlation of the halves.
    fsc
        (radius + 1,) that correlation.
    radius
        Largest shell that is used [pixels]: the last before FSC = 0.143, or before the finest resolution asked for.
    box
        Side of the maps [pixels].
    pixel_size_in_angstroms
        [Å].
    """

    halves: tuple[FourierVolume, FourierVolume]
    fsc: Tensor
    radius: int
    box: int
    pixel_size_in_angstroms: float

    @classmethod
    def from_half_maps(
        cls,
        half1: Tensor,
        half2: Tensor,
        pixel_size_in_angstroms: float,
        *,
        mask: Tensor | None = None,
        maximum_resolution_in_angstroms: float | None = None,
    ) -> MapReference:
        """Mask, weight and transform two unfiltered half maps (z, y, x).

        Parameters
        ----------
        half1, half2
            Cubes of one size.
        pixel_size_in_angstroms
            [Å].
        mask
            0 to 1, soft; the sphere that fits the box if absent.
        maximum_resolution_in_angstroms
            Finest frequencies used; where FSC falls below 0.143 if absent (and never beyond).

        Raises
        ------
        InputError
            Maps that are no cubes of one size, or halves that do not agree in the first shells.
        """
        box = int(half1.shape[-1])
        shape = (box, box, box)
        if tuple(half1.shape) != shape or tuple(half2.shape) != shape:
            raise InputError(
                "half maps", f"{tuple(half1.shape)} and {tuple(half2.shape)} voxels", "Give two cubes of one size."
            )
        pixel = float(pixel_size_in_angstroms)
        if mask is None:
            edge = 0.05 * box * pixel
            mask = soft_sphere(shape, pixel, 0.5 * box * pixel - edge, soft_edge_in_angstroms=edge)
        mask = mask.to(half1)
        fsc = fourier_shell_correlation(half1, half2, pixel, mask=mask).fsc.float()
        most = (box - 1) // 2
        below = (fsc[1 : most + 1] < 0.143).nonzero()
        radius = int(below[0]) if len(below) else most
        if maximum_resolution_in_angstroms is not None:
            radius = min(radius, int(box * pixel / maximum_resolution_in_angstroms))
        if radius < 3:
            raise InputError(
                "half maps",
                f"agree (FSC 0.143) in {radius} shells only",
                "Give the two unfiltered half maps of one refinement, better than a fifth of the box.",
            )
        gain = fsc.clamp(0.0, 1.0)
        first, second = (
            FourierVolume.from_map(radial_filter(half * mask, gain), max_radius=radius) for half in (half1, half2)
        )
        return cls((first, second), fsc[: radius + 1], radius, box, pixel)

    def slices(self, rotations: Tensor, half_set: Tensor) -> Tensor:
        """Slices (n, N) of views, each through the map of its own half (n,) 1 or 2."""
        out = torch.empty(
            rotations.shape[0], packed_frequencies(self.radius).shape[0], dtype=torch.complex64, device=rotations.device
        )
        for number, volume in enumerate(self.halves, 1):
            mine = half_set == number
            if bool(mine.any()):
                out[mine] = volume.slices(rotations[mine], self.radius)
        return out
