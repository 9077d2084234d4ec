"""The round part of a map, which needs no orientation: spherical averages, and the centres of particles by them."""

from __future__ import annotations

import torch
from torch import Tensor

from cryoprism.core import generator_for, random_rotations

from .likelihood import AlignmentData, packed_count, real_and_imaginary, shift_phases
from .masks import soft_sphere
from .maximisation import noise_from_power, shell_noise
from .orientations import shift_disc
from .schedule import RefinementSettings
from .slices import FourierVolume, SliceAccumulator

__all__ = ["centred", "some_particles", "spherical_average", "support_of_start"]

_MOST_PARTICLES = 4000
# Share of a sphere inside the mask from which on it counts whole.
_MASKED = 0.1


def spherical_average(volume: Tensor) -> Tensor:
    """Average of a cubic map (box, box, box) over all rotations about voxel box // 2, as a map."""
    box = int(volume.shape[-1])
    axis = torch.arange(box, device=volume.device) - box // 2
    # Three bins a voxel: between wider ones a sharp shell is not straight.
    distance = 3 * (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).float().sqrt()
    lower = distance.floor().long()
    part = distance - lower
    size = int(lower.max()) + 2
    total, count = torch.zeros(2, size, device=volume.device)
    for index, share in ((lower, 1 - part), (lower + 1, part)):
        total.index_add_(0, index.flatten(), (share * volume).flatten())
        count.index_add_(0, index.flatten(), share.flatten())
    profile = total / count.clamp_min(1e-6)
    average: Tensor = (1 - part) * profile[lower] + part * profile[lower + 1]
    return average


def some_particles(
    images: Tensor,
    transfer: Tensor,
    group: Tensor,
    radius: int,
    box: int,
    seed: int,
    factor: float,
    device: torch.device | str,
) -> AlignmentData:
    """As many particles as a first map needs, cropped to the radius and times a factor, on the device of the work."""
    chosen = torch.randperm(len(images), generator=generator_for(seed, "round-particles"))[:_MOST_PARTICLES]
    chosen = chosen.sort().values.to(images.device)
    count = packed_count(radius)
    part = images[chosen, :count] * factor
    noise = noise_from_power(part, group[chosen], radius)
    # A half may lack the last micrographs of all.
    missing = int(group.max()) + 1 - len(noise)
    noise = torch.cat([noise, noise.mean(0, keepdim=True).expand(missing, -1)])
    return AlignmentData(
        part.to(device), transfer[chosen, :count].to(device), noise.to(device), group[chosen].to(device), box
    )


def centred(
    data: AlignmentData,
    settings: RefinementSettings,
    radius: int,
    seed: int,
    rounds: int = 6,
    *,
    mask: Tensor | None = None,
) -> tuple[AlignmentData, Tensor]:
    """Particles moved to their centres, with noise measured from what a round particle leaves, and the round map.

    Parameters
    ----------
    data
        From :func:`some_particles`.
    settings
        Diameter, pixel size of ``data`` and range of shifts.
    radius
        Shells that are used.
    seed
        Of the random orientations in which a round particle may be inserted.
    rounds
        Of centring; the first half of them to whole pixels.
    mask
        (box, box, box) in [0, 1]: where the map may be; only the sphere of the diameter if absent.
    """
    box, pixel = data.box, settings.pixel_size_in_angstroms
    support = support_of_start(box, settings, data.images.device)
    if mask is not None:
        # The round map is an average: it ends where the mask leaves nothing of a sphere, not where it cuts into one.
        support = support * (spherical_average(mask) / _MASKED).clamp(max=1)
    reach = settings.shift_range_in_angstroms / pixel
    shifts = torch.zeros(len(data), 2, device=data.images.device)
    ball = support
    for number in range(rounds):
        coarse = number < rounds // 2
        moved = data.images * shift_phases(shifts[:, None], radius, box)[:, 0]
        over_noise = data.transfer / data.noise_variance[data.group]
        accumulator = SliceAccumulator(box, max_radius=radius, device=data.images.device)
        turns = random_rotations(len(data), generator_for(seed, "round-centre", number)).to(data.images.device)
        accumulator.add(moved * over_noise, data.transfer * over_noise, turns)
        weights = accumulator.shell_weights()
        plain = accumulator.reconstruct((0.01 * weights[1:].mean()).expand(len(weights)), iterations=0)
        ball = spherical_average(plain) * support
        view = FourierVolume.from_map(ball, max_radius=radius).slices(torch.eye(3, device=ball.device)[None], radius)[0]
        disc = shift_disc(max(reach, 1.0), 1.0, ball.device) if coarse else shift_disc(1.5, 0.5, ball.device)
        origin = torch.zeros_like(shifts) if coarse else shifts
        image = data.images * shift_phases(origin[:, None], radius, box)[:, 0]
        scores = 2 * (
            real_and_imaginary(image * over_noise * view.conj())
            @ real_and_imaginary(shift_phases(disc, radius, box).conj()).T
        )
        # The nearest step first, the posterior mean once it is close.
        shifts = disc[scores.argmax(1)] if coarse else origin + torch.softmax(scores, 1) @ disc
        rest = data.images * shift_phases(shifts[:, None], radius, box)[:, 0] - view * data.transfer
        noise = shell_noise(rest.abs() ** 2, data.group, int(data.noise_variance.shape[0]), radius)
        data = AlignmentData(data.images, data.transfer, noise, data.group, box)
    moved = data.images * shift_phases(shifts[:, None], radius, box)[:, 0]
    return AlignmentData(moved, data.transfer, data.noise_variance, data.group, box), ball


def support_of_start(box: int, settings: RefinementSettings, device: torch.device) -> Tensor:
    """Soft sphere (box, box, box) of the diameter."""
    pixel = settings.pixel_size_in_angstroms
    sphere = soft_sphere(
        (box, box, box), pixel, 0.5 * settings.diameter_in_angstroms, soft_edge_in_angstroms=max(6.0, 2 * pixel)
    )
    return sphere.to(device)
