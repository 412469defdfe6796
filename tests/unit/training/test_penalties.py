"""Gradient penalties and their weight gradients equal those of finite differences."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ganctl.training.losses.gradient_penalty import distance_from_unit_norm, mixed_gradient_norm, squared_gradient_norm

N, SHAPE, STEP = 3, (1, 4, 4), 1e-6
Penalty = Callable[[nn.Module], Tensor]


class Smooth(nn.Module):
    """A small discriminator with smooth activations."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(48, 5), nn.Tanh(), nn.Linear(5, 1)
        )

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = self.net(images).squeeze(1) * (1 + labels)
        return logits


@pytest.fixture
def discriminator() -> nn.Module:
    torch.manual_seed(0)
    return Smooth().double()


def random_tensor(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


REAL, FAKE, MIX, LABELS = (
    random_tensor(1, N, *SHAPE),
    random_tensor(2, N, *SHAPE),
    random_tensor(3, N),
    torch.tensor([0, 2, 1]),
)


def r1(discriminator: nn.Module) -> Tensor:
    images = REAL.clone().requires_grad_(True)
    return squared_gradient_norm(discriminator(images, LABELS), images)


def wgan_gp(discriminator: nn.Module) -> Tensor:
    return distance_from_unit_norm(mixed_gradient_norm(discriminator, REAL, FAKE, LABELS, MIX))


def squared_norms(discriminator: nn.Module, images: Tensor) -> Tensor:
    """‖∇ₓD(x)‖² for each image by central differences."""
    total = torch.zeros(N, dtype=torch.float64)
    with torch.no_grad():
        for pixel in range(REAL[0].numel()):
            shift = torch.zeros(REAL[0].numel(), dtype=torch.float64)
            shift[pixel] = STEP
            shift = shift.view(1, *SHAPE)
            slope = (discriminator(images + shift, LABELS) - discriminator(images - shift, LABELS)) / (2 * STEP)
            total += slope.square()
    return total


def test_r1_is_the_squared_gradient_norm_at_each_image(discriminator: nn.Module) -> None:
    torch.testing.assert_close(r1(discriminator), squared_norms(discriminator, REAL), rtol=1e-6, atol=1e-12)


def test_wgan_gp_is_the_squared_distance_of_the_gradient_norm_from_1_at_mixed_images(discriminator: nn.Module) -> None:
    mixed = MIX.view(-1, 1, 1, 1) * REAL + (1 - MIX.view(-1, 1, 1, 1)) * FAKE
    expected = (squared_norms(discriminator, mixed).sqrt() - 1).square()
    torch.testing.assert_close(wgan_gp(discriminator), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("penalty", [r1, wgan_gp])
def test_a_penalty_has_the_weight_gradients_of_finite_differences(penalty: Penalty, discriminator: nn.Module) -> None:
    parameters = list(discriminator.parameters())
    gradients = torch.autograd.grad(penalty(discriminator).mean(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        flat = parameter.detach().view(-1)
        for i in range(0, len(flat), max(1, len(flat) // 7)):
            ends = []
            for sign in (1, -1):
                flat[i] += sign * STEP
                ends.append(penalty(discriminator).mean().item())
                flat[i] -= sign * STEP
            slope = (ends[0] - ends[1]) / (2 * STEP)
            actual = 0.0 if gradient is None else gradient.view(-1)[i].item()
            assert actual == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_a_penalty_of_a_constant_discriminator_has_finite_gradients(discriminator: nn.Module) -> None:
    for parameter in discriminator.parameters():
        parameter.data.zero_()
    penalty = wgan_gp(discriminator)
    torch.testing.assert_close(penalty, torch.ones(N, dtype=torch.float64), atol=1e-5, rtol=0)
    penalty.mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in discriminator.parameters())
