"""The convolutional generator's upsampling on the coarse grid: the same images, in two thirds of the time on a CPU.

The generator doubles its grid by a transposed convolution, convolves, and shuffles pixels. A runtime spends most of
that on scattering values between grids, and on a convolution to four channels, where its kernels have room for sixteen.
Here both convolutions stay on the coarse grid, whose channels hold the fine grid's four places, as a transposed
convolution of stride 2 is four convolutions to a place each (Shi et al. 2016, arXiv:1609.07009), and all that is left
of the fine grids is one shuffle by 4. `export` compares what comes of it with the generator.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from ganctl.training.models.base import Generator

# Taps of a kernel by the side that a place is on: those of the transposed convolution's four that reach it from the
# cells before and after, and of the convolution's three, as (cell before or after, side of its place).
_TRANSPOSED = ((3, 1), (2, 0))
_FINE = (((0, 1), (1, 0), (1, 1)), ((0, 0), (0, 1), (1, 0)))


class CoarseUpsampling(nn.Module):
    """`ConvTranspose2d(4, stride=2, padding=1)`, an activation, `Conv2d(3, padding=1)`, `PixelShuffle(2)` in one:
    [N, C, H, W] → [N, C', 4·H, 4·W]."""

    def __init__(self, up: nn.ConvTranspose2d, activation: nn.Module, out: nn.Conv2d) -> None:
        super().__init__()
        assert up.bias is not None
        assert out.bias is not None
        places = [(a, b) for a in (0, 1) for b in (0, 1)]
        weight = up.weight.detach().transpose(0, 1)
        self.up = nn.ModuleList()
        for a, b in places:
            kernel = weight[:, :, _TRANSPOSED[a]][:, :, :, _TRANSPOSED[b]]
            self.up.append(_convolution(kernel, up.bias.detach()))
        self.activation = activation
        # A window of 2 × 2 cells reaches the places around its middle: of the cells before, those on their far side.
        channels, width = out.out_channels // 4, out.in_channels
        fine = out.weight.detach().reshape(channels, 2, 2, width, 3, 3)
        # [C', row of the place, of the pixel, column of the place, of the pixel, place, channel, cell below, beside]
        kernel = torch.zeros(channels, 2, 2, 2, 2, 4, width, 2, 2)
        bias = torch.zeros(channels, 2, 2, 2, 2)
        for row, column in places:
            for y, (down, below) in enumerate(_FINE[1 - row]):
                for x, (right, beside) in enumerate(_FINE[1 - column]):
                    kernel[:, row, :, column, :, 2 * below + beside, :, down, right] = fine[..., y, x]
            bias[:, row, :, column] = out.bias.detach().reshape(channels, 2, 2)
        self.out = _convolution(kernel.reshape(channels * 16, 4 * width, 2, 2), bias.flatten(), padding=1)

    def forward(self, x: Tensor) -> Tensor:
        cells = []
        for place, convolution in enumerate(self.up):
            a, b = divmod(place, 2)
            cells.append(self.activation(convolution(functional.pad(x, (1 - b, b, 1 - a, a)))))
        pixels = functional.pixel_shuffle(self.out(torch.cat(cells, dim=1)), 4)
        return pixels[:, :, 2:-2, 2:-2]  # the windows over the border see half a cell too much


def _convolution(weight: Tensor, bias: Tensor, padding: int = 0) -> nn.Conv2d:
    convolution = nn.Conv2d(weight.shape[1], weight.shape[0], (weight.shape[2], weight.shape[3]), padding=padding)
    convolution.load_state_dict({"weight": weight.contiguous(), "bias": bias})
    return convolution


def on_coarse_grids(network: Generator) -> Generator:
    """A copy of a network, with every such upsampling in a Sequential replaced."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            _replace(module)
    return network


def _replace(layers: nn.Sequential) -> None:
    for place in range(len(layers)):
        if len(layers) < place + 4:
            return
        up, activation, out, shuffle = layers[place : place + 4]
        if not (
            isinstance(up, nn.ConvTranspose2d) and isinstance(out, nn.Conv2d) and isinstance(shuffle, nn.PixelShuffle)
        ):
            continue
        doubles = _traits(up) == ((4, 4), (2, 2), (1, 1), (1, 1), 1, True) and up.output_padding == (0, 0)
        convolves = _traits(out) == ((3, 3), (1, 1), (1, 1), (1, 1), 1, True) and out.padding_mode == "zeros"
        if doubles and isinstance(activation, nn.LeakyReLU) and convolves and shuffle.upscale_factor == 2:
            layers[place] = CoarseUpsampling(up, activation, out)
            del layers[place + 1 : place + 4]


def _traits(layer: nn.Conv2d | nn.ConvTranspose2d) -> tuple[object, ...]:
    return layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, layer.bias is not None
