"""Base classes of generators and discriminators, image shapes, and pixel conversion.

A generator maps z [N, latent_dim] (and labels, int64 [N]) to images [N, C, H, W] in [−1, 1]. A discriminator maps
images (and labels) to logits [N].
"""

import math
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

NUM_FEATURES = 256  # number of features of the built-in discriminators


class ImageShape(NamedTuple):
    """Channels, height and width of an image or a feature map."""

    channels: int
    height: int
    width: int

    @property
    def size(self) -> int:
        return self.channels * self.height * self.width


class Generator(nn.Module):
    """Base class of all generators.

    Attributes:
        latent_dim: size of a latent.
        classes: number of classes; None without conditioning.
        shape: of the images.
    """

    def __init__(self, latent_dim: int, classes: int | None, shape: ImageShape) -> None:
        super().__init__()
        self.latent_dim, self.classes, self.shape = latent_dim, classes, shape

    @property
    def conditional(self) -> bool:
        return self.classes is not None


class Discriminator(nn.Module):
    """A discriminator with linear heads on its features.

    logitᵢ = ⟨logit.weight + projection(labelᵢ), features(xᵢ)⟩ + logit.bias; without classes there is no projection.
    Two optional heads predict the class (`classifier`, for `loss.classification`) and the latent of a generated image
    (`latent`, for `loss.latent_reconstruction`).
    """

    def __init__(self, features: nn.Sequential, width: int, classes: int | None, latent_dim: int | None = None) -> None:
        """Creates the heads.

        Args:
            features: maps images [N, C, H, W] to features [N, width].
            width: number of features.
            classes: number of classes, for the projection and `classifier`; None for neither.
            latent_dim: size of a latent, for the head `latent`; None for no such head.
        """
        super().__init__()
        self.features = features
        self.logit = nn.Linear(width, 1)
        self.projection = nn.Embedding(classes, width) if classes else None
        if self.projection is not None:
            nn.init.normal_(self.projection.weight, std=width**-0.5)
        self.classifier = nn.Linear(width, classes) if classes else None
        self.latent = nn.Linear(width, latent_dim) if latent_dim else None

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        return self.logits_from_features(self.features(images), label)

    def logits_from_features(self, features: Tensor, label: Tensor | None = None) -> Tensor:
        """Logits [N] from features [N, width] and labels, int64 [N]."""
        logits: Tensor = self.logit(features).squeeze(1)
        if self.projection is not None:
            logits = logits + (self.projection(label) * features).sum(dim=1)
        return logits


def exposes_features(network: nn.Module) -> TypeGuard[Discriminator]:
    """Returns whether a network is a Discriminator that overrides neither `forward` nor `logits_from_features`.

    Then its logits are `logits_from_features` of its `features`, which depend on the images alone.
    """
    if not isinstance(network, Discriminator):
        return False
    methods = [(kind.forward, kind.logits_from_features) for kind in (type(network), Discriminator)]
    return methods[0] == methods[1]


class EmbeddingDiscriminator(Discriminator):
    """A discriminator whose input is the image and an embedding of the label."""

    def __init__(self, features: nn.Sequential, width: int, classes: int, embedding_shape: tuple[int, ...]) -> None:
        """Creates the embedding and the logit head.

        Args:
            features: maps images joined with the embedding to features [N, width].
            width: number of features.
            classes: number of classes.
            embedding_shape: (E,) to append E numbers to the flat image; (1, H, W) to add a channel.
        """
        super().__init__(features, width, None)
        self.embedding, self._embedding_shape = nn.Embedding(classes, math.prod(embedding_shape)), embedding_shape

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        embedded = self.embedding(label).unflatten(1, self._embedding_shape)
        images = images if len(self._embedding_shape) > 1 else images.flatten(1)
        return super().forward(torch.cat([images, embedded], dim=1))


def to_float(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Converts uint8 pixels 0 … 255 to floats in [−1, 1], the range of the generators' tanh."""
    return images.mul(torch.tensor(1 / 127.5, dtype=dtype)).sub_(1)


def unpremultiply(images: Tensor) -> Tensor:
    """Divides the colors of images in [−1, 1], [N, 4, H, W], by alpha; returns images of other channels unchanged.

    Networks see colors that are multiplied with alpha, so that the hidden color of transparent pixels does not matter.
    """
    return images if images.shape[1] != 4 else divide_by_alpha(images)


def divide_by_alpha(images: Tensor) -> Tensor:
    """Divides the colors of images in [−1, 1], [N, 4, H, W], by alpha; without a condition, for the exporters."""
    unit = (images + 1) * 0.5
    colors, alpha = unit[:, :3], unit[:, 3:]
    colors = (colors / alpha.clamp(min=1 / 255)).clamp(0, 1)  # below 1/255, alpha rounds to 0 and colors do not matter
    return torch.cat([colors, alpha], dim=1) * 2 - 1


def to_bytes(images: Tensor) -> Tensor:
    """Converts the output of a generator in [−1, 1] to uint8 pixels 0 … 255, rounded; see `unpremultiply`."""
    images = unpremultiply(images)
    return images.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
