"""Feature network of the scores: the first eleven blocks of EfficientNet-Lite0, trained on ImageNet.

A network that was trained on the images to be scored sees classes in images that show none (docs/evaluation.md has the
measurements). This network was trained on other images, is the same for every data set, and needs no labels. Its
weights, `features.safetensors`, are those of Google (Tan and Le 2019, arXiv:1905.11946; Apache License 2.0), rounded to
fp16, with batch normalization folded into the convolutions. `benchmarks/feature_weights.py` made the file. Later blocks
would see objects better, but blurred images as typical ones.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, pad, relu6

from ganctl.training.data.base import put_on_white
from ganctl.training.evaluation.cache import read_tensors

FEATURES = 112
LABEL_FEATURES = 768
WEIGHTS = Path(__file__).parent / "features.safetensors"
DIGEST_KEY = "weights_sha256"
_SCALE = 0.4  # of the image features: their standard deviations become about 1 for photos, icons and digits
_INPUT_SIZE = 64  # pixels; smaller images are enlarged, for the strides of 16 in the network
_DITHER = 4.0  # gray levels, standard deviation of the noise that is added to every image
_CHUNK = 64  # images; larger chunks do not fit into a CPU's caches
# kernel size, stride, expansion of the channels, output channels, number of blocks
_STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3))
_LABEL_GRIDS = {7: 2, 10: 2}  # block whose output the label features contain → side of its grid of means


class Features(NamedTuple):
    """Features of N images, float32 on the CPU.

    Attributes:
        image: [N, 112], means over all positions of the last block; the distances of the scores use them.
        label: [N, 768], means over grids of 2 × 2 parts of two blocks; the label classifier uses them.
    """

    image: Tensor
    label: Tensor


class FeatureNetwork(nn.Module):
    """The first eleven blocks of EfficientNet-Lite0."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Convolution(3, 32, kernel=3, stride=2)
        blocks, inputs = [], 32
        for kernel, first_stride, expansion, outputs, count in _STAGES:
            for stride in (first_stride, *[1] * (count - 1)):
                blocks.append(_Block(inputs, outputs, kernel, stride, expansion))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Features:
        """Images of `_to_input` → features."""
        x = relu6(self.stem(x), inplace=True)
        grids = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _LABEL_GRIDS:
                grids.append(adaptive_avg_pool2d(x, _LABEL_GRIDS[index]).flatten(1))
        return Features(x.mean(dim=(2, 3)) * _SCALE, torch.cat(grids, dim=1))

    @torch.inference_mode()
    def extract(self, images: Tensor) -> Features:
        """Computes the features of uint8 images [N, C, H, W], as in an ImageSet, on the device of the network."""
        device = self.stem.weight.device
        chunks = [self(_to_input(chunk.to(device))) for chunk in images.split(_CHUNK)]
        return Features(*(torch.cat(part).cpu() for part in zip(*chunks, strict=True)))


class _Convolution(nn.Conv2d):
    """A convolution with TensorFlow's padding "same": for a stride of 2, the odd pixel is at the end."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2 if stride == 1 else 0, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            kernel, stride = self.kernel_size[0], self.stride[0]
            height, width = (max(0, (-(-side // stride) - 1) * stride + kernel - side) for side in x.shape[2:])
            x = pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


class _Block(nn.Module):
    """An inverted residual block (Sandler et al. 2018, arXiv:1801.04381) without squeeze and excitation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = _Convolution(inputs, hidden, kernel=1) if expansion > 1 else None
        self.depthwise = _Convolution(hidden, hidden, kernel=kernel, stride=stride, groups=hidden)
        self.project = _Convolution(hidden, outputs, kernel=1)
        self._residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.expand is None else relu6(self.expand(x), inplace=True)
        result: Tensor = self.project(relu6(self.depthwise(hidden), inplace=True))
        return x + result if self._residual else result


def _to_input(images: Tensor) -> Tensor:
    """Converts uint8 images [N, C, H, W] to the network's input: three colors, at least 64 pixels, about −1 … 1.

    Transparent images are put on white. Every image gets the same faint noise: without it the
    network, which has seen photos only, takes invisible noise on a flat background for a texture.
    """
    height, width = images.shape[2:]
    values = (put_on_white(images) + _dither(height, width).to(images.device)).expand(-1, 3, -1, -1)
    size = [max(_INPUT_SIZE, side) for side in (height, width)]
    if size != [height, width]:
        values = interpolate(values, size=size, mode="bicubic", align_corners=False)
    return ((values - 127) / 128).contiguous(memory_format=torch.channels_last)


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
    weights, _ = read_tensors(WEIGHTS, DIGEST_KEY)
    with torch.device("meta"):  # no random numbers: the random state of a surrounding training run is kept
        network = FeatureNetwork()
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    return network.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)
