"""Builds the networks that the settings name, and checks networks of one's own.

A network of one's own is registered by `@GENERATORS.register("name")` or named as `model.generator = "module:Name"`: a
callable (settings, shape, classes) that returns it. Without conditioning, classes is None and it gets no label.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import register_parametrization

from ganctl.training.config.registry import DISCRIMINATORS, GENERATORS
from ganctl.training.config.schema import ModelSettings
from ganctl.training.errors import ConfigError
from ganctl.training.models.base import Generator, ImageShape


class SpectralNorm(_SpectralNorm):
    """PyTorch's, kept out of autocast: on CUDA its power iteration would run with few bits."""

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            normal: Tensor = super().forward(weight)
        return normal


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
