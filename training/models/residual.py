"""Residual generator for images of 16 to 128 pixels, whose blocks all see the latent and the label.

The blocks are those of BigGAN (Brock et al. 2019, arXiv:1809.11096, figure 15): they enlarge by nearest neighbors, and
z and the label scale and shift the channels after each batch normalization. The last convolution writes blocks of 2 × 2
pixels as channels (sub-pixel convolution, Shi et al. 2016, arXiv:1609.05158): at the full size, a block would take as
long as all others together. Weights and activations are channels-last in memory.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, leaky_relu, pad

from ganctl.training.config.registry import GENERATORS
from ganctl.training.config.schema import ModelSettings
from ganctl.training.errors import ConfigError
from ganctl.training.models.base import Generator, ImageShape
from ganctl.training.models.conv import UnflattenLast

_EMBEDDING = 64  # size of the label embedding
_STYLE = 128  # size of the vector that conditions the blocks
_SLOPE = 0.2  # of LeakyReLU
_MAX_START = 7  # positions a side, at which the halving ends
_MAX_FACTOR = 4  # of the channels of the first activations, relative to those of the last
_SUBPIXELS = 2  # side of a block of pixels that the last convolution writes


class ResidualGenerator(Generator):
    """z and the label's embedding → a few positions → residual blocks that double the side → pixels.

    The first side is half of the image's, halved until it is odd or at most 7: 4 for 32 and 64 pixels, 25 for 100.

    With w = `base_channels` at the last block's side, each earlier block has twice the channels, at most 4w.
    """

    def __init__(self, latent_dim: int, classes: int | None, shape: ImageShape, base_channels: int) -> None:
        super().__init__(latent_dim, classes, shape)
        if shape.height % _SUBPIXELS or shape.width % _SUBPIXELS:
            size = f"{shape.height} × {shape.width}"
            fault = f"found images of {size}, expected even sides"
            raise ConfigError([f"model.generator = 'residual': {fault}. Use 'mlp'."])
        self.embedding = nn.Embedding(classes, _EMBEDDING) if classes else None
        inputs = latent_dim + (_EMBEDDING if classes else 0)
        self.style = nn.Sequential(
            nn.Linear(inputs, _STYLE), nn.LeakyReLU(_SLOPE), nn.Linear(_STYLE, _STYLE), nn.LeakyReLU(_SLOPE)
        )
        height, width, doublings = shape.height // _SUBPIXELS, shape.width // _SUBPIXELS, 0
        while height % 2 == 0 and width % 2 == 0 and max(height, width) > _MAX_START:
            height, width, doublings = height // 2, width // 2, doublings + 1
        channels = [base_channels * min(_MAX_FACTOR, 2**i) for i in range(doublings, -1, -1)]
        self.start = nn.Sequential(
            nn.Linear(inputs, height * width * channels[0]), UnflattenLast(channels[0], height, width)
        )
        # named by the number of blocks that follow, so that `--init-from` finds those of networks for other sizes
        following = map(str, range(doublings - 1, -1, -1))
        self.blocks = nn.ModuleDict(
            {name: ResidualBlock(*pair) for name, pair in zip(following, pairwise(channels), strict=True)}
        )
        self.norm = ConditionalBatchNorm(channels[-1])
        self.output = nn.Conv2d(channels[-1], _SUBPIXELS**2 * shape.channels, 3, padding=1)
        self.to_pixels = nn.PixelShuffle(_SUBPIXELS)
        self._equal_subpixels()
        self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def _equal_subpixels(self) -> None:
        """Starts with equal pixels in a block (Aitken et al. 2017, arXiv:1707.02937): others leave a checkerboard."""
        for parameter in self.output.parameters():
            parameter.copy_(parameter[:: _SUBPIXELS**2].repeat_interleave(_SUBPIXELS**2, dim=0))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(label)], dim=1)
        style: Tensor = self.style(z)
        x = self.start(z)
        for block in self.blocks.values():
            x = block(x, style)
        images: Tensor = self.to_pixels(self.output(leaky_relu(self.norm(x, style), _SLOPE)))
        return _low_pass(images).tanh()


def _low_pass(images: Tensor) -> Tensor:
    """Convolves with the binomial filter (1, 2, 1) / 4 in both directions, which removes the highest frequency.

    The pixels of a block are different channels of one position, so they drift apart into a checkerboard, which the
    discriminator's network hardly sees (Odena et al. 2016, doi:10.23915/distill.00003). The generator learns to sharpen
    what the filter blurs, at all frequencies but that one.
    """
    padded = pad(images, (1, 1, 1, 1), mode="replicate")
    return avg_pool2d(avg_pool2d(padded, 2, stride=1), 2, stride=1)


class ResidualBlock(nn.Module):
    """Doubles the side: [N, `inputs`, H, W] → [N, `outputs`, 2H, 2W]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([ConditionalBatchNorm(inputs), ConditionalBatchNorm(outputs)])
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)]
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        hidden = leaky_relu(self.norms[0](x, style), _SLOPE)
        hidden = self.convolutions[0](interpolate(hidden, scale_factor=2.0))
        hidden = self.convolutions[1](leaky_relu(self.norms[1](hidden, style), _SLOPE))
        result: Tensor = hidden + interpolate(self.shortcut(x), scale_factor=2.0)
        return result


class ConditionalBatchNorm(nn.Module):
    """Batch normalization whose scale and shift are linear functions of a vector (de Vries et al. 2017).

    arXiv:1707.00683, section 3.2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False, eps=1e-4)
        self.scale_and_shift = nn.Linear(_STYLE, 2 * channels)
        nn.init.normal_(self.scale_and_shift.weight, std=0.3 * _STYLE**-0.5)
        nn.init.zeros_(self.scale_and_shift.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.scale_and_shift(style)[:, :, None, None].chunk(2, dim=1)
        result: Tensor = torch.addcmul(shift, self.norm(x), 1 + scale)
        return result


@GENERATORS.register("residual")
def _residual_generator(settings: ModelSettings, shape: ImageShape, classes: int | None) -> Generator:
    base_channels = settings.generator_base_channels or settings.base_channels
    return ResidualGenerator(settings.latent_dim, classes, shape, base_channels)
