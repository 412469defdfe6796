"""The ONNX rewrite of upsampling layers changes neither the images, of any size, nor other networks."""

import pytest
import torch
from torch import nn

from ganctl.exports.formats.onnx_rewrite import CoarseUpsampling, rewrite_upsampling
from ganctl.training.models.base import ImageShape
from ganctl.training.models.conv import ConvGenerator
from ganctl.training.models.mlp import MlpGenerator


@pytest.mark.parametrize(("channels", "height", "width", "depth"), [(1, 28, 28, 0), (3, 32, 16, 1), (1, 4, 8, 2)])
def test_the_rewritten_generator_generates_the_same_images(channels: int, height: int, width: int, depth: int) -> None:
    torch.manual_seed(0)
    generator = ConvGenerator(8, 10, ImageShape(channels, height, width), base_channels=6, depth=depth)
    rewritten = rewrite_upsampling(generator)
    assert any(isinstance(module, CoarseUpsampling) for module in rewritten.modules())
    z, label = torch.randn(5, 8), torch.arange(5)
    torch.testing.assert_close(rewritten(z, label), generator(z, label), rtol=0, atol=1e-6)


def test_the_rewrite_does_not_change_the_original_generator() -> None:
    generator = ConvGenerator(8, None, ImageShape(1, 8, 8), base_channels=4)
    before = [type(module) for module in generator.modules()]
    rewrite_upsampling(generator)
    assert [type(module) for module in generator.modules()] == before


@pytest.mark.parametrize(
    "layers",
    [
        [nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.LeakyReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.PixelShuffle(1)],
        [nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.LeakyReLU(), nn.Conv2d(4, 4, 3, dilation=2), nn.PixelShuffle(2)],
        [nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1), nn.PixelShuffle(2)],
        [nn.ConvTranspose2d(4, 4, 4, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.PixelShuffle(2)],
        [nn.ConvTranspose2d(4, 4, 2, 2), nn.LeakyReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.PixelShuffle(2)],
    ],
)
def test_layers_that_only_resemble_the_pattern_are_not_rewritten(layers: list[nn.Module]) -> None:
    generator = MlpGenerator(8, None, ImageShape(1, 8, 8))
    generator.net = nn.Sequential(*layers)
    net = rewrite_upsampling(generator).net
    assert isinstance(net, nn.Sequential)
    assert [type(layer) for layer in net] == [type(layer) for layer in layers]
