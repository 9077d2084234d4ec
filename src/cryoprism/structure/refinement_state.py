"""What a refinement begins with and goes on from: its state, and the state before the first pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cryoprism.core import euler_to_matrix, generator_for, matrix_to_euler, random_rotations

from .fsc import radial_filter
from .likelihood import packed_count
from .masks import soft_sphere
from .maximisation import noise_from_power
from .schedule import RefinementSettings
from .slices import FourierVolume

__all__ = ["RefinementState", "sphere_of", "start_state", "support_of"]


@dataclass(frozen=True)
class RefinementState:
    """Everything that the next pass needs; a refinement resumes from it.

    The maps decide on which device the work is done; what belongs to particles and micrographs stays with the images.

    Attributes
    ----------
    references
        Filtered, masked maps of the two halves (box, box, box) in the units of the images.
    maps
        Unfiltered half maps.
    noise_variance
        (groups, N).
    scales
        (groups,) strength of each micrograph.
    rotations, shifts
        (n, 3, 3) and (n, 2) [pixels]: most probable poses.
    probability, log_evidence
        (n,).
    fsc
        (box // 2 + 1,) of the maps inside the mask.
    radius
        Shells used in the next search.
    iteration
        Passes done.
    history
        One row a pass: what the log shows.
    """

    references: tuple[Tensor, Tensor]
    maps: tuple[Tensor, Tensor]
    noise_variance: Tensor
    scales: Tensor
    rotations: Tensor
    shifts: Tensor
    probability: Tensor
    log_evidence: Tensor
    fsc: Tensor
    radius: int
    iteration: int = 0
    settled: bool = False
    history: tuple[dict[str, float], ...] = field(default=())

    def on(self, device: torch.device) -> RefinementState:
        """Return the state with its maps on a device, so that the next pass works there."""
        first, second = (m.to(device) for m in self.references)
        return replace(self, references=(first, second), maps=(self.maps[0].to(device), self.maps[1].to(device)))


def start_state(
    images: Tensor,
    transfer: Tensor,
    group: Tensor,
    reference: Tensor,
    settings: RefinementSettings,
    radius: int,
) -> RefinementState:
    """State before the first pass: the reference scaled to the images, noise from their power.

    Parameters
    ----------
    images, transfer
        (n, N) packed at ``radius``.
    group
        (n,) micrograph of each particle.
    reference
        (box, box, box), any positive scale; on the device where the work is to be done.
    """
    box = int(reference.shape[-1])
    here = images.device
    pixel = settings.pixel_size_in_angstroms
    first = max(4, min(radius, round(box * pixel / settings.initial_resolution_in_angstroms)))
    shells = torch.arange(box // 2 + 1, dtype=torch.float32)
    smooth = torch.exp(-math.log(2) * (shells / first) ** 2)
    filtered = radial_filter(reference, smooth)
    if settings.filament is not None:
        filtered = settings.filament.symmetrised(filtered, pixel)
    filtered = filtered * support_of(box, settings).to(filtered)
    noise = noise_from_power(images, group, radius)
    count = packed_count(min(radius, first + 2))
    # Low shells hold signal and noise: the noise's level is read where the reference has died away.
    power = (images.abs() ** 2).mean(0)
    floor = power[packed_count(min(radius, 2 * first)) :].mean() if radius > 2 * first else power.min()
    volume = FourierVolume.from_map(filtered, max_radius=radius)
    turns = random_rotations(200, generator_for(settings.seed, "start-scale"))
    if settings.filament is not None:
        turns = _side_views(turns)
    view = (volume.slices(turns, min(radius, first + 2)).abs() ** 2).mean(0).to(here)
    expected = view * (transfer[:, :count] ** 2).mean(0)
    excess = (power[:count] - floor).clamp_min(0)
    used = packed_count(1) if count > packed_count(2) else 0
    scale = math.sqrt(float(excess[used:].sum()) / max(float(expected[used:].sum()), 1e-30))
    filtered = filtered * scale
    n = len(images)
    return RefinementState(
        references=(filtered, filtered.clone()),
        maps=(filtered, filtered.clone()),
        noise_variance=noise,
        scales=torch.ones(int(group.max()) + 1, device=here),
        rotations=torch.eye(3, device=here).expand(n, 3, 3).clone(),
        shifts=torch.zeros(n, 2, device=here),
        probability=torch.zeros(n, device=here),
        log_evidence=torch.zeros(n, device=here),
        fsc=smooth,
        radius=min(radius, first + 2),
    )


def support_of(box: int, settings: RefinementSettings) -> Tensor:
    """Soft support (box, box, box) of the map, unless a mask says it: a sphere, for filaments inside their cylinder."""
    sphere = sphere_of(box, settings)
    if settings.filament is None:
        return sphere
    return settings.filament.support(sphere, settings.pixel_size_in_angstroms)


def sphere_of(box: int, settings: RefinementSettings) -> Tensor:
    """Soft sphere (box, box, box) of the particle's diameter."""
    return soft_sphere(
        (box, box, box),
        settings.pixel_size_in_angstroms,
        0.5 * settings.diameter_in_angstroms,
        soft_edge_in_angstroms=max(6.0, 3 * settings.pixel_size_in_angstroms),
    )


def _side_views(turns: Tensor) -> Tensor:
    """Rotations (m, 3, 3) with their tilt made 90°: along its axis a filament looks far brighter than it ever does."""
    rot, tilt, psi = matrix_to_euler(turns)
    return euler_to_matrix(rot, torch.full_like(tilt, 90.0), psi)
