"""Networks of the learned translation: generator of a residual, discriminator, projection of features.

Nothing in the generator mixes places that are further apart than its receptive field, not even a normalisation, so
that a micrograph translated tile by tile is the same as one translated whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

__all__ = ["CONDITIONS", "FOLD", "Discriminator", "Generator", "Heads"]

FOLD = 2
"""Pixels per step of the grid that features live on."""

CONDITIONS = 3
"""Channels beside the micrograph: clean image, particle mask, white noise."""


class _Norm(nn.Module):
    """Root mean square over the channels of one place set to a learned value."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-5) * self.scale
        return out


def _convolution(channels: int, width: int, dilation: int = 1) -> nn.Conv2d:
    # At the edge of a patch the field goes on: mirrored, it keeps its statistics; zeros would be something to learn.
    return nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation, padding_mode="reflect")


class _Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = _Norm(width)
        self.far = _convolution(width, width, dilation)
        self.near = _convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.silu(self.far(self.norm(x)))
        out: Tensor = x + self.near(nn.functional.silu(inner))
        return out


class Generator(nn.Module):
    """Adds a residual to a micrograph; begins as the identity, because its last layer begins at zero.

    Images (b, 1, h, w) in units of their standard deviation, conditions (b, c, h, w), height and width even. Detail is
    worked on at full resolution: a residual put together from a coarser grid would be noise whose statistics repeat
    every other pixel. What lies farther apart is worked on at half of it.

    The encoder sees the image alone: its features are compared between input and output (Park et al. 2020, CUT), and
    would agree for nothing if they saw the conditions too. Those enter before the decoder.

    Parameters
    ----------
    width
        Features at half the resolution; half as many at full resolution.
    encoder, decoder
        Dilation of each residual block at half the resolution.
    conditions
        Channels beside the image; 0 for none.
    """

    def __init__(
        self,
        width: int = 16,
        encoder: Sequence[int] = (2, 4, 8),
        decoder: Sequence[int] = (1,),
        conditions: int = CONDITIONS,
    ) -> None:
        super().__init__()
        self.width, self.conditions = width, conditions
        self.layers = len(encoder) + 1
        fine = max(1, width // 2)
        # Steps at half the resolution: blocks, the conditions and what enlarging reaches; at full: six convolutions.
        self.margin = FOLD * (2 + sum(d + 1 for d in (*encoder, *decoder))) + 6
        self.margin += self.margin % FOLD
        self.smallest = FOLD * (max(*encoder, *decoder) + 1)
        self.stem = _convolution(1, fine)
        self.detail = _Block(fine, 1)
        self.down = nn.Conv2d(fine, width, 1)
        self.encoder = nn.ModuleList([_Block(width, d) for d in encoder])
        self.condition = _convolution(conditions, width) if conditions else None
        self.fine_condition = _convolution(conditions, fine) if conditions else None
        self.decoder = nn.ModuleList([_Block(width, d) for d in decoder])
        self.up = nn.Conv2d(width, fine, 1)
        self.finish = _Block(fine, 1)
        self.norm = _Norm(fine)
        self.head = _convolution(fine, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def encode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features (b, width / 2, h, w) at full resolution, and those of :meth:`features`."""
        fine = self.detail(self.stem(image))
        found = [self.down(nn.functional.avg_pool2d(fine, FOLD))]
        for block in self.encoder:
            found.append(block(found[-1]))
        return fine, found

    def features(self, image: Tensor) -> list[Tensor]:
        """Features (b, width, h / 2, w / 2) at half the resolution, before and after each block of the encoder."""
        return self.encode(image)[1]

    def decode(self, encoded: tuple[Tensor, list[Tensor]], conditions: Tensor | None) -> Tensor:
        """Residual (b, 1, h, w) from what :meth:`encode` gave and the conditions."""
        fine, found = encoded
        x = found[-1]
        if self.condition is not None and self.fine_condition is not None and conditions is not None:
            x = x + self.condition(nn.functional.avg_pool2d(conditions, FOLD))
            fine = fine + self.fine_condition(conditions)
        for block in self.decoder:
            x = block(x)
        x = nn.functional.interpolate(self.up(x), scale_factor=float(FOLD), mode="bilinear", align_corners=False)
        residual: Tensor = self.head(nn.functional.silu(self.norm(self.finish(fine + x))))
        return residual

    def forward(self, image: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Residual (b, 1, h, w) of images (b, 1, h, w); the translated image is the sum of both."""
        return self.decode(self.encode(image), conditions)


Scores = tuple[Tensor, Tensor]
"""Of places (b, h', w') and of whole images (b,)."""


def _bounded(deviations: Tensor, most: float = 3.0) -> Tensor:
    """Deviations as they are while small, never more than a few: with dozens of features the score stays of order 1."""
    return deviations * torch.rsqrt(1 + (deviations / most).square())


class Discriminator(nn.Module):
    """Tells real from synthetic, patch by patch (Isola et al. 2017) and by the mean of features over the whole field.

    Micrographs are nearly all noise: what tells them apart (a spectrum, a third moment) is small beside it and seen
    only in the mean over many places. Features are therefore compared with their mean over real patches, and measured
    by how much they scatter between those. Spectral normalisation (Miyato et al. 2018) bounds the slope of the layers
    below.

    Parameters
    ----------
    width
        Features of the first layer; each of the others has twice as many as the one before.
    layers
        Convolutions of stride 2.
    """

    scatter: Tensor

    def __init__(self, width: int = 16, layers: int = 3) -> None:
        super().__init__()
        channels, parts = 1, list[nn.Module]()
        for layer in range(layers):
            parts.append(spectral_norm(nn.Conv2d(channels, width << layer, 4, 2, 1, padding_mode="reflect")))
            parts.append(nn.LeakyReLU(0.1))
            channels = width << layer
        parts.append(spectral_norm(nn.Conv2d(channels, channels, 3)))
        parts.append(nn.LeakyReLU(0.1))
        self.body = nn.Sequential(*parts)
        self.place = nn.Conv2d(channels, 1, 1)
        self.whole = nn.Linear(channels, 1)
        for last in (self.place, self.whole):
            nn.init.zeros_(last.weight)
            nn.init.constant_(last.bias, 0.5)  # type: ignore[arg-type]
        # Deviation of each feature between places, and between whole images, of real ones.
        self.register_buffer("scatter", torch.ones(2, channels))

    def forward(self, real: Tensor, synthetic: Tensor, *, measure: bool = False) -> tuple[Scores, Scores]:
        """Scores of real and of synthetic images (b, 1, h, w), 1 for real, 0 for synthetic.

        Both are seen against the mean of these real ones: features move from step to step by more than what is sought.
        With ``measure`` the scatter between them is followed.
        """
        x, y = self.body(real), self.body(synthetic)
        centre = x.mean((0, 2, 3), keepdim=True)
        if measure:
            self._measure(x.detach().float())
        return self._scores(x - centre), self._scores(y - centre)

    def _scores(self, x: Tensor) -> Scores:
        places, whole = self.scatter.unbind()
        return (
            self.place(_bounded(x / places[:, None, None]))[:, 0],
            self.whole(_bounded(x.mean((2, 3)) / whole))[:, 0],
        )

    @torch.no_grad()
    def _measure(self, x: Tensor) -> None:
        flat, means = x.transpose(0, 1).flatten(1), x.mean((2, 3))
        spread = means.std(0) if len(means) > 1 else flat.std(1)
        now = torch.stack([flat.std(1), spread]).clamp_min(1e-4)
        self.scatter.copy_(now if bool((self.scatter == 1).all()) else torch.lerp(self.scatter, now, 0.1))


class Heads(nn.Module):
    """Projection of the features of each layer to unit vectors, in which similar places are compared.

    Parameters
    ----------
    layers
        Of the encoder.
    width, size
        Features before and after.
    """

    def __init__(self, layers: int, width: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.parts = nn.ModuleList(
            [nn.Sequential(nn.Linear(width, size), nn.ReLU(), nn.Linear(size, size)) for _ in range(layers)]
        )

    def forward(self, layer: int, features: Tensor) -> Tensor:
        """Return unit vectors (…, size) of features (…, width) of a layer."""
        return nn.functional.normalize(self.parts[layer](features), dim=-1)
