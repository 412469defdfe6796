"""Builds the generator and the discriminator of the settings, and checks custom ones.

A custom network is a callable (settings, shape, classes) that returns a module. It is registered by
`@GENERATORS.register("name")` or set as `model.generator = "module:Name"`. Without conditioning, `classes` is None and
the network is called without labels.
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
    """PyTorch's spectral normalization without autocast, which would reduce the precision of its power iteration."""

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            normalized: Tensor = super().forward(weight)
        return normalized


def build_generator(settings: ModelSettings, shape: ImageShape, classes: int) -> Generator:
    """Builds the generator of the settings, with new weights.

    Raises:
        ConfigError: the network is unknown, does not support the image size, or failed the check.
    """
    network = GENERATORS.get(settings.generator)(settings, shape, classes if settings.conditional else None)
    if not GENERATORS.is_builtin(settings.generator):
        _check_generator(network, settings, shape)
    return network


def build_discriminator(settings: ModelSettings, shape: ImageShape, classes: int) -> nn.Module:
    """Builds the discriminator of the settings, with new weights.

    With `model.spectral_norm`, its layers have spectral normalization (Miyato et al. 2018, arXiv:1802.05957).

    Raises:
        ConfigError: the network is unknown, does not support the image size, or failed the check.
    """
    network = DISCRIMINATORS.get(settings.discriminator)(settings, shape, classes if settings.conditional else None)
    if settings.spectral_norm:
        for layer in list(network.modules()):
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.Embedding):
                register_parametrization(layer, "weight", SpectralNorm(layer.weight))
    if not DISCRIMINATORS.is_builtin(settings.discriminator):
        _check_discriminator(network, settings, shape)
    return network


def _check_generator(network: object, settings: ModelSettings, shape: ImageShape) -> None:
    """Checks the type of a custom generator, and the shape and range of two images."""
    setting = f"model.generator = '{settings.generator}'"
    if not isinstance(network, Generator):
        raise ConfigError([f"{setting}: found {type(network).__name__}, expected a ganctl.Generator. Return one."])
    images = _try(network, settings, (network.latent_dim,))
    if images.shape != (2, *shape) or images.abs().max() > 1:
        found = f"two images have shape {tuple(images.shape)} and values up to {images.abs().max():.2f}"
        raise ConfigError([f"{setting}: {found}, expected {(2, *shape)} within [-1, 1]. End it in tanh."])


def _check_discriminator(network: object, settings: ModelSettings, shape: ImageShape) -> None:
    """Checks the type of a custom discriminator, and the shape of two logits."""
    setting = f"model.discriminator = '{settings.discriminator}'"
    if not isinstance(network, nn.Module):
        raise ConfigError([f"{setting}: found {type(network).__name__}, expected a torch.nn.Module. Return one."])
    logits = _try(network, settings, shape)
    if logits.shape != (2,):
        raise ConfigError([f"{setting}: two logits have shape {tuple(logits.shape)}, expected (2,). Squeeze them."])


@torch.no_grad()
def _try(network: nn.Module, settings: ModelSettings, shape: tuple[int, ...]) -> Tensor:
    """Returns the network's output for two random inputs of a shape; keeps the global random state."""
    labels = (torch.zeros(2, dtype=torch.int64),) if settings.conditional else ()
    with torch.random.fork_rng(devices=[]):
        output: Tensor = network.eval()(torch.randn(2, *shape), *labels)
    network.train()
    return output
