"""The networks. A generator maps z [N, z_dim] (and labels [N]) to images [N, C, H, W] in [−1, 1]; a discriminator maps
images (and labels) to logits [N].

- conv: a small DCGAN (Radford et al. 2016, arXiv:1511.06434) without batch normalisation; the generator sees the label
  as an embedding beside z, the discriminator as a projection (Miyato & Koyama 2018, arXiv:1802.05637).
- mlp: the networks of the PyTorch Lightning tutorial "basic GAN", the discriminator without its final sigmoid.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.config import ModelSettings
from training.errors import ConfigError

_HIDDEN = 256  # the conv discriminator's last layer
_EMBEDDING = 32  # what the conv generator sees of a label


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

    def __init__(self, z_dim: int, classes: int | None, shape: ImageShape) -> None:
        super().__init__()
        self.z_dim, self.classes, self.shape = z_dim, classes, shape

    @property
    def conditional(self) -> bool:
        return self.classes is not None


class ConvGenerator(Generator):
    """z and label → 2w·H/4·W/4 → w·H/2·W/2 → C·H·W by transposed convolutions."""

    def __init__(self, z_dim: int, classes: int | None, shape: ImageShape, width: int) -> None:
        super().__init__(z_dim, classes, shape)
        self.embedding = nn.Embedding(classes, _EMBEDDING) if classes else None
        self.start = (2 * width, shape.height // 4, shape.width // 4)
        self.net = nn.Sequential(
            nn.Linear(z_dim + (_EMBEDDING if classes else 0), self.start[0] * self.start[1] * self.start[2]),
            nn.LeakyReLU(0.2),
            nn.Unflatten(1, self.start),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(width, shape.channels, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(label)], dim=1)
        images: Tensor = self.net(z)
        return images


class ConvDiscriminator(nn.Module):
    """C·H·W → w·H/2·W/2 → 2w·H/4·W/4 → 256 → logit, plus the projection on the label's embedding."""

    def __init__(self, classes: int | None, shape: ImageShape, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(shape.channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(2 * width * (shape.height // 4) * (shape.width // 4), _HIDDEN),
            nn.LeakyReLU(0.2),
        )
        self.logit = nn.Linear(_HIDDEN, 1)
        self.projection = nn.Embedding(classes, _HIDDEN) if classes else None
        if self.projection is not None:
            nn.init.normal_(self.projection.weight, std=_HIDDEN**-0.5)

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        features = self.features(images)
        logits: Tensor = self.logit(features).squeeze(1)
        if self.projection is not None:
            logits = logits + (self.projection(label) * features).sum(dim=1)
        return logits


class MlpGenerator(Generator):
    """The tutorial's: z → 128 → 256 → 512 → 1024 → C·H·W, batch normalisation from the second layer on."""

    def __init__(self, z_dim: int, classes: int | None, shape: ImageShape) -> None:
        super().__init__(z_dim, classes, shape)
        self.embedding = nn.Embedding(classes, classes) if classes else None
        widths = [z_dim + (classes or 0), 128, 256, 512, 1024]
        layers: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(pairwise(widths)):
            layers.append(nn.Linear(inputs, outputs))
            if i > 0:
                layers.append(nn.BatchNorm1d(outputs, 0.8))  # 0.8 is eps, as published
            layers.append(nn.LeakyReLU(0.2))
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], shape.size), nn.Tanh(), nn.Unflatten(1, shape))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(label)], dim=1)
        images: Tensor = self.net(z)
        return images


class MlpDiscriminator(nn.Module):
    """The tutorial's: C·H·W → 512 → 256 → logit; a label enters as an embedding beside the pixels."""

    def __init__(self, classes: int | None, shape: ImageShape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, classes) if classes else None
        self.net = nn.Sequential(
            nn.Linear(shape.size + (classes or 0), 512),
            nn.LeakyReLU(0.2),
            nn.Linear(512, 256),
            nn.LeakyReLU(0.2),
            nn.Linear(256, 1),
        )

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        flat = images.flatten(1)
        if self.embedding is not None:
            flat = torch.cat([flat, self.embedding(label)], dim=1)
        logits: Tensor = self.net(flat).squeeze(1)
        return logits


def build_generator(settings: ModelSettings, shape: ImageShape, classes: int) -> Generator:
    """The generator that the settings name, with fresh weights.

    Raises:
        ConfigError: the images' size does not suit the network.
    """
    labels = classes if settings.conditional else None
    if settings.generator == "mlp":
        return MlpGenerator(settings.z_dim, labels, shape)
    _need_quarters(shape, "model.generator")
    return ConvGenerator(settings.z_dim, labels, shape, settings.width)


def build_discriminator(settings: ModelSettings, shape: ImageShape, classes: int) -> nn.Module:
    """The discriminator that the settings name, with fresh weights.

    Raises:
        ConfigError: the images' size does not suit the network.
    """
    labels = classes if settings.conditional else None
    if settings.discriminator == "mlp":
        return MlpDiscriminator(labels, shape)
    _need_quarters(shape, "model.discriminator")
    return ConvDiscriminator(labels, shape, settings.width)


def _need_quarters(shape: ImageShape, setting: str) -> None:
    if shape.height % 4 or shape.width % 4:
        raise ConfigError(
            [f"{setting} = 'conv': the images are {shape.height} × {shape.width}, expected multiples of 4; use 'mlp'."]
        )


def to_float(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 pixels 0 … 255 → numbers in [−1, 1], the range of the generators' tanh."""
    return images.to(dtype).mul_(1 / 127.5).sub_(1)


def to_bytes(images: Tensor) -> Tensor:
    """Images in [−1, 1] → uint8 pixels 0 … 255, rounded."""
    return images.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
