"""Convolutional networks: a small DCGAN (Radford et al. 2016, arXiv:1511.06434) without batch normalization.

The outermost layers read and write blocks of 2 × 2 pixels as channels (sub-pixel convolution, Shi et al. 2016,
arXiv:1609.05158). This means a quarter of the positions and four times the channels, which is many times faster on a
CPU than a convolution from or to one channel. The generator's input is z and an embedding of the label. The
discriminator uses the label by projection (Miyato & Koyama 2018, arXiv:1802.05637). Weights and activations are
channels-last in memory.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ganctl.training.config.registry import DISCRIMINATORS, GENERATORS
from ganctl.training.config.schema import ModelSettings
from ganctl.training.errors import ConfigError
from ganctl.training.models.base import NUM_FEATURES, Discriminator, EmbeddingDiscriminator, Generator, ImageShape

_EMBEDDING = 32  # size of the generator's label embedding
_HIDDEN_UNITS = 256  # of each hidden layer of the generator
_SLOPE = 0.2  # of LeakyReLU
_BLOCK = 2  # side of a block of pixels, which is one position of the outermost convolutions


class _ChannelsLast(nn.Module):
    """Base class of layers between [N, C, H, W] and [N, H·W·C]."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.shape = (height, width, channels)


class FlattenLast(_ChannelsLast):
    """Flattens [N, C, H, W] to [N, H·W·C], without a copy for channels-last input."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


class UnflattenLast(_ChannelsLast):
    """Unflattens [N, H·W·C] to [N, C, H, W], the inverse of FlattenLast."""

    def forward(self, x: Tensor) -> Tensor:
        channels_last: Tensor = x.unflatten(1, self.shape)
        return channels_last.permute(0, 3, 1, 2)


class _ConvLayer(nn.Sequential):
    """A 3 × 3 convolution between as many channels, and its activation.

    Its first weights keep the variance of its inputs (He et al. 2015, arXiv:1502.01852). In a generator, PyTorch's
    smaller ones would let the image depend on z so little that the discriminator wins before the generator learns.
    """

    def __init__(self, channels: int) -> None:
        convolution = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight, a=_SLOPE)
        super().__init__(convolution, nn.LeakyReLU(_SLOPE))


def _stack(first: Sequence[nn.Module], further: Iterable[nn.Module], last: Sequence[nn.Module]) -> nn.Sequential:
    """Joins layers in channels-last format.

    `further` layers have names of their own. So the names of the others, which are numbers, do not depend on the number
    of further layers, and `--init-from` finds them in networks of another depth.
    """
    network = nn.Sequential(*first)
    for i, layer in enumerate(further):
        network.add_module(f"further{i}", layer)
    for i, layer in enumerate(last, start=len(first)):
        network.add_module(str(i), layer)
    return network.to(memory_format=torch.channels_last)


class ConvGenerator(Generator):
    """A DCGAN generator with w = `base_channels`.

    The input is z and the label's embedding. Each of two hidden layers of 256 units reads the input and the previous
    hidden layer. The input and the last hidden layer → linear → 2w·H/4·W/4 → `depth` convolutions → transposed
    convolution → w·H/2·W/2 → convolution → 4C·H/2·W/2 → pixel shuffle → C·H·W.
    """

    def __init__(
        self, latent_dim: int, classes: int | None, shape: ImageShape, base_channels: int, depth: int = 0
    ) -> None:
        super().__init__(latent_dim, classes, shape)
        self.embedding = nn.Embedding(classes, _EMBEDDING) if classes else None
        start = (2 * base_channels, shape.height // 4, shape.width // 4)
        inputs = latent_dim + (_EMBEDDING if classes else 0)
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Linear(width, _HIDDEN_UNITS), nn.LeakyReLU(_SLOPE))
            for width in (inputs, inputs + _HIDDEN_UNITS)
        )
        self.net = _stack(
            [nn.Linear(inputs + _HIDDEN_UNITS, math.prod(start)), nn.LeakyReLU(_SLOPE), UnflattenLast(*start)],
            (_ConvLayer(2 * base_channels) for _ in range(depth)),
            [
                nn.ConvTranspose2d(2 * base_channels, base_channels, 4, stride=2, padding=1),
                nn.LeakyReLU(_SLOPE),
                nn.Conv2d(base_channels, _BLOCK**2 * shape.channels, 3, padding=1),
                nn.PixelShuffle(_BLOCK),
                nn.Tanh(),
            ],
        )

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(label)], dim=1)
        hidden = z
        for layer in self.hidden:
            hidden = torch.cat([z, layer(hidden)], dim=1)
        images: Tensor = self.net(hidden)
        return images


def _conv_features(channels: int, shape: ImageShape, base_channels: int, depth: int) -> nn.Sequential:
    """The discriminator's layers, w = `base_channels`.

    C·H·W → 4C·H/2·W/2 → w·H/2·W/2 → 2w·H/4·W/4 → `depth` convolutions → 256.
    """
    end = (2 * base_channels, shape.height // 4, shape.width // 4)
    return _stack(
        [
            nn.PixelUnshuffle(_BLOCK),
            nn.Conv2d(_BLOCK**2 * channels, base_channels, 3, padding=1),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(base_channels, 2 * base_channels, 4, stride=2, padding=1),
            nn.LeakyReLU(_SLOPE),
        ],
        (layer for _ in range(depth) for layer in _ConvLayer(2 * base_channels)),
        [FlattenLast(*end), nn.Linear(math.prod(end), NUM_FEATURES), nn.LeakyReLU(_SLOPE)],
    )


@GENERATORS.register("conv")
def _conv_generator(settings: ModelSettings, shape: ImageShape, classes: int | None) -> Generator:
    _check_divisible_by_4(shape, "model.generator")
    base_channels = settings.generator_base_channels or settings.base_channels
    return ConvGenerator(settings.latent_dim, classes, shape, base_channels, settings.generator_depth)


@DISCRIMINATORS.register("conv")
def _conv_discriminator(settings: ModelSettings, shape: ImageShape, classes: int | None) -> nn.Module:
    _check_divisible_by_4(shape, "model.discriminator")
    if classes and settings.conditioning == "embedding":
        features = _conv_features(shape.channels + 1, shape, settings.base_channels, settings.discriminator_depth)
        return EmbeddingDiscriminator(features, NUM_FEATURES, classes, (1, shape.height, shape.width))
    features = _conv_features(shape.channels, shape, settings.base_channels, settings.discriminator_depth)
    return Discriminator(features, NUM_FEATURES, classes, settings.latent_dim)


def _check_divisible_by_4(shape: ImageShape, setting: str) -> None:
    if shape.height % 4 or shape.width % 4:
        size = f"{shape.height} × {shape.width}"
        raise ConfigError([f"{setting} = 'conv': found images of {size}, expected multiples of 4. Use 'mlp'."])
