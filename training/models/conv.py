"""The conv networks: a small DCGAN (Radford et al. 2016, arXiv:1511.06434) without batch normalization.

The outermost layers see blocks of 2 × 2 pixels as channels (sub-pixel convolution, Shi et al. 2016, arXiv:1609.05158):
a quarter of the positions at four times the channels, which a CPU multiplies many times faster than a convolution from
or to one channel. The generator reads the label as an embedding beside z; the discriminator reads it as a projection
(Miyato & Koyama 2018, arXiv:1802.05637). Weights and activations are channels-last in memory.
"""

import math

import torch
from torch import Tensor, nn

from ganctl.training.config.registry import DISCRIMINATORS, GENERATORS
from ganctl.training.config.schema import ModelSettings
from ganctl.training.errors import ConfigError
from ganctl.training.models.base import HIDDEN, Discriminator, EmbeddingDiscriminator, Generator, ImageShape

_EMBEDDING = 32  # numbers that the generator reads of a label
_MIXING, _MIXED = 2, 256  # the generator's hidden layers, and their units
_BLOCK = 2  # pixels of a side that the networks take as one position


class FlattenLast(nn.Module):
    """[N, C, H, W] → [N, H·W·C]: no copy where the channels are last in memory."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.shape = (height, width, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


class UnflattenLast(nn.Module):
    """[N, H·W·C] → [N, C, H, W], the inverse of FlattenLast."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.shape = (height, width, channels)

    def forward(self, x: Tensor) -> Tensor:
        places: Tensor = x.unflatten(1, self.shape)
        return places.permute(0, 3, 1, 2)


class ConvGenerator(Generator):
    """z and label, beside 256 units that see them, then beside 256 that see all of these → 2w·H/4·W/4 → w·H/2·W/2 by a
    transposed convolution → C·4·H/2·W/2 → C·H·W by its pixels' shuffle."""

    def __init__(self, latent_dim: int, classes: int | None, shape: ImageShape, base_channels: int) -> None:
        super().__init__(latent_dim, classes, shape)
        self.embedding = nn.Embedding(classes, _EMBEDDING) if classes else None
        start = (2 * base_channels, shape.height // 4, shape.width // 4)
        known = latent_dim + (_EMBEDDING if classes else 0)
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Linear(known + (_MIXED if i else 0), _MIXED), nn.LeakyReLU(0.2)) for i in range(_MIXING)
        )
        self.net = nn.Sequential(
            nn.Linear(known + _MIXED, math.prod(start)),
            nn.LeakyReLU(0.2),
            UnflattenLast(*start),
            nn.ConvTranspose2d(2 * base_channels, base_channels, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(base_channels, _BLOCK**2 * shape.channels, 3, padding=1),
            nn.PixelShuffle(_BLOCK),
            nn.Tanh(),
        ).to(memory_format=torch.channels_last)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(label)], dim=1)
        mixed = z
        for layer in self.hidden:
            mixed = torch.cat([z, layer(mixed)], dim=1)
        images: Tensor = self.net(mixed)
        return images


def _conv_features(channels: int, shape: ImageShape, base_channels: int) -> nn.Sequential:
    """C·H·W → 4C·H/2·W/2 → w·H/2·W/2 → 2w·H/4·W/4 → 256."""
    end = (2 * base_channels, shape.height // 4, shape.width // 4)
    return nn.Sequential(
        nn.PixelUnshuffle(_BLOCK),
        nn.Conv2d(_BLOCK**2 * channels, base_channels, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(base_channels, 2 * base_channels, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        FlattenLast(*end),
        nn.Linear(math.prod(end), HIDDEN),
        nn.LeakyReLU(0.2),
    ).to(memory_format=torch.channels_last)


@GENERATORS.register("conv")
def _conv_generator(settings: ModelSettings, shape: ImageShape, classes: int | None) -> Generator:
    _need_quarters(shape, "model.generator")
    return ConvGenerator(
        settings.latent_dim, classes, shape, settings.generator_base_channels or settings.base_channels
    )


@DISCRIMINATORS.register("conv")
def _conv_discriminator(settings: ModelSettings, shape: ImageShape, classes: int | None) -> nn.Module:
    _need_quarters(shape, "model.discriminator")
    if classes and settings.conditioning == "embedding":
        features = _conv_features(shape.channels + 1, shape, settings.base_channels)
        return EmbeddingDiscriminator(features, HIDDEN, classes, (1, shape.height, shape.width))
    features = _conv_features(shape.channels, shape, settings.base_channels)
    return Discriminator(features, HIDDEN, classes, settings.latent_dim)


def _need_quarters(shape: ImageShape, setting: str) -> None:
    if shape.height % 4 or shape.width % 4:
        raise ConfigError(
            [f"{setting} = 'conv': the images are {shape.height} × {shape.width}, expected multiples of 4; use 'mlp'."]
        )
