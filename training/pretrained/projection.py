"""Projection of images to features of a pretrained network, which a projected discriminator sees in place of pixels.

Sauer et al. 2021 (arXiv:2111.01007): a GAN that compares features of a frozen network learns objects from far fewer
images than one that compares pixels. The network is EfficientNet-Lite1. The scores use another one, Lite0, with weights
of its own, so that a generator is not trained against the network that scores it.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ganctl.training.models.projected import MIN_SIZE
from ganctl.training.pretrained import PROJECTION_FILE
from ganctl.training.pretrained.efficientnet_lite import EfficientNetLite

# of each feature map: its standard deviation in a channel becomes about 1 for photos
_SCALES = (0.105, 0.107, 0.147)


class Projection(EfficientNetLite):
    """The first four stages of EfficientNet-Lite1; the outputs of the last three are the feature maps."""

    def __init__(self) -> None:
        super().__init__(stage_blocks=(1, 3, 3, 4))

    def forward(self, images: Tensor) -> Tensor:
        """Computes the feature maps of images; differentiable in the images.

        Images below `MIN_SIZE` pixels are enlarged. Transparent images are put on white, each second one on black, so
        that a difference in transparency is visible for every color.

        Args:
            images: [N, C, H, W] in [−1, 1]; with 4 channels, colors are premultiplied with alpha, the last channel.

        Returns:
            [N, K]: the maps of `feature_maps`, flattened as [H, W, C], one after another.
        """
        if images.shape[1] == 4:
            backgrounds = torch.ones(len(images), 1, 1, 1, dtype=images.dtype, device=images.device)
            backgrounds[::2] = 0
            # premultiplied colors c and alpha a, as 0 … 1: c + (1 − a) · background
            images = images[:, :3] + (1 - images[:, 3:]) * backgrounds
        height, width = (max(MIN_SIZE, side) for side in images.shape[2:])
        if (height, width) != images.shape[2:]:
            images = interpolate(images, size=(height, width), mode="bilinear", align_corners=False)
        colors = images.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        maps = self.activations(colors, after=self.stage_ends[1:])
        flat = [map_.permute(0, 2, 3, 1).flatten(1) * scale for map_, scale in zip(maps, _SCALES, strict=True)]
        return torch.cat(flat, dim=1)


@cache
def load_projection(device: torch.device) -> Projection:
    """Returns the network in evaluation mode on a device; each device has a single one.

    Raises:
        Exception: the file of the package is damaged.
    """
    with torch.device("meta"):  # no random numbers: the random state of a surrounding training run is kept
        network = Projection()
    return network.load(PROJECTION_FILE, device)
