"""A trained pose network in a file, and particles of another session brought before it.

A network knows coefficients at the frequencies k / extent, with extent = box × pixel size, up to its radius. Images of
the same extent have the same coefficients whatever their pixel size; others are cut or padded to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from cryoprism.core import InputError, irfft2, resolve_device, rfft2
from cryoprism.formats import read_weights, write_weights

from ._packing import pack, unpack
from .pose_network import PoseNetwork, PoseNetworkConfig, per_shell

__all__ = ["StoredPoseNetwork", "in_another_box", "load_pose_network", "save_pose_network"]

_FORMAT = "cryoprism-poses-1"
_REMEDY = "Give a file 'poses.safetensors' that 'cryoprism synthesize --train-poses' wrote."
_NOTHING: Mapping[str, str] = MappingProxyType({})
_BATCH = 512
_MISFIT = 0.01  # of the extent: what whole pixels may miss it by


@dataclass(frozen=True, eq=False)
class StoredPoseNetwork:
    """A pose network with the scale that it was trained at.

    Attributes
    ----------
    network
        Ready for use.
    pixel_size_in_angstroms
        Of the images it was trained on.
    notes
        What else the file says: data, steps, seed, accuracy.
    """

    network: PoseNetwork
    pixel_size_in_angstroms: float
    notes: Mapping[str, str] = field(default_factory=lambda: _NOTHING)

    @property
    def extent_in_angstroms(self) -> float:
        """Side of the images."""
        return self.network.box * self.pixel_size_in_angstroms

    @property
    def diameter_in_angstroms(self) -> float:
        """Of the particle."""
        return self.network.config.diameter_in_pixels * self.pixel_size_in_angstroms

    @property
    def finest_in_angstroms(self) -> float:
        """Detail that it looks at."""
        return self.extent_in_angstroms / self.network.config.radius

    def box_at(self, pixel_size_in_angstroms: float) -> int:
        """Side [pixels] of the images that it can look at, at another pixel size.

        Raises
        ------
        InputError
            The pixels are too coarse.
        """
        box = round(self.extent_in_angstroms / pixel_size_in_angstroms)
        misfit = abs(box * pixel_size_in_angstroms / self.extent_in_angstroms - 1)
        if box <= 2 * self.network.config.radius or misfit > _MISFIT:
            raise InputError(
                "pixel size",
                f"{pixel_size_in_angstroms:.4g} Å is too coarse: the network looks at {self.finest_in_angstroms:.3g} Å",
                f"Give images of pixels up to {0.5 * self.finest_in_angstroms:.3g} Å.",
            )
        return box


def in_another_box(images: Tensor, box: int, side: int, radius: int) -> Tensor:
    """Packed transforms (n, N') at a radius of images (n, N) of ``box`` pixels, cut or padded to ``side`` pixels.

    The pixel size stays; what is padded is as grey as the border.
    """
    if side == box:
        return images[:, : pack(torch.zeros(box, box // 2 + 1, dtype=torch.complex64), radius).shape[-1]]
    common = min(side, box)
    found = []
    for part in torch.split(images, _BATCH):
        seen = irfft2(unpack(part, box), (box, box))
        # Packed coefficients have no mean; what is padded goes on from the border.
        border = torch.cat([seen[:, 0], seen[:, -1], seen[:, :, 0], seen[:, :, -1]], 1)
        seen = seen - border.mean(1)[:, None, None]
        out = torch.zeros(len(part), side, side, dtype=seen.dtype, device=seen.device)
        # The centre is pixel n // 2 in both.
        a, b = box // 2 - common // 2, side // 2 - common // 2
        out[:, b : b + common, b : b + common] = seen[:, a : a + common, a : a + common]
        found.append(pack(rfft2(out), radius))
    return torch.cat(found)


def save_pose_network(path: str | Path, stored: StoredPoseNetwork) -> str:
    """Write weights as safetensors, with all that is needed to load them; returns the file's SHA-256."""
    network = stored.network
    noise = 1.0 / per_shell(network.precision.detach().cpu(), network.config.radius)
    notes = dict(stored.notes) | {
        "format": _FORMAT,
        "config": json.dumps(asdict(network.config)),
        "symmetry": network.config.symmetry,
        "box": str(network.box),
        "pixel_size_in_angstroms": repr(stored.pixel_size_in_angstroms),
        "noise_variance_per_shell": json.dumps([float(f"{value:.6g}") for value in noise.tolist()]),
    }
    return write_weights(path, network.state_dict(), notes)


def load_pose_network(path: str | Path, *, device: str = "cpu") -> StoredPoseNetwork:
    """Load a network that :func:`save_pose_network` wrote.

    Raises
    ------
    InputError
        No such file, not a pose network, or no such device.
    """
    place = resolve_device(device)
    file = Path(path)
    state, notes = read_weights(file, _FORMAT, _REMEDY)
    try:
        config = PoseNetworkConfig(**json.loads(notes["config"]))
        noise = torch.tensor(json.loads(notes["noise_variance_per_shell"]))
        network = PoseNetwork(config, int(notes["box"]), noise)
        network.load_state_dict(state)
        pixel = float(notes["pixel_size_in_angstroms"])
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise InputError(file, "does not hold the weights that its metadata describe", _REMEDY) from error
    return StoredPoseNetwork(network.eval().to(place), pixel, MappingProxyType(notes))
