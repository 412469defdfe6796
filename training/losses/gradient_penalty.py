"""Gradient norms of a discriminator by double backward, for gradient penalties."""

from collections.abc import Callable

import torch
from torch import Tensor

Judge = Callable[[Tensor, Tensor], Tensor]


def squared_gradient_norm(logits: Tensor, images: Tensor) -> Tensor:
    """‖∇ₓD(x)‖² for each image, [N], differentiable once more.

    `logits` [N] must come from `images` [N, C, H, W], which must require a gradient; image i must not reach logit j ≠ i
    (no batch statistics in the discriminator), since the gradient of the logits' sum stands for N gradients.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


def mixed_gradient_norm(discriminator: Judge, real: Tensor, fake: Tensor, labels: Tensor, mix: Tensor) -> Tensor:
    """‖∇D(x̂)‖² at each x̂ = ε·real + (1 − ε)·fake, [N] (Gulrajani et al. 2017, arXiv:1704.00028, algorithm 1).

    Args:
        discriminator: called as D(images, labels); images must not see each other in it.
        real, fake: [N, C, H, W].
        labels: [N], shared by real and fake.
        mix: ε, [N], uniform in 0 … 1.
    """
    epsilon = mix.view(-1, 1, 1, 1)
    between = (epsilon * real + (1 - epsilon) * fake).detach().requires_grad_(True)
    return squared_gradient_norm(discriminator(between, labels), between)


def distance_from_unit_norm(squared_norms: Tensor) -> Tensor:
    """(‖∇D‖₂ − 1)² of squared norms [N]."""
    # the root has no derivative at 0, where a dead discriminator is: a tiny number keeps its gradient finite
    return ((squared_norms + 1e-12).sqrt() - 1).square()
