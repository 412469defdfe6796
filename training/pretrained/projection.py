"""Projection of images to features of a pretrained network, which a projected discriminator sees in place of pixels.

Sauer et al. 2021 (arXiv:2111.01007): a GAN that compares features of a frozen network learns objects from far fewer
images than one that compares pixels. The network is EfficientNet-Lite1. The scores use another one, Lite0, with weights
of its own, so that a generator is not trained against the network that scores it.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad, pixel_unshuffle

from ganctl.training.models.projected import BLOCK, MIN_SIZE
from ganctl.training.pretrained import PROJECTION_FILE
from ganctl.training.pretrained.efficientnet_lite import EfficientNetLite

# of each feature map: its standard deviation in a channel becomes about 1 for photos
_SCALES = (0.105, 0.107, 0.147)
_OFFSETS = ((1, 1), (1, 0), (0, 1), (0, 0))  # top and left, in padded images; the first one means no shift


class Projection(EfficientNetLite):
    """The first four stages of EfficientNet-Lite1; the outputs of the last three are the feature maps."""

    def __init__(self) -> None:
        super().__init__(stage_blocks=(1, 3, 3, 4))

    def forward(self, images: Tensor, first: int = 0) -> Tensor:
        """Computes the feature maps of images; differentiable in the images.

        The pretrained network sees images of less than `MIN_SIZE` pixels enlarged, and transparent ones on white.

        Args:
            images: [N, C, H, W] in [−1, 1]; with 4 channels, colors are premultiplied with alpha, the last channel.
            first: position of the first image in the batch of all ranks; it decides on the shifts.

        Returns:
            [N, K]: the pixels, which show transparency and faults that the network overlooks, then the feature maps;
            each flattened as [H, W, C], with the shapes of `feature_maps`.
        """
        colors = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images[:, :3]
        if images.shape[1] == 4:
            colors = colors + (1 - images[:, 3:])  # in 0 … 1: color + (1 − alpha) · white
        colors = _shift(colors, first)
        height, width = (max(MIN_SIZE, side) for side in images.shape[2:])
        if (height, width) != images.shape[2:]:
            colors = interpolate(colors, size=(height, width), mode="bilinear", align_corners=False)
        maps = self.activations(colors.contiguous(memory_format=torch.channels_last), after=self.stage_ends[1:])
        scaled = [map_ * scale for map_, scale in zip(maps, _SCALES, strict=True)]
        return torch.cat(
            [map_.permute(0, 2, 3, 1).flatten(1) for map_ in (pixel_unshuffle(images, BLOCK), *scaled)], dim=1
        )


def _shift(images: Tensor, first: int) -> Tensor:
    """Moves each image by no or one pixel, down and right, in four combinations that follow one another.

    The gradient of a convolution with stride 2 differs between odd and even pixels. Without the shifts, the generator
    would learn that difference: a checkerboard.
    """
    height, width = images.shape[2:]
    padded = pad(images, (1, 0, 1, 0), mode="replicate")
    shifted = torch.empty_like(images)
    for i in range(4):
        top, left = _OFFSETS[(first + i) % 4]
        shifted[i::4] = padded[i::4, :, top : top + height, left : left + width]
    return shifted


@cache
def load_projection(device: torch.device, dtype: torch.dtype) -> Projection:
    """Returns the network in evaluation mode; each device and dtype has a single one.

    Raises:
        Exception: the file of the package is damaged.
    """
    with torch.device("meta"):  # no random numbers: the random state of a surrounding training run is kept
        network = Projection()
    return network.load(PROJECTION_FILE, device, dtype)
