"""Adversarial losses and gradient penalties. Logits are [N]; every loss is a mean over the batch.

- relativistic: each real image against one fake, softplus(−(D(x) − D(G(z)))) (Jolicoeur-Martineau 2018,
  arXiv:1807.00734; with R1 and R2: Huang et al. 2024, arXiv:2501.05441).
- non-saturating: softplus(−D(x)) + softplus(D(G(z))) against softplus(−D(G(z))) (Goodfellow et al. 2014).
- gradient penalties R1 (real) and R2 (fake): γ/2 · E‖∇ₓD(x)‖² (Mescheder et al. 2018, arXiv:1801.04406).
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus

from training.config import LossSettings


class AdversarialLoss(Protocol):
    """A pair of losses over the logits of real and fake images."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the discriminator minimises; a scalar."""
        ...

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """What the generator minimises; a scalar. `real` is given where `needs_real` says so."""
        ...

    needs_real: bool  # whether the generator's loss looks at the real images' logits


class Relativistic:
    """Each fake is judged against the real image beside it."""

    needs_real = True

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(fake - real).mean()

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        assert real is not None, "the pairing loss needs the real images' logits"
        return softplus(real - fake).mean()


class NonSaturating:
    """Binary cross-entropy on logits; the generator maximises log D instead of minimising log(1 − D)."""

    needs_real = False

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(-real).mean() + softplus(fake).mean()

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return softplus(-fake).mean()


LOSSES: dict[str, AdversarialLoss] = {"relativistic": Relativistic(), "non-saturating": NonSaturating()}


def squared_gradient_norm(logits: Tensor, images: Tensor) -> Tensor:
    """‖∇ₓD(x)‖² for each image, [N], differentiable once more.

    `logits` [N] must come from `images` [N, C, H, W], which must require a gradient; image i must not reach logit j ≠ i
    (no batch statistics in the discriminator), since the gradient of the logits' sum stands for N gradients.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


def build_loss(settings: LossSettings) -> AdversarialLoss:
    """The loss that the settings name."""
    return LOSSES[settings.name]
