"""A pose network that was trained before, as the start of a refinement."""

from __future__ import annotations

import torch
from torch import Tensor

from cryoprism.core import InputError
from cryoprism.particles import transfer_at
from cryoprism.structure import StoredPoseNetwork, in_another_box, load_pose_network, packed_frequencies
from cryoprism.workflow.particles.data import ParticleData

from .configs import RefineConfig

__all__ = ["fitting_network", "proposals_of"]

_OPTION = "--pose-network-file"
_OTHER_DIAMETER = 0.15


def fitting_network(config: RefineConfig, box: int, pixel_size_in_angstroms: float) -> StoredPoseNetwork | None:
    """Load the network that a configuration names; None where it names none.

    Parameters
    ----------
    box, pixel_size_in_angstroms
        Of the particle images as they are in their files.

    Raises
    ------
    InputError
        The file is no pose network, is one of another symmetry or diameter, or the images are too coarse for it.
    """
    if config.pose_network_file is None:
        return None
    stored = load_pose_network(config.pose_network_file, device=config.device)
    mine, asked = stored.network.config.symmetry, config.symmetry
    if _plain(mine) != _plain(asked):
        raise InputError(_OPTION, f"was trained for {mine}, not {asked}", f"Give --symmetry {mine}, or train another.")
    diameter = stored.diameter_in_angstroms
    if abs(diameter / config.diameter_in_angstroms - 1) > _OTHER_DIAMETER:
        raise InputError(
            _OPTION,
            f"was trained for a particle of {diameter:.4g} Å, not {config.diameter_in_angstroms:.4g} Å",
            "Give the --diameter that it was trained with, or train another.",
        )
    side = config.scaled_box_in_pixels or box
    try:
        stored.box_at(pixel_size_in_angstroms * box / side)
    except InputError as error:
        remedy = "Raise --scale, or leave it out." if config.scaled_box_in_pixels else error.remedy
        raise InputError(_OPTION, f"{error.where}: {error.found}", remedy) from error
    return stored


def _plain(symmetry: str) -> str:
    name = symmetry.strip().upper()
    return "I2" if name == "I" else name


def proposals_of(stored: StoredPoseNetwork, data: ParticleData, count: int) -> Tensor:
    """Orientations (n, count, 3, 3) that a network names for particles, best first.

    It sees the images in its own box and through their bare CTF, as in its training.
    """
    network, pixel = stored.network, data.pixel_size_in_angstroms
    side = stored.box_at(pixel)
    k = packed_frequencies(network.config.radius).float() / (side * pixel)
    # Frequencies are wanted per pixel of the images as they are in their files.
    k = k * float(data.particles.pixel_size_in_angstroms[0])
    found = []
    for chosen in torch.split(torch.arange(len(data.particles)), 1024):
        seen = in_another_box(data.images[chosen], data.box, side, network.config.radius)
        transfer = transfer_at(data.particles, k[None, :, 1], k[None, :, 0], chosen, damping=False)[:, 0]
        found.append(network.candidates(seen, transfer, count).rotations.cpu())
    return torch.cat(found)
