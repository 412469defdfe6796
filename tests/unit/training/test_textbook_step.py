"""A training step makes the update of a textbook implementation, in fewer passes."""

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
from ganctl.training.step.step import Step
from tests.unit.training.steps import batch, build, distance_of_features

SampleWeights = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]


def textbook_step(
    config: Config, generator: Generator, discriminator: Any, sample_weights: SampleWeights | None = None
) -> None:
    """The same update as a textbook writes it: separate passes, zero_grad, backward, plain Adam.

    With `sample_weights` (a function of the discriminator, real and generated images) each pair of images has a weight,
    and the loss is the relativistic one.
    """
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
    if sample_weights:
        weights = sample_weights(discriminator, real, fake)
        total = (weights * nn.functional.softplus(fake_logits - real_logits)).mean()
    else:
        total = loss.discriminator(real_logits, fake_logits)
    total = total + config.loss.r1 / 2 * squared_gradient_norm(real_logits, real).mean()
    total = total + config.loss.r2 / 2 * squared_gradient_norm(fake_logits, fake).mean()
    if config.loss.wgan_gp:
        interpolated = (e := torch.rand(8, generator=rng).view(-1, 1, 1, 1)) * real + (1 - e) * fake
        interpolated = interpolated.detach().requires_grad_(True)
        gradient_norms = squared_gradient_norm(discriminator(interpolated, labels), interpolated).sqrt()
        total = total + config.loss.wgan_gp * (gradient_norms - 1).square().mean()
    classification, latent_reconstruction = float(config.loss.classification), float(config.loss.latent_reconstruction)
    if classification:
        class_logits = discriminator.classifier(discriminator.features(real.detach()))
        total = total + classification * nn.functional.cross_entropy(class_logits, labels)
    if latent_reconstruction:  # trains the head only
        total = total + nn.functional.mse_loss(discriminator.latent(discriminator.features(fake).detach()), z)
    adam_d.zero_grad()
    total.backward()
    adam_d.step()

    if not config.train.reuse_fakes:
        z = torch.randn(8, generator.latent_dim, generator=rng) * config.train.latent_std
    fake = generator(z, labels)
    real_logits, fake_logits = discriminator(real, labels), discriminator(fake, labels)
    if sample_weights:
        total = (sample_weights(discriminator, real, fake) * nn.functional.softplus(real_logits - fake_logits)).mean()
    else:
        total = loss.generator(real_logits, fake_logits)
    if classification:
        class_logits = discriminator.classifier(discriminator.features(fake))
        total = total + float(config.loss.classification_generator) * nn.functional.cross_entropy(class_logits, labels)
    if latent_reconstruction:
        reconstruction = discriminator.latent(discriminator.features(fake))
        total = total + latent_reconstruction * nn.functional.mse_loss(reconstruction, z)
    if float(config.loss.feature_matching):
        features = discriminator.features(real.detach()), discriminator.features(fake)
        total = total + float(config.loss.feature_matching) * distance_of_features(*features, labels)
    adam_g.zero_grad()
    total.backward()
    adam_g.step()


def assert_same_parameters(step: Step, generator: nn.Module, discriminator: nn.Module) -> None:
    for network, expected in ((step.generator, generator), (step.discriminator, discriminator)):
        for (name, a), b in zip(network.named_parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("reuse_fakes", ["true", "false"])
@pytest.mark.parametrize(
    ("loss", "wgan_gp", "classification", "latent_reconstruction", "feature_matching", "conditioning"),
    [
        ("relativistic", 0.0, 0.0, 0.0, 0.0, "projection"),
        ("relativistic", 0.0, 0.0, 2.0, 0.0, "projection"),
        ("relativistic", 0.0, 0.0, 0.0, 3.0, "projection"),
        ("non-saturating", 0.0, 0.5, 2.0, 3.0, "projection"),
        ("non-saturating", 0.0, 0.0, 0.0, 0.0, "embedding"),  # not piecewise linear: by autograd, as WGAN-GP's penalty
        ("wasserstein", 3.0, 0.5, 2.0, 3.0, "projection"),
    ],
)
def test_joint_passes_give_the_same_update_as_separate_passes(
    loss: str,
    wgan_gp: float,
    classification: float,
    latent_reconstruction: float,
    feature_matching: float,
    conditioning: str,
    reuse_fakes: str,
) -> None:
    # a large ε: Adam's first step is the gradient's sign, which depends on rounding where the gradient is near zero
    config, step = build(
        f"loss.name={loss}", f"loss.wgan_gp={wgan_gp}", "loss.r1=0.5", "loss.r2=0.2", "optimizer.eps=0.1",
        "optimizer.lr_by_fan_in=false", f"loss.classification={classification}",
        f"loss.classification_generator={classification / 2}", f"loss.latent_reconstruction={latent_reconstruction}",
        f"loss.feature_matching={feature_matching}",
        f"model.conditioning={conditioning}", f"train.reuse_fakes={reuse_fakes}",
    )  # fmt: skip
    generator, discriminator = copy.deepcopy(step.generator), copy.deepcopy(step.discriminator)
    step(*batch(), step=0, progress=0.0)
    textbook_step(config, generator, discriminator)
    assert_same_parameters(step, generator, discriminator)


@pytest.mark.parametrize("wgan_gp", [0.0, 3.0])  # with the penalty: four passes, by autograd
def test_pairs_with_rare_images_have_a_larger_weight_in_both_updates(wgan_gp: float) -> None:
    config, step = build(
        f"loss.wgan_gp={wgan_gp}", "loss.rare_weight=1.0", "loss.feature_matching=1e-12", "optimizer.eps=0.1",
        "optimizer.lr_by_fan_in=false", "loss.classification=0.0", "loss.classification_generator=0.0",
        "loss.latent_reconstruction=0.0",
    )  # fmt: skip
    features, labels = 0.1 * torch.rand(40, 256, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 10
    assert step.objective.terms.feature_matching is not None
    step.objective.terms.feature_matching.loss(features, features, labels, SINGLE_RANK)
    means = torch.stack([features[labels == c].mean(dim=0) for c in range(10)])
    variances = (features - means[labels]).square().mean(dim=0)
    variances = variances + 0.01 * variances.mean()
    weights: list[torch.Tensor] = []

    def sample_weights(discriminator: Any, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        deviations = [discriminator.features(images).detach() - means[batch()[1]] for images in (real, fake)]
        rare = [(x.square() / variances).mean(dim=1).clamp(0.2, 5) for x in deviations]
        weights.append((rare[0] + rare[1]) / 2)
        return weights[-1]

    generator, discriminator = copy.deepcopy(step.generator), copy.deepcopy(step.discriminator)
    step(*batch(), step=0, progress=0.0)
    textbook_step(config, generator, discriminator, sample_weights)
    assert all(w.std() > 0.1 for w in weights), "all weights are equal, so the test has no effect"
    assert_same_parameters(step, generator, discriminator)
