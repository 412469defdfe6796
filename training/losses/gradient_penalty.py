"""Gradient norms of a discriminator by double backward, for gradient penalties."""

from collections.abc import Callable

import torch
from torch import Tensor


def squared_gradient_norm(logits: Tensor, images: Tensor) -> Tensor:
    """‖∇ₓD(x)‖² for each image, [N], differentiable.

    Args:
        logits: [N], computed from `images`. Logit i must depend on image i alone (no batch statistics), since this
            differentiates the sum of the logits.
        images: [N, C, H, W], or the features [N, K] of a projected discriminator; must require a gradient.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=tuple(range(1, gradient.dim())))


def mixed_gradient_norm(
    discriminator: Callable[[Tensor, Tensor], Tensor], real: Tensor, fake: Tensor, labels: Tensor, mix: Tensor
) -> Tensor:
    """‖∇D(x̂)‖² at each x̂ = ε·real + (1 − ε)·fake, [N] (Gulrajani et al. 2017, arXiv:1704.00028, algorithm 1).

    Args:
        discriminator: called as D(images, labels); each logit must depend on its own image alone.
        real, fake: [N, C, H, W] or [N, K].
        labels: [N], shared by real and fake.
        mix: ε, [N], uniform in 0 … 1.
    """
    epsilon = mix.view(-1, *[1] * (real.dim() - 1))
    mixed = (epsilon * real + (1 - epsilon) * fake).detach().requires_grad_(True)
    return squared_gradient_norm(discriminator(mixed, labels), mixed)


def distance_from_unit_norm(squared_norms: Tensor) -> Tensor:
    """(‖∇D‖₂ − 1)² of squared norms [N]."""
    # the root has an infinite derivative at 0, which a constant discriminator would reach
    return ((squared_norms + 1e-12).sqrt() - 1).square()
