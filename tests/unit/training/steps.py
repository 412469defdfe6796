"""A small step and a batch for it."""

import torch

from ganctl.training.config.resolve import resolve
from ganctl.training.config.schema import Config
from ganctl.training.losses.backend import Backend
from ganctl.training.models.base import ImageShape
from ganctl.training.models.build import build_discriminator, build_generator
from ganctl.training.step.step import Step

CPU = torch.device("cpu")
SHAPE = ImageShape(1, 28, 28)


def build(*assignments: str, preset: str = "conv", backend: type[Backend] | None = None) -> tuple[Config, Step]:
    config, _ = resolve(preset=preset, assignments=["model.base_channels=4", *assignments], environment={})
    torch.manual_seed(0)
    generator, discriminator = build_generator(config.model, SHAPE, 10), build_discriminator(config.model, SHAPE, 10)
    return config, Step(config, generator, discriminator, CPU, backend=backend)


def batch(n: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    images = torch.randint(256, (n, *SHAPE), generator=rng, dtype=torch.uint8)
    return images, torch.randint(10, (n,), generator=rng)


def distance_of_features(real: torch.Tensor, fake: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What `FeatureMatching.loss` documents, of one batch, by autograd."""
    members = [labels == c for c in labels.unique()]
    means = [torch.stack([features[group].mean(dim=0) for group in members]) for features in (real, fake)]
    variances = [
        sum((features[group] - mean).square().sum(dim=0) for group, mean in zip(members, of_groups, strict=True))
        / len(labels)
        for features, of_groups in zip((real, fake), means, strict=True)
    ]
    least = 0.01 * variances[0].mean()
    wanted, found = (variances[0] + least).detach(), variances[1] + least.detach()
    shares = torch.stack([group.float().mean().unsqueeze(0) for group in members])
    first = (shares * torch.log(1 + (means[1] - means[0]).square() / wanted)).sum(dim=0).mean()
    second = (2 * (found - wanted) / (found + wanted)).square().mean()
    distance: torch.Tensor = first + 1.5 * second
    return distance
