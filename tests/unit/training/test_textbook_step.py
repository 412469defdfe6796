"""A step is the update that a textbook would write, by fewer passes."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ganctl.training.config.schema import Config
from ganctl.training.distributed.ranks import SINGLE_RANK
from ganctl.training.losses.adversarial import build_loss
from ganctl.training.losses.gradient_penalty import squared_gradient_norm
from ganctl.training.models.base import Generator, to_float
from tests.unit.training.steps import batch, build, distance_of_features

Emphasis = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]


def straightforward_step(
    config: Config, generator: Generator, discriminator: Any, emphasis: Emphasis | None = None
) -> None:
    """The same update written as a textbook would: separate passes, zero_grad, backward, plain Adam. With `emphasis`
    (of discriminator, real and generated images) each pair has its weight, and the loss is the relativistic one."""
    images, labels = batch()
    rng = torch.Generator().manual_seed(config.train.seed)
    loss, settings = build_loss(config.loss), config.optimizer
    real = to_float(images).requires_grad_(True)
    options = {"lr": settings.lr, "betas": (settings.beta1, settings.beta2), "eps": settings.eps}
    adam_d = torch.optim.Adam(discriminator.parameters(), **options)  # type: ignore[arg-type]
    adam_g = torch.optim.Adam(generator.parameters(), **options)  # type: ignore[arg-type]

    z = torch.randn(8, generator.latent_dim, generator=rng) * config.train.latent_std
    fake = generator(z, labels).detach().requires_grad_(True)
    real_logits, fake_logits = discriminator(real, labels), discriminator(fake, labels)
    if emphasis:
        weights = emphasis(discriminator, real, fake)
        total = (weights * nn.functional.softplus(fake_logits - real_logits)).mean()
    else:
        total = loss.discriminator(real_logits, fake_logits)
    total = total + config.loss.r1 / 2 * squared_gradient_norm(real_logits, real).mean()
    total = total + config.loss.r2 / 2 * squared_gradient_norm(fake_logits, fake).mean()
    if config.loss.wgan_gp:
        between = (e := torch.rand(8, generator=rng).view(-1, 1, 1, 1)) * real + (1 - e) * fake
        between = between.detach().requires_grad_(True)
        slopes = squared_gradient_norm(discriminator(between, labels), between).sqrt()
        total = total + config.loss.wgan_gp * (slopes - 1).square().mean()
    auxiliary, latent = float(config.loss.classification), float(config.loss.latent_reconstruction)
    if auxiliary:
        guesses = discriminator.classifier(discriminator.features(real.detach()))
        total = total + auxiliary * nn.functional.cross_entropy(guesses, labels)
    if latent:  # the head alone learns to read z
        total = total + nn.functional.mse_loss(discriminator.latent(discriminator.features(fake).detach()), z)
    adam_d.zero_grad()
    total.backward()
    adam_d.step()

    if not config.train.reuse_fakes:
        z = torch.randn(8, generator.latent_dim, generator=rng) * config.train.latent_std
    fake = generator(z, labels)
    real_logits, fake_logits = discriminator(real, labels), discriminator(fake, labels)
    if emphasis:
        total = (emphasis(discriminator, real, fake) * nn.functional.softplus(real_logits - fake_logits)).mean()
    else:
        total = loss.generator(real_logits, fake_logits)
    if auxiliary:
        guesses = discriminator.classifier(discriminator.features(fake))
        total = total + float(config.loss.classification_generator) * nn.functional.cross_entropy(guesses, labels)
    if latent:
        total = total + latent * nn.functional.mse_loss(discriminator.latent(discriminator.features(fake)), z)
    if float(config.loss.feature_matching):
        seen = discriminator.features(real.detach()), discriminator.features(fake)
        total = total + float(config.loss.feature_matching) * distance_of_features(*seen, labels)
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
        f"loss.name={loss}", f"loss.wgan_gp={gp}", "loss.r1=0.5", "loss.r2=0.2", "optimizer.eps=0.1",
        "optimizer.lr_by_fan_in=false", f"loss.classification={auxiliary}",
        f"loss.classification_generator={auxiliary / 2}", f"loss.latent_reconstruction={latent}",
        f"loss.feature_matching={matching}",
        f"model.conditioning={conditioning}", f"train.reuse_fakes={shared}",
    )  # fmt: skip
    generator, discriminator = copy.deepcopy(step.generator), copy.deepcopy(step.phases[0].network)
    step(*batch(), step=0, progress=0.0)
    straightforward_step(config, generator, discriminator)
    for ours, plain in ((step.generator, generator), (step.phases[0].network, discriminator)):
        for (name, a), b in zip(ours.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("gp", [0.0, 3.0])  # in four passes, by autograd
def test_pairs_with_rare_images_have_a_larger_share_of_both_updates(gp: float) -> None:
    config, step = build(
        f"loss.wgan_gp={gp}", "loss.rare_weight=1.0", "loss.feature_matching=1e-12", "optimizer.eps=0.1",
        "optimizer.lr_by_fan_in=false", "loss.classification=0.0", "loss.classification_generator=0.0",
        "loss.latent_reconstruction=0.0",
    )  # fmt: skip
    seen, of_seen = 0.1 * torch.rand(40, 256, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 10
    assert step.objective.terms.feature_matching is not None
    step.objective.terms.feature_matching.loss(seen, seen, of_seen, SINGLE_RANK)
    means = torch.stack([seen[of_seen == c].mean(dim=0) for c in range(10)])
    variances = (seen - means[of_seen]).square().mean(dim=0)
    variances = variances + 0.01 * variances.mean()
    weights: list[torch.Tensor] = []

    def emphasis(discriminator: Any, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        away = [discriminator.features(images).detach() - means[batch()[1]] for images in (real, fake)]
        rare = [(x.square() / variances).mean(dim=1).clamp(0.2, 5) for x in away]
        weights.append((rare[0] + rare[1]) / 2)
        return weights[-1]

    generator, discriminator = copy.deepcopy(step.generator), copy.deepcopy(step.phases[0].network)
    step(*batch(), step=0, progress=0.0)
    straightforward_step(config, generator, discriminator, emphasis)
    assert all(w.std() > 0.1 for w in weights), "or there is nothing to see here"
    for ours, plain in ((step.generator, generator), (step.phases[0].network, discriminator)):
        for (name, a), b in zip(ours.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)
