"""A step is the update that a textbook would write, by fewer passes."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from tests.unit.training.steps import batch, build, distance_of_features
from training.config import Config
from training.losses import build_loss
from training.models import Generator, to_float
from training.penalties import squared_gradient_norm


def straightforward_step(config: Config, generator: Generator, discriminator: Any) -> None:
    """The same update written as a textbook would: separate passes, zero_grad, backward, plain Adam."""
    images, labels = batch()
    rng = torch.Generator().manual_seed(config.train.seed)
    loss, settings = build_loss(config.loss), config.optimizer
    real = to_float(images).requires_grad_(True)
    options = {"lr": settings.lr, "betas": (settings.beta1, settings.beta2), "eps": settings.eps}
    adam_d = torch.optim.Adam(discriminator.parameters(), **options)  # type: ignore[arg-type]
    adam_g = torch.optim.Adam(generator.parameters(), **options)  # type: ignore[arg-type]

    z = torch.randn(8, generator.z_dim, generator=rng) * config.train.z_std
    fake = generator(z, labels).detach().requires_grad_(True)
    real_logits, fake_logits = discriminator(real, labels), discriminator(fake, labels)
    total = loss.discriminator(real_logits, fake_logits)
    total = total + config.loss.r1 / 2 * squared_gradient_norm(real_logits, real).mean()
    total = total + config.loss.r2 / 2 * squared_gradient_norm(fake_logits, fake).mean()
    if config.loss.gp:
        between = (e := torch.rand(8, generator=rng).view(-1, 1, 1, 1)) * real + (1 - e) * fake
        between = between.detach().requires_grad_(True)
        slopes = squared_gradient_norm(discriminator(between, labels), between).sqrt()
        total = total + config.loss.gp * (slopes - 1).square().mean()
    auxiliary, latent = float(config.loss.auxiliary), float(config.loss.latent)
    if auxiliary:
        guesses = discriminator.classifier(discriminator.features(real.detach()))
        total = total + auxiliary * nn.functional.cross_entropy(guesses, labels)
    if latent:  # the head alone learns to read z
        total = total + nn.functional.mse_loss(discriminator.latent(discriminator.features(fake).detach()), z)
    adam_d.zero_grad()
    total.backward()
    adam_d.step()

    if not config.train.shared_fakes:
        z = torch.randn(8, generator.z_dim, generator=rng) * config.train.z_std
    fake = generator(z, labels)
    total = loss.generator(discriminator(real, labels), discriminator(fake, labels))
    if auxiliary:
        guesses = discriminator.classifier(discriminator.features(fake))
        total = total + float(config.loss.auxiliary_generator) * nn.functional.cross_entropy(guesses, labels)
    if latent:
        total = total + latent * nn.functional.mse_loss(discriminator.latent(discriminator.features(fake)), z)
    if float(config.loss.matching):
        seen = discriminator.features(real.detach()), discriminator.features(fake)
        total = total + float(config.loss.matching) * distance_of_features(*seen, labels)
    adam_g.zero_grad()
    total.backward()
    adam_g.step()


@pytest.mark.parametrize("shared", ["true", "false"])
@pytest.mark.parametrize(
    ("loss", "gp", "auxiliary", "latent", "matching", "conditioning"),
    [
        ("relativistic", 0.0, 0.0, 0.0, 0.0, "projection"),
        ("relativistic", 0.0, 0.0, 2.0, 0.0, "projection"),
        ("relativistic", 0.0, 0.0, 0.0, 3.0, "projection"),
        ("non-saturating", 0.0, 0.5, 2.0, 3.0, "projection"),
        ("non-saturating", 0.0, 0.0, 0.0, 0.0, "embedding"),  # not piecewise linear: by autograd, as WGAN-GP's penalty
        ("wasserstein", 3.0, 0.5, 2.0, 3.0, "projection"),
    ],
)
def test_the_joined_passes_give_the_update_of_separate_ones(
    loss: str, gp: float, auxiliary: float, latent: float, matching: float, conditioning: str, shared: str
) -> None:
    # a large ε: Adam's first step is the gradient's sign, which rounding decides where the gradient is near zero
    config, step = build(
        f"loss.name={loss}", f"loss.gp={gp}", "loss.r1=0.5", "loss.r2=0.2", "optimizer.eps=0.1",
        "optimizer.by_fan_in=false", f"loss.auxiliary={auxiliary}",
        f"loss.auxiliary_generator={auxiliary / 2}", f"loss.latent={latent}", f"loss.matching={matching}",
        f"model.conditioning={conditioning}", f"train.shared_fakes={shared}",
    )  # fmt: skip
    generator, discriminator = copy.deepcopy(step.generator), copy.deepcopy(step.phases[0].network)
    step(*batch(), step=0, progress=0.0)
    straightforward_step(config, generator, discriminator)
    for ours, plain in ((step.generator, generator), (step.phases[0].network, discriminator)):
        for (name, a), b in zip(ours.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)
