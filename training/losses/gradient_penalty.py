"""Gradient penalties: what keeps a discriminator smooth. Each gives one number per image, differentiable once more.

- R1 (on real) and R2 (on fake images): γ/2 · E‖∇ₓD(x)‖² (Mescheder et al. 2018, arXiv:1801.04406, eq. 9 and 10).
- WGAN-GP, between them: λ · E(‖∇D(x̂)‖₂ − 1)² (Gulrajani et al. 2017, arXiv:1704.00028, eq. 3).
"""

from collections.abc import Callable

import torch
from torch import Tensor


def squared_gradient_norm(logits: Tensor, images: Tensor) -> Tensor:
    """‖∇ₓD(x)‖² for each image, [N].

    `logits` [N] must come from `images` [N, C, H, W], which must require a gradient; image i must not reach logit j ≠ i
    (no batch statistics in the discriminator), since the gradient of the logits' sum stands for N gradients.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


Judge = Callable[[Tensor, Tensor], Tensor]


def interpolation_penalty(discriminator: Judge, real: Tensor, fake: Tensor, labels: Tensor, mix: Tensor) -> Tensor:
    """(‖∇D(x̂)‖₂ − 1)² for each x̂ = ε·real + (1 − ε)·fake, [N].

    Args:
        discriminator: called as D(images, labels); images must not see each other in it.
        real, fake: [N, C, H, W].
        labels: [N], shared by real and fake.
        mix: ε, [N], uniform in 0 … 1.
    """
    epsilon = mix.view(-1, 1, 1, 1)
    between = (epsilon * real + (1 - epsilon) * fake).detach().requires_grad_(True)
    squared = squared_gradient_norm(discriminator(between, labels), between)
    # the root has no slope at 0, where a dead discriminator is: a tiny number keeps its gradient finite
    return ((squared + 1e-12).sqrt() - 1).square()
