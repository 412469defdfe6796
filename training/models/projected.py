"""Discriminator of the features that a pretrained network computes from images (Sauer et al. 2021, arXiv:2111.01007).

The pretrained network (`pretrained/projection.py`) is no part of it: its weights are constants, so the training step
computes the features of real and of generated images once, and both updates use them.
"""

import torch
from torch import Tensor, nn

from ganctl.training.config.registry import DISCRIMINATORS
from ganctl.training.config.schema import ModelSettings
from ganctl.training.errors import ConfigError
from ganctl.training.models.base import Discriminator, ImageShape

MIN_SIZE = 48  # pixels; the pretrained network sees smaller images enlarged
BLOCK = 2  # side of a block of pixels, which is one position of the map of pixels
_MAPS = ((24, 4), (40, 8), (80, 16))  # channels, and stride relative to the image
_HEAD_SIDE = 4  # a head reduces its map to at most this many positions a side
_SLOPE = 0.2  # of LeakyReLU


def feature_maps(shape: ImageShape) -> list[ImageShape]:
    """The shapes of what `Projection.forward` returns for images of `shape`: the pixels, then the network's maps."""
    height, width = (max(MIN_SIZE, side) for side in (shape.height, shape.width))
    maps = [ImageShape(channels, -(-height // stride), -(-width // stride)) for channels, stride in _MAPS]
    pixels = ImageShape(shape.channels * BLOCK**2, shape.height // BLOCK, shape.width // BLOCK)
    return [pixels, *maps]


class ProjectedDiscriminator(Discriminator):
    """One head of convolutions for each feature map; the features are the mean outputs of all heads.

    Its input is not an image: it is [N, K], as `Projection.forward` returns it.
    """

    def __init__(self, maps: list[ImageShape], width: int, classes: int | None) -> None:
        super().__init__(nn.Sequential(_Heads(maps, width)), width * len(maps), classes)
        self.maps = maps


class _Heads(nn.Module):
    """[N, K] → [N, width · number of maps]."""

    def __init__(self, maps: list[ImageShape], width: int) -> None:
        super().__init__()
        self._maps = maps
        self.heads = nn.ModuleList(_head(shape, width) for shape in maps).to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        maps = zip(self.heads, split_maps(x, self._maps), strict=True)
        return torch.cat([head(map_).mean(dim=(2, 3)) for head, map_ in maps], dim=1)


def split_maps(x: Tensor, maps: list[ImageShape]) -> list[Tensor]:
    """Splits flattened maps, [N, K], into [N, C, H, W] each, channels-last in memory."""
    flat = x.split([shape.size for shape in maps], dim=1)
    return [
        part.unflatten(1, (shape.height, shape.width, shape.channels)).permute(0, 3, 1, 2)
        for part, shape in zip(flat, maps, strict=True)
    ]


def _head(shape: ImageShape, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels, side = shape.channels, max(shape.height, shape.width)
    while side > _HEAD_SIDE:
        layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(_SLOPE)]
        channels, side = width, side // 2
    return nn.Sequential(*layers, nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(_SLOPE))


@DISCRIMINATORS.register("projected")
def _projected_discriminator(settings: ModelSettings, shape: ImageShape, classes: int | None) -> nn.Module:
    if classes and settings.conditioning == "embedding":
        raise ConfigError(["model.conditioning = 'embedding': found model.discriminator = 'projected', which sees no"
                           " pixels, expected 'projection' or 'auto'. Set one of them."])  # fmt: skip
    return ProjectedDiscriminator(feature_maps(shape), 2 * settings.base_channels, classes)
