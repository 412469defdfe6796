"""What all networks share: image shapes, base classes, pixel conversion.

A generator maps z [N, latent_dim] (and labels [N]) to images [N, C, H, W] in [−1, 1]; a discriminator maps images (and
labels) to logits [N].
"""

import math
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

HIDDEN = 256  # features of the built-in discriminators


class ImageShape(NamedTuple):
    """Channels, height and width of an image."""

    channels: int
    height: int
    width: int

    @property
    def size(self) -> int:
        return self.channels * self.height * self.width


class Generator(nn.Module):
    """What every generator has in common."""

    def __init__(self, latent_dim: int, classes: int | None, shape: ImageShape) -> None:
        super().__init__()
        self.latent_dim, self.classes, self.shape = latent_dim, classes, shape

    @property
    def conditional(self) -> bool:
        return self.classes is not None


class Discriminator(nn.Module):
    """logitᵢ = ⟨logit.weight + projection(labelᵢ), features(xᵢ)⟩ + logit.bias; without classes no projection.

    Two further heads read the features: `classifier` the class (for `loss.classification`), `latent` what z an image
    was generated from (for `loss.latent_reconstruction`); None where there is nothing to read.
    """

    def __init__(self, features: nn.Sequential, width: int, classes: int | None, latent_dim: int | None = None) -> None:
        """`features` maps images [N, C, H, W] to [N, width]."""
        super().__init__()
        self.features = features
        self.logit = nn.Linear(width, 1)
        self.projection = nn.Embedding(classes, width) if classes else None
        if self.projection is not None:
            nn.init.normal_(self.projection.weight, std=width**-0.5)
        self.classifier = nn.Linear(width, classes) if classes else None
        self.latent = nn.Linear(width, latent_dim) if latent_dim else None

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        return self.judge(self.features(images), label)

    def judge(self, features: Tensor, label: Tensor | None = None) -> Tensor:
        """Logits [N] of images of which the features [N, width] are known."""
        logits: Tensor = self.logit(features).squeeze(1)
        if self.projection is not None:
            logits = logits + (self.projection(label) * features).sum(dim=1)
        return logits


def judges_features(network: nn.Module) -> TypeGuard[Discriminator]:
    """Whether a network's logits are `judge` of its `features`, which see the images alone: it is a Discriminator, or a
    kind of it that changes neither."""
    if not isinstance(network, Discriminator):
        return False
    return type(network).forward is Discriminator.forward and type(network).judge is Discriminator.judge


class EmbeddingDiscriminator(Discriminator):
    """Sees the label as numbers beside the pixels: of the shape `beside`, learnt for each class."""

    def __init__(self, features: nn.Sequential, width: int, classes: int, beside: tuple[int, ...]) -> None:
        super().__init__(features, width, None)
        self.embedding, self._beside = nn.Embedding(classes, math.prod(beside)), beside

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        numbers = self.embedding(label).unflatten(1, self._beside)
        # beside flat pixels, or as a further channel
        return super().forward(torch.cat([images if len(self._beside) > 1 else images.flatten(1), numbers], dim=1))


def to_float(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 pixels 0 … 255 → numbers in [−1, 1], the range of the generators' tanh."""
    return images.mul(torch.tensor(1 / 127.5, dtype=dtype)).sub_(1)


def to_bytes(images: Tensor) -> Tensor:
    """Images in [−1, 1] → uint8 pixels 0 … 255, rounded."""
    return images.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
