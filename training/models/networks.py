"""The networks. A generator maps z [N, latent_dim] (and labels [N]) to images [N, C, H, W] in [−1, 1]; a discriminator
maps images (and labels) to logits [N].

- conv: a small DCGAN (Radford et al. 2016, arXiv:1511.06434) without batch normalisation, whose outermost layers see
  blocks of 2 × 2 pixels as channels (sub-pixel convolution, Shi et al. 2016, arXiv:1609.05158): a quarter of the places
  at four times the channels, which a CPU multiplies many times faster than a convolution from or to one channel. The
  generator sees the label as an embedding beside z, and a hidden layer of both; the discriminator sees it as a
  projection (Miyato & Koyama 2018, arXiv:1802.05637). Weights and activations are channels-last in memory.
- mlp: the networks of the PyTorch Lightning tutorial "basic GAN", the discriminator without its final sigmoid (C·H·W →
  512 → 256 → logit).

One's own network is registered with `@GENERATORS.register("name")` or named as `model.generator = "module:Name"`: a
callable (settings, shape, classes) that gives it. Without labels classes is None, and the network is called without.
"""

import math
from itertools import pairwise
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import register_parametrization

from ganctl.training.config.registry import DISCRIMINATORS, GENERATORS
from ganctl.training.config.schema import ModelSettings
from ganctl.training.errors import ConfigError
from ganctl.training.models.batch_norm import BatchNorm1d

_HIDDEN = 256  # the discriminators' last layer
_EMBEDDING = 32  # what the conv generator sees of a label
_MIXING, _MIXED = 2, 256  # its hidden layers
_BLOCK = 2  # pixels of a side that the conv networks take as one place


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


class FlattenLast(nn.Module):
    """[N, C, H, W] → [N, H·W·C]: no copy where the channels are last in memory."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.shape = (height, width, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


class UnflattenLast(nn.Module):
    """[N, H·W·C] → [N, C, H, W], the inverse of FlattenLast."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.shape = (height, width, channels)

    def forward(self, x: Tensor) -> Tensor:
        places: Tensor = x.unflatten(1, self.shape)
        return places.permute(0, 3, 1, 2)


class SpectralNorm(_SpectralNorm):
    """PyTorch's, kept out of autocast: on CUDA its power iteration would run with few bits."""

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            normal: Tensor = super().forward(weight)
        return normal


class ConvGenerator(Generator):
    """z and label, beside 256 units that see them, then beside 256 that see all of these → 2w·H/4·W/4 → w·H/2·W/2 by a
    transposed convolution → C·4·H/2·W/2 → C·H·W by its pixels' shuffle."""

    def __init__(self, latent_dim: int, classes: int | None, shape: ImageShape, width: int) -> None:
        super().__init__(latent_dim, classes, shape)
        self.embedding = nn.Embedding(classes, _EMBEDDING) if classes else None
        start = (2 * width, shape.height // 4, shape.width // 4)
        known = latent_dim + (_EMBEDDING if classes else 0)
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Linear(known + (_MIXED if i else 0), _MIXED), nn.LeakyReLU(0.2)) for i in range(_MIXING)
        )
        self.net = nn.Sequential(
            nn.Linear(known + _MIXED, math.prod(start)),
            nn.LeakyReLU(0.2),
            UnflattenLast(*start),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, _BLOCK**2 * shape.channels, 3, padding=1),
            nn.PixelShuffle(_BLOCK),
            nn.Tanh(),
        ).to(memory_format=torch.channels_last)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(label)], dim=1)
        mixed = z
        for layer in self.hidden:
            mixed = torch.cat([z, layer(mixed)], dim=1)
        images: Tensor = self.net(mixed)
        return images


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


def _conv_features(channels: int, shape: ImageShape, width: int) -> nn.Sequential:
    """C·H·W → 4C·H/2·W/2 → w·H/2·W/2 → 2w·H/4·W/4 → 256."""
    end = (2 * width, shape.height // 4, shape.width // 4)
    return nn.Sequential(
        nn.PixelUnshuffle(_BLOCK),
        nn.Conv2d(_BLOCK**2 * channels, width, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        FlattenLast(*end),
        nn.Linear(math.prod(end), _HIDDEN),
        nn.LeakyReLU(0.2),
    ).to(memory_format=torch.channels_last)


def _mlp_features(inputs: int) -> nn.Sequential:
    """The tutorial's: C·H·W → 512 → 256."""
    layers = [nn.Linear(inputs, 512), nn.LeakyReLU(0.2), nn.Linear(512, 256), nn.LeakyReLU(0.2)]
    return nn.Sequential(nn.Flatten(), *layers)


class MlpGenerator(Generator):
    """The tutorial's: z → 128 → 256 → 512 → 1024 → C·H·W, batch normalisation from the second layer on."""

    def __init__(self, latent_dim: int, classes: int | None, shape: ImageShape) -> None:
        super().__init__(latent_dim, classes, shape)
        self.embedding = nn.Embedding(classes, classes) if classes else None
        widths = [latent_dim + (classes or 0), 128, 256, 512, 1024]
        layers: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(pairwise(widths)):
            layers.append(nn.Linear(inputs, outputs))
            if i > 0:
                layers.append(BatchNorm1d(outputs, 0.8))  # 0.8 is eps, as published
            layers.append(nn.LeakyReLU(0.2))
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], shape.size), nn.Tanh(), nn.Unflatten(1, shape))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(label)], dim=1)
        images: Tensor = self.net(z)
        return images


@GENERATORS.register("conv")
def _conv_generator(settings: ModelSettings, shape: ImageShape, classes: int | None) -> Generator:
    _need_quarters(shape, "model.generator")
    return ConvGenerator(
        settings.latent_dim, classes, shape, settings.generator_base_channels or settings.base_channels
    )


@GENERATORS.register("mlp")
def _mlp_generator(settings: ModelSettings, shape: ImageShape, classes: int | None) -> Generator:
    return MlpGenerator(settings.latent_dim, classes, shape)


@DISCRIMINATORS.register("conv")
def _conv_discriminator(settings: ModelSettings, shape: ImageShape, classes: int | None) -> nn.Module:
    _need_quarters(shape, "model.discriminator")
    if classes and settings.conditioning == "embedding":
        features = _conv_features(shape.channels + 1, shape, settings.base_channels)
        return EmbeddingDiscriminator(features, _HIDDEN, classes, (1, shape.height, shape.width))
    features = _conv_features(shape.channels, shape, settings.base_channels)
    return Discriminator(features, _HIDDEN, classes, settings.latent_dim)


@DISCRIMINATORS.register("mlp")
def _mlp_discriminator(settings: ModelSettings, shape: ImageShape, classes: int | None) -> nn.Module:
    if classes and settings.conditioning != "projection":
        return EmbeddingDiscriminator(_mlp_features(shape.size + classes), _HIDDEN, classes, (classes,))
    return Discriminator(_mlp_features(shape.size), _HIDDEN, classes)


def build_generator(settings: ModelSettings, shape: ImageShape, classes: int) -> Generator:
    """The generator that the settings name, with fresh weights.

    Raises:
        ConfigError: there is no such network, the images' size does not suit it, or it does not do what one must.
    """
    network = GENERATORS.get(settings.generator)(settings, shape, classes if settings.conditional else None)
    if not GENERATORS.is_builtin(settings.generator):
        _try_generator(network, settings, shape)
    return network


def build_discriminator(settings: ModelSettings, shape: ImageShape, classes: int) -> nn.Module:
    """The discriminator that the settings name, with fresh weights; under spectral normalisation (Miyato et al. 2018,
    arXiv:1802.05957) where `model.spectral_norm` asks for it.

    Raises:
        ConfigError: there is no such network, the images' size does not suit it, or it does not do what one must.
    """
    network = DISCRIMINATORS.get(settings.discriminator)(settings, shape, classes if settings.conditional else None)
    if settings.spectral_norm:
        for layer in list(network.modules()):
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.Embedding):
                register_parametrization(layer, "weight", SpectralNorm(layer.weight))
    if not DISCRIMINATORS.is_builtin(settings.discriminator):
        _try_discriminator(network, settings, shape)
    return network


@torch.no_grad()
def _try_generator(network: object, settings: ModelSettings, shape: ImageShape) -> None:
    """Two images from somebody's own generator: is it one?"""
    where = f"model.generator = '{settings.generator}'"
    if not isinstance(network, Generator):
        raise ConfigError([f"{where}: it gives {type(network).__name__}, expected a ganctl.Generator."])
    with torch.random.fork_rng(devices=[]):  # a trial must not use up the random numbers of the training
        images = network.eval()(torch.randn(2, network.latent_dim), *_labels(settings))
    network.train()
    if tuple(images.shape) != (2, *shape) or images.abs().max() > 1:
        raise ConfigError(
            [f"{where}: two images have shape {tuple(images.shape)} and values up to {images.abs().max():.2f}, expected"
             f" {(2, *shape)} within [-1, 1]; end it in tanh."]
        )  # fmt: skip


@torch.no_grad()
def _try_discriminator(network: object, settings: ModelSettings, shape: ImageShape) -> None:
    """Two logits from somebody's own discriminator: is it one?"""
    where = f"model.discriminator = '{settings.discriminator}'"
    if not isinstance(network, nn.Module):
        raise ConfigError([f"{where}: it gives {type(network).__name__}, expected a torch.nn.Module."])
    with torch.random.fork_rng(devices=[]):
        logits = network.eval()(torch.zeros(2, *shape), *_labels(settings))
    network.train()
    if tuple(logits.shape) != (2,):
        raise ConfigError(
            [f"{where}: two logits have shape {tuple(logits.shape)}, expected (2,); squeeze the last axis."]
        )


def _labels(settings: ModelSettings) -> tuple[Tensor, ...]:
    return (torch.zeros(2, dtype=torch.int64),) if settings.conditional else ()


def _need_quarters(shape: ImageShape, setting: str) -> None:
    if shape.height % 4 or shape.width % 4:
        raise ConfigError(
            [f"{setting} = 'conv': the images are {shape.height} × {shape.width}, expected multiples of 4; use 'mlp'."]
        )


def to_float(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 pixels 0 … 255 → numbers in [−1, 1], the range of the generators' tanh."""
    return images.mul(torch.tensor(1 / 127.5, dtype=dtype)).sub_(1)


def to_bytes(images: Tensor) -> Tensor:
    """Images in [−1, 1] → uint8 pixels 0 … 255, rounded."""
    return images.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
