"""EfficientNet-Lite: a network of inverted residual blocks for images (Tan and Le 2019, arXiv:1905.11946).

The Lite networks have no squeeze and excitation, and ReLU6 as activation. Batch normalization is folded into the
convolutions, so the networks can be evaluated, not trained. `benchmarks/pretrained_weights.py` makes the files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu6

from ganctl.training.pretrained.weights import read_tensors

_STEM_CHANNELS = 32
# of each stage: kernel size, stride of its first block, expansion of the channels, output channels
_STAGES = ((3, 1, 1, 16), (3, 2, 6, 24), (5, 2, 6, 40), (3, 2, 6, 80), (5, 1, 6, 112))


class EfficientNetLite(nn.Module):
    """The stem and the first stages of an EfficientNet-Lite with normal width.

    Attributes:
        stage_ends: index of the last block of each stage.
    """

    def __init__(self, stage_blocks: Sequence[int]) -> None:
        """`stage_blocks`: number of blocks of each stage."""
        super().__init__()
        self.stem = _Convolution(3, _STEM_CHANNELS, kernel=3, stride=2)
        blocks, inputs = [], _STEM_CHANNELS
        self.stage_ends: list[int] = []
        for (kernel, first_stride, expansion, outputs), count in zip(_STAGES, stage_blocks, strict=False):
            for stride in (first_stride, *[1] * (count - 1)):
                blocks.append(_InvertedResidual(inputs, outputs, kernel, stride, expansion))
                inputs = outputs
            self.stage_ends.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)

    def activations(self, images: Tensor, after: Sequence[int]) -> list[Tensor]:
        """Computes the outputs of the blocks with the indices `after`.

        Args:
            images: three colors in about −1 … 1, float [N, 3, H, W].
            after: indices of blocks, ascending.
        """
        x = _relu6(self.stem(images))
        outputs = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in after:
                outputs.append(x)
        return outputs

    def load(self, path: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> Self:
        """Takes the weights of a file, for evaluation on a device.

        The network must have been created on the device "meta".

        Raises:
            Exception: the file of the package is damaged.
        """
        weights, _ = read_tensors(path)
        self.load_state_dict({name: tensor.to(dtype) for name, tensor in weights.items()}, assign=True)
        return self.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)


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


def _relu6(x: Tensor) -> Tensor:
    """ReLU6 in place: a second block of memory for every activation takes longer than the comparison."""
    return relu6(x, inplace=True)


class _InvertedResidual(nn.Module):
    """An inverted residual block (Sandler et al. 2018, arXiv:1801.04381)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = _Convolution(inputs, hidden, kernel=1) if expansion > 1 else None
        self.depthwise = _Convolution(hidden, hidden, kernel=kernel, stride=stride, groups=hidden)
        self.project = _Convolution(hidden, outputs, kernel=1)
        self._residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.expand is None else _relu6(self.expand(x))
        result: Tensor = self.project(_relu6(self.depthwise(hidden)))
        return x + result if self._residual else result
