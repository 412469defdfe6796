"""A small step and a batch for it."""

import torch

from training.config import Config
from training.models import ImageShape, build_discriminator, build_generator
from training.settings import resolve
from training.step import Step

CPU = torch.device("cpu")
SHAPE = ImageShape(1, 28, 28)


def build(*assignments: str, preset: str = "conv") -> tuple[Config, Step]:
    config, _ = resolve(preset=preset, assignments=["model.width=4", *assignments], environment={})
    torch.manual_seed(0)
    generator, discriminator = build_generator(config.model, SHAPE, 10), build_discriminator(config.model, SHAPE, 10)
    return config, Step(config, generator, discriminator, CPU)


def batch(n: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    images = torch.randint(256, (n, *SHAPE), generator=rng, dtype=torch.uint8)
    return images, torch.randint(10, (n,), generator=rng)
