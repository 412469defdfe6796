"""Feature network of the scores: the first eleven blocks of EfficientNet-Lite0, trained on ImageNet.

A network that was trained on the images to be scored sees classes in images that show none (docs/evaluation.md has the
measurements). This network was trained on other images, is the same for every data set, and needs no labels. Later
blocks would see objects better, but blurred images as typical ones.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from ganctl.training.data.base import put_on_white
from ganctl.training.device.turns import in_turns
from ganctl.training.pretrained import FEATURES_FILE
from ganctl.training.pretrained.efficientnet_lite import EfficientNetLite

FEATURES = 112
LABEL_FEATURES = 768
_SCALE = 0.4  # of the image features: their standard deviations become about 1 for photos, icons and digits
_INPUT_SIZE = 64  # pixels; smaller images are enlarged, for the strides of 16 in the network
_DITHER = 4.0  # gray levels, standard deviation of the noise that is added to every image
_CHUNK = 2**17  # pixels of the network's input at a time; larger chunks do not fit into a CPU's caches
_LABEL_GRIDS = {7: 2, 10: 2}  # block whose output the label features contain → side of its grid of means


class Features(NamedTuple):
    """Features of N images, float32 on the CPU.

    Attributes:
        image: [N, 112], means over all positions of the last block; the distances of the scores use them.
        label: [N, 768], means over grids of 2 × 2 parts of two blocks; the label classifier uses them.
    """

    image: Tensor
    label: Tensor


class FeatureNetwork(EfficientNetLite):
    """The first eleven blocks of EfficientNet-Lite0."""

    def __init__(self) -> None:
        super().__init__(stage_blocks=(1, 2, 2, 3, 3))

    def forward(self, x: Tensor) -> Features:
        """Images of `_to_input` → features."""
        activations = self.activations(x, after=[*_LABEL_GRIDS])
        grids = [
            adaptive_avg_pool2d(activation, grid).flatten(1)
            for activation, grid in zip(activations, _LABEL_GRIDS.values(), strict=True)
        ]
        return Features(activations[-1].mean(dim=(2, 3)) * _SCALE, torch.cat(grids, dim=1))

    @torch.inference_mode()
    def extract(self, images: Tensor) -> Features:
        """Computes the features of uint8 images [N, C, H, W], as in an ImageSet, on the device of the network."""
        device = self.stem.weight.device
        height, width = _input_size(images)
        chunk_size = max(1, _CHUNK // (height * width))
        chunks = [self(_to_input(chunk.to(device))) for chunk in in_turns(images.split(chunk_size))]
        return Features(*(torch.cat(part).cpu() for part in zip(*chunks, strict=True)))


def _to_input(images: Tensor) -> Tensor:
    """Converts uint8 images [N, C, H, W] to the network's input: three colors, at least 64 pixels, about −1 … 1.

    Transparent images are put on white. Every image gets the same faint noise: without it the
    network, which has seen photos only, takes invisible noise on a flat background for a texture.
    """
    height, width = images.shape[2:]
    values = (put_on_white(images) + _dither(height, width).to(images.device)).expand(-1, 3, -1, -1)
    size = _input_size(images)
    if size != [height, width]:
        values = interpolate(values, size=size, mode="bicubic", align_corners=False)
    return ((values - 127) / 128).contiguous(memory_format=torch.channels_last)


def _input_size(images: Tensor) -> list[int]:
    return [max(_INPUT_SIZE, side) for side in images.shape[2:]]


@cache
def _dither(height: int, width: int) -> Tensor:
    """Noise with about a normal distribution, float32 [height, width], equal on every machine and in every version."""
    raw = np.random.Philox(key=4).random_raw(12 * height * width)  # the sum of 12 uniform numbers has a variance of 1
    uniform = torch.from_numpy(raw.astype(np.float64) / 2**64).view(12, height, width)
    return ((uniform.sum(dim=0) - 6) * _DITHER).float()


@cache
def load_feature_network(device: torch.device) -> FeatureNetwork:
    """Returns the network in evaluation mode on a device; each device has a single one.

    Raises:
        Exception: the file of the package is damaged.
    """
    with torch.device("meta"):  # no random numbers: the random state of a surrounding training run is kept
        network = FeatureNetwork()
    return network.load(FEATURES_FILE, device)
