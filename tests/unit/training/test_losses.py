"""Losses equal their formulas, and their gradients equal finite differences."""

import math
from collections.abc import Callable

import pytest
import torch

from ganctl.training.config.registry import LOSSES
from ganctl.training.config.schema import LossSettings
from ganctl.training.errors import ConfigError
from ganctl.training.losses.adversarial import AdversarialLoss, build_loss

REAL, FAKE = (1.1, -2.0, 0.3), (0.5, 3.0, -1.7)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def mean(f: Callable[[float, float], float]) -> float:
    return sum(f(real, fake) for real, fake in zip(REAL, FAKE, strict=True)) / len(REAL)


FORMULAS: dict[str, tuple[Callable[[float, float], float], Callable[[float, float], float]]] = {
    "relativistic": (lambda r, f: softplus(-(r - f)), lambda r, f: softplus(-(f - r))),
    "non-saturating": (
        lambda r, f: -math.log(1 / (1 + math.exp(-r))) - math.log(1 - 1 / (1 + math.exp(-f))),
        lambda r, f: -math.log(1 / (1 + math.exp(-f))),
    ),
    "hinge": (lambda r, f: max(0.0, 1 - r) + max(0.0, 1 + f), lambda r, f: -f),
    "least-squares": (lambda r, f: 0.5 * (r - 1) ** 2 + 0.5 * f**2, lambda r, f: 0.5 * (f - 1) ** 2),
    "wasserstein": (lambda r, f: f - r, lambda r, f: -f),
}


def loss_of(name: str) -> AdversarialLoss:
    return build_loss(LossSettings.model_validate({"name": name}))


def logits(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def test_every_built_in_loss_has_a_formula_in_this_file() -> None:
    assert sorted(FORMULAS) == LOSSES.names()


@pytest.mark.parametrize("name", FORMULAS)
def test_a_loss_is_the_mean_of_its_formula(name: str) -> None:
    loss, (discriminator, generator) = loss_of(name), FORMULAS[name]
    assert loss.discriminator(logits(REAL), logits(FAKE)).item() == pytest.approx(mean(discriminator))
    real = logits(REAL) if loss.needs_real else None
    assert loss.generator(real, logits(FAKE)).item() == pytest.approx(mean(generator))


@pytest.mark.parametrize("name", FORMULAS)
def test_a_loss_has_the_gradients_of_finite_differences(name: str) -> None:
    loss = loss_of(name)
    assert torch.autograd.gradcheck(loss.discriminator, (logits(REAL), logits(FAKE)))
    assert torch.autograd.gradcheck(lambda fake: loss.generator(logits(REAL).detach(), fake), (logits(FAKE),))


@pytest.mark.parametrize("name", FORMULAS)
def test_the_gradient_of_the_generator_loss_raises_the_logits_of_fakes(name: str) -> None:
    fake = logits((-0.5, 0.25, 0.5))
    loss_of(name).generator(logits(REAL).detach(), fake).backward()
    assert fake.grad is not None
    assert (fake.grad < 0).all()


def test_the_error_for_an_unknown_loss_lists_the_losses_and_suggests_one() -> None:
    with pytest.raises(ConfigError, match=r"loss\.name = 'wasserstien': .*\bhinge, .*, wasserstein\b.*\bwasserstein\b"):
        loss_of("wasserstien")


class Incomplete:
    def discriminator(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        return fake.mean()


def test_the_error_for_a_custom_loss_names_its_missing_members() -> None:
    with pytest.raises(ConfigError, match=r"loss\.name = .*Incomplete.* no generator, needs_real\b"):
        loss_of(f"{__name__}:Incomplete")
