"""Losses have the values of their formulas; the penalty is the gradient that finite differences see."""

import math

import pytest
import torch

from training.config import ModelSettings
from training.losses import LOSSES, squared_gradient_norm
from training.models import ImageShape, build_discriminator

REAL, FAKE = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_the_relativistic_loss_pairs_each_fake_with_the_real_image_beside_it() -> None:
    loss = LOSSES["relativistic"]
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx((softplus(0.5 - 1) + softplus(3 + 2)) / 2)
    assert loss.generator(REAL, FAKE).item() == pytest.approx((softplus(1 - 0.5) + softplus(-2 - 3)) / 2)


def test_the_non_saturating_loss_is_binary_cross_entropy_on_logits() -> None:
    loss = LOSSES["non-saturating"]
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    expected = bce(REAL, torch.ones(2)) + bce(FAKE, torch.zeros(2))
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx(expected.item())
    assert loss.generator(None, FAKE).item() == pytest.approx(bce(FAKE, torch.ones(2)).item())


def test_the_gradient_penalty_agrees_with_finite_differences() -> None:
    torch.manual_seed(0)
    shape = ImageShape(1, 8, 8)
    discriminator = build_discriminator(ModelSettings.model_validate({"width": 4}), shape, 3).double()
    images, labels = torch.rand(2, *shape, dtype=torch.float64, requires_grad=True), torch.tensor([0, 2])
    found = squared_gradient_norm(discriminator(images, labels), images)
    step = 1e-6
    expected = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        for pixel in range(shape.size):
            shift = torch.zeros(shape.size, dtype=torch.float64)
            shift[pixel] = step
            shift = shift.view(1, *shape)
            slope = (discriminator(images + shift, labels) - discriminator(images - shift, labels)) / (2 * step)
            expected += slope.square()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


def test_the_gradient_penalty_can_itself_be_made_smaller() -> None:
    torch.manual_seed(0)
    discriminator = build_discriminator(ModelSettings.model_validate({"width": 4}), ImageShape(1, 8, 8), 3)
    images, labels = torch.rand(2, 1, 8, 8, requires_grad=True), torch.tensor([0, 2])
    penalty = squared_gradient_norm(discriminator(images, labels), images).sum()
    gradients = torch.autograd.grad(penalty, list(discriminator.parameters()), allow_unused=True)
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
