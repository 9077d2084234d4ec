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

    Images (b, 1, h, w) in units of their standard deviation, conditions (b, c, h, w), height and width even. The
    encoder sees the image alone: its features are compared between input and output (Park et al. 2020, CUT), and would
    agree for nothing if they saw the conditions too. Those enter before the decoder.

    Parameters
    ----------
    width
        Features on the grid of half the resolution.
    encoder, decoder
        Dilation of each residual block.
    conditions
        Channels beside the image; 0 for none.
    """

    def __init__(
        self,
        width: int = 16,
        encoder: Sequence[int] = (2, 4, 8),
        decoder: Sequence[int] = (1, 2),
        conditions: int = CONDITIONS,
    ) -> None:
        super().__init__()
        self.width, self.conditions = width, conditions
        self.layers = len(encoder) + 1
        self.margin = FOLD * (1 + sum(d + 1 for d in (*encoder, *decoder)))
        self.smallest = FOLD * (max(*encoder, *decoder) + 1)
        self.stem = _convolution(FOLD**2, width)
        self.encoder = nn.ModuleList([_Block(width, d) for d in encoder])
        self.condition = _convolution(conditions * FOLD**2, width) if conditions else None
        self.decoder = nn.ModuleList([_Block(width, d) for d in decoder])
        self.norm = _Norm(width)
        self.head = nn.Conv2d(width, FOLD**2, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def features(self, image: Tensor) -> list[Tensor]:
        """Features (b, width, h / 2, w / 2) after the first convolution and after each block of the encoder."""
        found = [self.stem(nn.functional.pixel_unshuffle(image, FOLD))]
        for block in self.encoder:
            found.append(block(found[-1]))
        return found

    def decode(self, features: Tensor, conditions: Tensor | None) -> Tensor:
        """Residual (b, 1, h, w) from the encoder's last features and the conditions."""
        x = features
        if self.condition is not None and conditions is not None:
            x = x + self.condition(nn.functional.pixel_unshuffle(conditions, FOLD))
        for block in self.decoder:
            x = block(x)
        return nn.functional.pixel_shuffle(self.head(nn.functional.silu(self.norm(x))), FOLD)

    def forward(self, image: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Residual (b, 1, h, w) of images (b, 1, h, w); the translated image is the sum of both."""
        return self.decode(self.features(image)[-1], conditions)


class Discriminator(nn.Module):
    """Tells real from synthetic, patch by patch (Isola et al. 2017) and by the mean of features over the whole field.

    Micrographs are nearly all noise: what tells them apart (a spectrum, a third moment) is seen only in the mean over
    many places. Spectral normalisation (Miyato et al. 2018) bounds the slope of all layers but the last.

    Parameters
    ----------
    width
        Features of the first layer; each of the others has twice as many as the one before.
    layers
        Convolutions of stride 2.
    """

    def __init__(self, width: int = 16, layers: int = 3) -> None:
        super().__init__()
        channels, parts = 1, list[nn.Module]()
        for layer in range(layers):
            parts.append(spectral_norm(nn.Conv2d(channels, width << layer, 4, 2, 1)))
            parts.append(nn.LeakyReLU(0.1))
            channels = width << layer
        parts.append(spectral_norm(nn.Conv2d(channels, channels, 3)))
        parts.append(nn.LeakyReLU(0.1))
        self.body = nn.Sequential(*parts)
        self.place = nn.Conv2d(channels, 1, 1)
        self.whole = nn.Linear(channels, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (b, h', w') of places and (b,) of images (b, 1, h, w); 1 for real, 0 for synthetic."""
        x = self.body(image)
        return self.place(x)[:, 0], self.whole(x.mean((2, 3)))[:, 0]


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
