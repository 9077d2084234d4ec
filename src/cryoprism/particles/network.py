"""The learned picker: a small fully convolutional network that scores every point of a micrograph as a particle centre.

The network sees the channels of :mod:`cryoprism.particles._inputs` at a scale set by the particle's diameter. Its
weights ship with the package; the card beside them says how they were made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from cryoprism.core import InputError, resolve_device
from cryoprism.formats import read_weights, write_weights
from cryoprism.restoration.masks import ArtefactMask

from ._inputs import (
    PIXELS_PER_DIAMETER,
    Transfer,
    centre_odds,
    null_channels,
    picker_channels,
    sharpened,
    working_pixel,
)
from .picks import Picks, pick_from_score_map

__all__ = [
    "LOWEST_LOG_ODDS",
    "LearnedPicker",
    "PickerNetwork",
    "ScoreMap",
    "Transfer",
    "load_picker",
    "save_picker",
    "shipped_weights",
]

LOWEST_LOG_ODDS = -9.0
"""Lowest figure of merit of what counts as a candidate."""

CHANNELS = 3
_FORMAT = "cryoprism-picker-1"
_STRIDE = 8  # pixels of the working image per pixel of the coarsest layer
_VIEWS = ((0, False), (1, True))  # quarter turns and whether mirrored after: the network's answers are averaged
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class ScoreMap:
    """How much each point of a micrograph looks like the centre of a particle.

    Attributes
    ----------
    values
        (h', w') log-odds (natural logarithm), on the CPU; pixel (i, j) lies (i, j) × the pixel size from the first
        pixel of the micrograph.
    pixel_size_in_angstroms
        Of the map.
    spots
        (h', w') log-odds of a pixel lying on the spot that marks a centre: less sure than ``values``, which add them up
        about each point, but with a maximum or a shoulder of its own for each of two neighbours.
    """

    values: Tensor
    pixel_size_in_angstroms: float
    spots: Tensor

    def picks(self, min_distance_in_angstroms: float, threshold: float, *, pixel_size_in_angstroms: float) -> Picks:
        """Return picks near the maxima of the sharpened ``spots``, with ``values`` as figure of merit.

        Arguments as of ``pick_from_score_map``.
        """
        return pick_from_score_map(
            sharpened(self.spots),
            self.pixel_size_in_angstroms,
            min_distance_in_angstroms,
            threshold,
            pixel_size_in_angstroms=pixel_size_in_angstroms,
            merit_map=self.values,
            place_map=self.spots,
        )


class _Block(nn.Module):
    """Two convolutions beside a shortcut, each after group normalisation and rectification."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.norm_1 = nn.GroupNorm(8, width)
        self.conv_1 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm_2 = nn.GroupNorm(8, width)
        self.conv_2 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_1(torch.relu(self.norm_1(x)))
        out: Tensor = x + self.conv_2(torch.relu(self.norm_2(y)))
        return out


class PickerNetwork(nn.Module):
    """Encoder and decoder over three scales: 12, 6 and 3 pixels per particle diameter.

    Channels (b, 3, h, w) in, log-odds (b, h, w) out, for any height and width. The receptive field is wider than four
    diameters: a particle is judged with its neighbours.

    Parameters
    ----------
    widths
        Features at the three scales, multiples of 8.
    """

    def __init__(self, widths: tuple[int, int, int] = (24, 48, 64)) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.widths = widths
        self.stem = nn.Conv2d(4 * CHANNELS, fine, 3, padding=1)
        self.encode_fine = _Block(fine)
        self.down_middle = nn.Conv2d(fine, middle, 3, stride=2, padding=1)
        self.encode_middle = _Block(middle)
        self.down_coarse = nn.Conv2d(middle, coarse, 3, stride=2, padding=1)
        self.bottom = nn.Sequential(_Block(coarse), _Block(coarse, dilation=2))
        self.up_middle = nn.Conv2d(coarse, middle, 1)
        self.decode_middle = _Block(middle)
        self.up_fine = nn.Conv2d(middle, fine, 1)
        self.decode_fine = _Block(fine)
        self.head_norm = nn.GroupNorm(8, fine)
        self.head = nn.Conv2d(fine, 4, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, -4.0)  # type: ignore[arg-type]

    def forward(self, channels: Tensor) -> Tensor:
        """Return log-odds (b, h, w) of channels (b, 3, h, w)."""
        height, width = channels.shape[-2:]
        pad = (0, -width % _STRIDE, 0, -height % _STRIDE)
        x = nn.functional.pixel_unshuffle(nn.functional.pad(channels, pad), 2)
        fine = self.encode_fine(self.stem(x))
        middle = self.encode_middle(self.down_middle(fine))
        x = self.bottom(self.down_coarse(middle))
        x = self.decode_middle(middle + nn.functional.interpolate(self.up_middle(x), scale_factor=2.0))
        x = self.decode_fine(fine + nn.functional.interpolate(self.up_fine(x), scale_factor=2.0))
        x = nn.functional.pixel_shuffle(self.head(torch.relu(self.head_norm(x))), 2)
        return x[:, 0, :height, :width]


@dataclass(frozen=True, eq=False)
class LearnedPicker:
    """A network with its weights, ready to score micrographs; :func:`load_picker` makes it.

    Attributes
    ----------
    network
        In evaluation mode, on ``device``.
    device
        Where it runs.
    offset
        Subtracted from the network's output: the logarithm of the weight that positives had in training.
    notes
        Metadata of the weights: how they were trained, under ``calibration`` what a score is worth, and under
        ``threshold`` the score that serves as a limit where there is no calibration.
    """

    network: PickerNetwork
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    offset: float = 0.0
    notes: Mapping[str, str] = field(default_factory=lambda: _NOTHING)

    def score(
        self,
        micrograph: Tensor,
        pixel_size_in_angstroms: float,
        *,
        diameter_in_angstroms: float,
        transfer: Transfer | None = None,
        mask: Tensor | ArtefactMask | None = None,
    ) -> ScoreMap:
        """Log-odds of a particle centre at every point.

        Parameters
        ----------
        micrograph
            (h, w) raw pixels, protein dark; not changed.
        pixel_size_in_angstroms
            Its pixel size [Å].
        diameter_in_angstroms
            Longest diameter of the particle [Å], right to about a quarter.
        transfer
            The CTF, where it is known: it sharpens the picture that the network sees.
        mask
            Artefact labels (``restoration.masks``) at any resolution: what they cover gets low scores.

        Raises
        ------
        InputError
            A value or an image that cannot be used.
        """
        channels = self._channels(micrograph, pixel_size_in_angstroms, diameter_in_angstroms, transfer, mask)
        return self._scored(channels, diameter_in_angstroms)

    def score_with_null(
        self,
        micrograph: Tensor,
        pixel_size_in_angstroms: float,
        *,
        diameter_in_angstroms: float,
        generator: torch.Generator,
        transfer: Transfer | None = None,
        mask: Tensor | ArtefactMask | None = None,
    ) -> tuple[ScoreMap, ScoreMap]:
        """Score a micrograph, and a copy of it that keeps its power and mask and holds no particle.

        Arguments and errors as of :meth:`score`; ``generator`` (on the CPU) draws the Fourier phases of the copy.
        """
        channels = self._channels(micrograph, pixel_size_in_angstroms, diameter_in_angstroms, transfer, mask)
        null = null_channels(channels, diameter_in_angstroms, transfer, generator)
        return self._scored(channels, diameter_in_angstroms), self._scored(null, diameter_in_angstroms)

    def _channels(
        self,
        micrograph: Tensor,
        pixel_size_in_angstroms: float,
        diameter_in_angstroms: float,
        transfer: Transfer | None,
        mask: Tensor | ArtefactMask | None,
    ) -> Tensor:
        return picker_channels(
            torch.as_tensor(micrograph).to(self.device),
            pixel_size_in_angstroms,
            diameter_in_angstroms=diameter_in_angstroms,
            transfer=transfer,
            mask=_to(mask, self.device),
        )

    def _scored(self, channels: Tensor, diameter_in_angstroms: float) -> ScoreMap:
        with torch.no_grad():
            each = [_back(self.network(_view(channels, *view)[None])[0], *view) for view in _VIEWS]
            spots = torch.stack(each).mean(0) - self.offset
            values = centre_odds(spots)
        return ScoreMap(values.float().cpu(), working_pixel(diameter_in_angstroms), spots.float().cpu())

    def to(self, device: str) -> LearnedPicker:
        """Return a copy of the picker on another device (``cpu``, ``cuda``, ``cuda:N``, ``mps``)."""
        place = resolve_device(device)
        return replace(self, network=copy_of(self.network).to(place), device=place)


def _view(image: Tensor, turns: int, mirrored: bool) -> Tensor:
    """Images (..., h, w) turned by quarters and then mirrored."""
    turned = torch.rot90(image, turns, (-2, -1))
    return (turned.flip(-1) if mirrored else turned).contiguous()


def _back(image: Tensor, turns: int, mirrored: bool) -> Tensor:
    """Undo :func:`_view`."""
    return torch.rot90(image.flip(-1) if mirrored else image, -turns, (-2, -1))


def _to(mask: Tensor | ArtefactMask | None, device: torch.device) -> Tensor | None:
    if mask is None:
        return None
    return (mask.labels if isinstance(mask, ArtefactMask) else mask).to(device)


def copy_of(network: PickerNetwork) -> PickerNetwork:
    """Return a network with the same weights, independent of the first."""
    copy = PickerNetwork(network.widths)
    copy.load_state_dict({name: value.detach().cpu().clone() for name, value in network.state_dict().items()})
    return copy.eval()


def shipped_weights() -> Path:
    """File of the weights that ship with the package."""
    return Path(__file__).parent / "weights" / "picker.safetensors"


def save_picker(path: str | Path, picker: LearnedPicker) -> str:
    """Write the weights as safetensors, with all that is needed to load them; returns the file's SHA-256."""
    notes = dict(picker.notes) | {
        "format": _FORMAT,
        "widths": json.dumps(list(picker.network.widths)),
        "pixels_per_diameter": str(PIXELS_PER_DIAMETER),
        "offset": repr(picker.offset),
    }
    return write_weights(path, picker.network.state_dict(), notes)


def load_picker(path: str | Path | None = None, *, device: str = "cpu") -> LearnedPicker:
    """Load a learned picker.

    Parameters
    ----------
    path
        A ``.safetensors`` file that :func:`save_picker` wrote; None takes the weights of the package.
    device
        ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; never replaced by another one.

    Raises
    ------
    InputError
        No such file, not weights of this picker, or no such device.
    """
    place = resolve_device(device)
    file = shipped_weights() if path is None else Path(path)
    if not file.is_file():
        raise InputError(file, "no such file", "Give weights that 'cryoprism train-picker' wrote, or none.")
    state, notes = read_weights(file, _FORMAT, _REMEDY)
    if notes.get("pixels_per_diameter") != str(PIXELS_PER_DIAMETER):
        raise InputError(file, f"works at {notes.get('pixels_per_diameter')} pixels across a particle", _REMEDY)
    network = PickerNetwork(_widths(notes["widths"]))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(file, "does not hold the weights that its metadata describe", _REMEDY) from error
    return LearnedPicker(network.eval().to(place), place, float(notes["offset"]), MappingProxyType(notes))


_REMEDY = "Give weights that 'cryoprism train-picker' wrote."


def _widths(text: str) -> tuple[int, int, int]:
    values: Any = json.loads(text)
    fine, middle, coarse = (int(value) for value in values)
    return fine, middle, coarse
