"""Builds a small training step and a batch for it."""

import torch

from ganctl.training.config.resolve import resolve
from ganctl.training.config.schema import Config
from ganctl.training.data.base import ImageSet
from ganctl.training.losses.backend import Backend
from ganctl.training.models.base import ImageShape
from ganctl.training.models.build import build_discriminator, build_generator
from ganctl.training.step.step import Step

CPU = torch.device("cpu")
SHAPE = ImageShape(1, 28, 28)


def build(*assignments: str, preset: str = "conv", backend: type[Backend] | None = None) -> tuple[Config, Step]:
    """Builds the step of a preset with small networks, and with penalties at each step unless `assignments` differ."""
    settings = ["model.base_channels=4", "loss.penalty_every=1", *assignments]
    config, _ = resolve(preset=preset, assignments=settings, environment={})
    torch.manual_seed(0)
    generator, discriminator = build_generator(config.model, SHAPE, 10), build_discriminator(config.model, SHAPE, 10)
    return config, Step(config, generator, discriminator, CPU, backend=backend, held_out=held_out())


def batch(n: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns random images, uint8 [n, 1, 28, 28], and labels, int64 [n]; the same at each call."""
    rng = torch.Generator().manual_seed(3)
    images = torch.randint(256, (n, *SHAPE), generator=rng, dtype=torch.uint8)
    return images, torch.randint(10, (n,), generator=rng)


def held_out() -> ImageSet:
    """Returns twenty random images that are not those of `batch`."""
    rng = torch.Generator().manual_seed(4)
    images = torch.randint(256, (20, *SHAPE), generator=rng, dtype=torch.uint8)
    return ImageSet(images, torch.randint(10, (20,), generator=rng), tuple("0123456789"))


def distance_of_features(real: torch.Tensor, fake: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Computes the documented value of `FeatureMatching.loss` for one batch, in operations that autograd supports."""
    masks = [labels == c for c in labels.unique()]
    means = [torch.stack([features[mask].mean(dim=0) for mask in masks]) for features in (real, fake)]
    variances = [
        sum((features[mask] - mean).square().sum(dim=0) for mask, mean in zip(masks, class_means, strict=True))
        / len(labels)
        for features, class_means in zip((real, fake), means, strict=True)
    ]
    floor = 0.01 * variances[0].mean()
    real_variance, fake_variance = (variances[0] + floor).detach(), variances[1] + floor.detach()
    frequencies = torch.stack([mask.float().mean().unsqueeze(0) for mask in masks])
    mean_term = (frequencies * torch.log(1 + (means[1] - means[0]).square() / real_variance)).sum(dim=0).mean()
    variance_term = (2 * (fake_variance - real_variance) / (fake_variance + real_variance)).square().mean()
    distance: torch.Tensor = mean_term + 1.5 * variance_term
    return distance
