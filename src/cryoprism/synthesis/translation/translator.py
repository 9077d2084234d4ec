"""A trained translation: apply it to micrographs, keep it in a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from cryoprism.core import InputError, generator_for, resolve_device
from cryoprism.formats import read_weights, write_weights

from .fields import scale_of
from .losses import without_signal
from .networks import FOLD, Generator, Heads
from .settings import TranslationSettings

__all__ = ["Translator", "load_translator", "save_translator"]

_FORMAT = "cryoprism-translation-1"
_REMEDY = "Give a file that 'save_translator' wrote."
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, eq=False, kw_only=True)
class Translator:
    """A generator with its weights, ready to translate; :func:`train_translator` or :func:`load_translator` makes it.

    Attributes
    ----------
    generator, heads
        In evaluation mode, on ``device``.
    settings
        They were trained with.
    pixel_size_in_angstroms
        Of the micrographs they were trained on.
    strength
        Factor on the residual, from 0 to 1 (:func:`best_strength`).
    device
        Where it runs.
    notes
        What else the file says: hash of the training data, steps.
    """

    generator: Generator
    heads: Heads
    settings: TranslationSettings
    pixel_size_in_angstroms: float
    strength: float = 1.0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    notes: Mapping[str, str] = field(default_factory=lambda: _NOTHING)

    def translate(
        self,
        image: Tensor,
        clean: Tensor,
        mask: Tensor,
        *,
        gain: float,
        pixel_size_in_angstroms: float,
        seed: int = 0,
        name: str = "micrograph",
        tile: int = 512,
    ) -> Tensor:
        """Return the translated micrograph (y, x) in the grey values of the first; the input is not changed.

        In the mode ``cryoprism`` what is added is uncorrelated with the clean image in each frequency band: after the
        network, its regression on the clean image is taken away.

        Parameters
        ----------
        image
            (y, x) grey values, with classical noise.
        clean
            (y, x) contrast of the particles relative to a mean of 0.
        mask
            (y, x) share of particle.
        gain
            Grey values per relative contrast.
        pixel_size_in_angstroms
            Of all images; must be that of the training.
        seed, name
            Name the noise that the network sees.
        tile
            Edge of the tiles [px] that are worked on at a time. It decides memory, not the result: a tile sees as much
            of its neighbours as the network can reach.

        Raises
        ------
        InputError
            Another pixel size, shapes that do not fit, an image that is flat or smaller than the network's dilations.
        """
        self._check(image, clean, mask, pixel_size_in_angstroms)
        if self.strength == 0:
            return image.clone()
        mean, deviation = scale_of(name, image)
        stack = [(image.float() - mean) / deviation]
        if self.settings.conditions:
            generator = generator_for(seed, name, "translation")
            noise = torch.randn(image.shape, generator=generator)
            stack += [clean.float() * (gain / deviation), mask.float(), noise]
        channels = torch.stack(stack)

        def residual_of(part: Tensor) -> Tensor:
            conditions = part[:, 1:] if part.shape[1] > 1 else None
            found: Tensor = self.generator(part[:, :1], conditions)
            return found

        residual = self.by_tiles(residual_of, channels, tile)[0]
        if self.settings.keeps_signal:
            residual = without_signal(residual, clean, bands=self.settings.bands)
        return (image.float() + residual * (self.strength * deviation)).to(image.dtype)

    def _check(self, image: Tensor, clean: Tensor, mask: Tensor, pixel: float) -> None:
        if abs(pixel / self.pixel_size_in_angstroms - 1) > 1e-3:
            raise InputError(
                "pixel size",
                f"{pixel:g} Å, trained at {self.pixel_size_in_angstroms:g} Å",
                "Train a translation at this pixel size.",
            )
        if image.ndim != 2 or clean.shape != image.shape or mask.shape != image.shape:
            shapes = ", ".join(str(tuple(t.shape)) for t in (image, clean, mask))
            raise InputError("images", f"have the shapes {shapes}", "Give three images (y, x) of one shape.")
        if min(image.shape) < self.generator.smallest:
            raise InputError(
                "image",
                f"has {' × '.join(map(str, image.shape))} pixels",
                f"Give one of at least {self.generator.smallest} × {self.generator.smallest}.",
            )

    @torch.no_grad()
    def by_tiles(self, function: Callable[[Tensor], Tensor], channels: Tensor, tile: int) -> Tensor:
        """Apply a local function of the network to channels (c, y, x), tile by tile, on the translator's device.

        The function takes (1, c, h, w) and gives (1, d, h, w) or, on the grid of the features, half of both; the result
        is (d, y, x) or (d, ⌈y / 2⌉, ⌈x / 2⌉), on the CPU.
        """
        height, width = channels.shape[-2:]
        even = torch.nn.functional.pad(channels[None], (0, width % FOLD, 0, height % FOLD), mode="replicate")
        margin = self.generator.margin
        step = max(FOLD, tile // FOLD * FOLD)
        rows = []
        for top in range(0, even.shape[-2], step):
            row, bottom = [], min(top + step, even.shape[-2])
            y0, y1 = max(0, top - margin), min(even.shape[-2], bottom + margin)
            for left in range(0, even.shape[-1], step):
                right = min(left + step, even.shape[-1])
                x0, x1 = max(0, left - margin), min(even.shape[-1], right + margin)
                out = function(even[:, :, y0:y1, x0:x1].to(self.device))
                scale = (y1 - y0) // out.shape[-2]
                part = out[
                    0,
                    :,
                    (top - y0) // scale : (bottom - y0) // scale,
                    (left - x0) // scale : (right - x0) // scale,
                ]
                row.append(part.float().cpu())
            rows.append(torch.cat(row, -1))
        whole = torch.cat(rows, -2)
        return whole[:, :height, :width]

    def to(self, device: str) -> Translator:
        """Return a copy on another device (``cpu``, ``cuda``, ``cuda:N``, ``mps``)."""
        place = resolve_device(device)
        generator, heads = _networks(self.settings)
        generator.load_state_dict({k: v.cpu() for k, v in self.generator.state_dict().items()})
        heads.load_state_dict({k: v.cpu() for k, v in self.heads.state_dict().items()})
        return replace(self, generator=generator.eval().to(place), heads=heads.eval().to(place), device=place)


def _networks(settings: TranslationSettings) -> tuple[Generator, Heads]:
    generator = Generator(settings.width, settings.encoder, settings.decoder, settings.conditions)
    return generator, Heads(generator.layers, settings.width, settings.projection)


def save_translator(path: str | Path, translator: Translator) -> str:
    """Write weights as safetensors, with all that is needed to load and to repeat them; returns the file's SHA-256."""
    state = {f"generator.{k}": v for k, v in translator.generator.state_dict().items()}
    state |= {f"heads.{k}": v for k, v in translator.heads.state_dict().items()}
    notes = dict(translator.notes) | {
        "format": _FORMAT,
        "settings": json.dumps(translator.settings.to_dict()),
        "pixel_size_in_angstroms": repr(translator.pixel_size_in_angstroms),
        "strength": repr(translator.strength),
        "units": "images and residual in standard deviations of the micrograph with classical noise",
    }
    return write_weights(path, state, notes)


def load_translator(path: str | Path, *, device: str = "cpu") -> Translator:
    """Load a translator that :func:`save_translator` wrote.

    Raises
    ------
    InputError
        No such file, not a translation, or no such device.
    """
    place = resolve_device(device)
    file = Path(path)
    state, notes = read_weights(file, _FORMAT, _REMEDY)
    try:
        settings = TranslationSettings.from_dict(json.loads(notes["settings"]))
        pixel, strength = float(notes["pixel_size_in_angstroms"]), float(notes["strength"])
        generator, heads = _networks(settings)
        generator.load_state_dict({k[10:]: v for k, v in state.items() if k.startswith("generator.")})
        heads.load_state_dict({k[6:]: v for k, v in state.items() if k.startswith("heads.")})
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise InputError(file, "does not hold the weights that its metadata describe", _REMEDY) from error
    return Translator(
        generator=generator.eval().to(place),
        heads=heads.eval().to(place),
        settings=settings,
        pixel_size_in_angstroms=pixel,
        strength=strength,
        device=place,
        notes=MappingProxyType(notes),
    )
