"""Gradient penalties."""

import torch
from torch import Tensor, nn

from training.losses import squared_gradient_norm as squared_gradient_norm


def interpolation_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor, labels: Tensor, mix: Tensor) -> Tensor:
    e = mix.view(-1, 1, 1, 1)
    x = (e * real + (1 - e) * fake).detach().requires_grad_()
    n = squared_gradient_norm(discriminator(x, labels), x)
    return ((n + 1e-12).sqrt() - 1).square()
