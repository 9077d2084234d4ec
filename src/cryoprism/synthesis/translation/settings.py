"""Settings of the learned translation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from cryoprism.core import InputError

from .networks import CONDITIONS

__all__ = ["TRANSLATION_MODES", "TranslationMode", "TranslationSettings"]

TranslationMode = Literal["cryoprism", "cut", "cyclegan"]
TRANSLATION_MODES: tuple[TranslationMode, ...] = get_args(TranslationMode)


@dataclass(frozen=True, kw_only=True)
class TranslationSettings:
    """How to train; all but ``device`` decides the result.

    Parameters
    ----------
    mode
        ``cryoprism``: a residual on top of a micrograph with fitted classical noise, mask-guided, that leaves the
        signal alone. ``cut`` (Park et al. 2020): no masks, nothing kept from changing. ``cyclegan`` (Zhu et al. 2017):
        cycle consistency instead of contrast.
    width, encoder, decoder
        Features of the generator, and dilations of its residual blocks.
    discriminator_width, discriminator_layers
        Features of its first layer, layers of stride 2.
    projection
        Length of the vectors that are compared.
    steps, batch, patch
        Steps of the optimiser, patches of a step, side of a patch [px].
    rate, discriminator_rate
        Of Adam; constant for the first half of the steps, then falling to zero.
    memory
        Of the running mean of the weights, per step.
    points
        Places of each class whose features are compared, per patch.
    temperature
        Of the contrastive loss.
    adversarial_weight, contrast_weight, signal_weight, statistics_weight, cycle_weight, identity_weight
        Of the losses.
    bands
        Frequency bands in which the residual shall not correlate with the clean image.
    judged
        Patches by which the strength of the residual is chosen, and by which statistics of real ones are known.
    mixed_precision
        bfloat16 in the networks, on CUDA only.
    seed, device
        Of every draw; where to train.
    """

    mode: TranslationMode = "cryoprism"
    width: int = 16
    encoder: tuple[int, ...] = (2, 4, 8)
    decoder: tuple[int, ...] = (1,)
    discriminator_width: int = 16
    discriminator_layers: int = 3
    projection: int = 32
    steps: int = 4000
    batch: int = 6
    patch: int = 128
    rate: float = 1e-3
    discriminator_rate: float = 5e-4
    memory: float = 0.995
    points: int = 64
    temperature: float = 0.07
    adversarial_weight: float = 1.0
    contrast_weight: float = 0.2
    signal_weight: float = 10.0
    statistics_weight: float = 3.0
    cycle_weight: float = 10.0
    identity_weight: float = 5.0
    bands: int = 16
    judged: int = 240
    mixed_precision: bool = True
    seed: int = 0
    device: str = "cpu"

    @classmethod
    def compact(cls, **changes: Any) -> TranslationSettings:
        """Train in half an hour on one or two CPU cores: 0.4 CPU seconds a step."""
        return replace(cls(), **changes)

    @classmethod
    def gpu(cls, **changes: Any) -> TranslationSettings:
        """Train wider, deeper and longer, on one GPU."""
        larger = cls(
            width=64,
            encoder=(1, 2, 4, 8),
            decoder=(1, 2, 4, 2),
            discriminator_width=48,
            discriminator_layers=4,
            projection=128,
            steps=40_000,
            batch=16,
            patch=256,
            rate=2e-4,
            discriminator_rate=4e-4,
            memory=0.999,
            points=256,
            device="cuda",
        )
        return replace(larger, **changes)

    def __post_init__(self) -> None:
        smallest = max(32, 2 * (max((*self.encoder, *self.decoder), default=1) + 1))
        weights = (
            self.adversarial_weight,
            self.contrast_weight,
            self.signal_weight,
            self.statistics_weight,
            self.cycle_weight,
            self.identity_weight,
        )
        checks = (
            ("mode", self.mode in TRANSLATION_MODES, f"one of {', '.join(TRANSLATION_MODES)}"),
            ("width", self.width >= 1, "1 or more"),
            ("encoder", bool(self.encoder) and all(d >= 1 for d in self.encoder), "dilations of 1 or more"),
            ("decoder", bool(self.decoder) and all(d >= 1 for d in self.decoder), "dilations of 1 or more"),
            ("discriminator_width", self.discriminator_width >= 1, "1 or more"),
            ("discriminator_layers", 1 <= self.discriminator_layers <= 4, "1 to 4"),
            ("projection", self.projection >= 2, "2 or more"),
            ("steps", self.steps >= 1, "1 or more"),
            ("batch", self.batch >= 2, "2 or more"),
            ("patch", self.patch >= smallest and self.patch % 2 == 0, f"an even number of {smallest} or more"),
            ("rate", 0 < self.rate < 1, "a number between 0 and 1"),
            ("discriminator_rate", 0 < self.discriminator_rate < 1, "a number between 0 and 1"),
            ("memory", 0 <= self.memory < 1, "a number from 0 to below 1"),
            ("points", self.points >= 2, "2 or more"),
            ("temperature", self.temperature > 0, "a number above 0"),
            ("bands", self.bands >= 1, "1 or more"),
            ("judged", self.judged >= 2, "2 or more"),
            ("adversarial_weight", min(weights) >= 0, "weights of 0 or more"),
        )
        for name, good, remedy in checks:
            if not good:
                raise InputError(name, f"is {getattr(self, name)}", f"Give {remedy}.")

    @property
    def conditions(self) -> int:
        """Channels that the generator sees beside the image: the baselines see none, as published."""
        return CONDITIONS if self.mode == "cryoprism" else 0

    @property
    def keeps_signal(self) -> bool:
        """Whether what is added may not correlate with the clean image."""
        return self.mode == "cryoprism"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TranslationSettings:
        """Return the settings that :meth:`to_dict` gave, also after JSON."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)
