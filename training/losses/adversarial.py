"""Adversarial losses on logits [N]: means over the batch, so that ranks with equal shares can average them.

A custom loss is a class or an object with the members of `AdversarialLoss`. It is registered by
`@LOSSES.register("name")` or set as `loss.name = "module:Name"`.
"""

from typing import Protocol, cast

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from ganctl.training.config.registry import LOSSES
from ganctl.training.config.schema import LossSettings
from ganctl.training.errors import ConfigError


class AdversarialLoss(Protocol):
    """A pair of losses over the logits of real and fake images."""

    needs_real: bool = False  # whether the generator's loss reads the logits of real images

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss, a scalar."""

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """The generator's loss, a scalar; `real` is None unless `needs_real`."""


@LOSSES.register("relativistic")
class Relativistic(AdversarialLoss):
    """Relativistic pairing loss, softplus(−(D(x) − D(G(z)))), on pairs of a real and a generated image.

    Jolicoeur-Martineau 2018, arXiv:1807.00734; with R1 and R2: Huang et al. 2024, arXiv:2501.05441, eq. 2.
    """

    needs_real = True

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(fake - real).mean()

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        assert real is not None, "the relativistic loss needs the real images' logits"
        return softplus(real - fake).mean()


@LOSSES.register("non-saturating")
class NonSaturating(AdversarialLoss):
    """Binary cross-entropy on logits; the generator maximizes log D instead of minimizing log(1 − D).

    Goodfellow et al. 2014, arXiv:1406.2661, section 3.
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(-real).mean() + softplus(fake).mean()

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return softplus(-fake).mean()


@LOSSES.register("hinge")
class Hinge(AdversarialLoss):
    """Hinge loss: max(0, 1 − D(x)) + max(0, 1 + D(G(z))) against −D(G(z)).

    Lim & Ye 2017, arXiv:1705.02894; as in Miyato et al. 2018, arXiv:1802.05957, eq. 16 and 17.
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return relu(1 - real).mean() + relu(1 + fake).mean()

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return -fake.mean()


@LOSSES.register("least-squares")
class LeastSquares(AdversarialLoss):
    """Least-squares loss: ½(D(x) − 1)² + ½D(G(z))² against ½(D(G(z)) − 1)².

    Mao et al. 2017, arXiv:1611.04076, eq. 9.
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean()

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return 0.5 * (fake - 1).square().mean()


@LOSSES.register("wasserstein")
class Wasserstein(AdversarialLoss):
    """Wasserstein loss: D(G(z)) − D(x) against −D(G(z)).

    Arjovsky et al. 2017, arXiv:1701.07875, eq. 2. The critic must be Lipschitz: set `loss.wgan_gp` or
    `model.spectral_norm`.
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return fake.mean() - real.mean()

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return -fake.mean()


def build_loss(settings: LossSettings) -> AdversarialLoss:
    """Builds the adversarial loss of the settings, and checks a custom one on two logits.

    Raises:
        ConfigError: the loss is unknown, lacks a member, or does not return scalars.
    """
    entry = LOSSES.get(settings.name)
    loss = cast(AdversarialLoss, entry() if isinstance(entry, type) else entry)
    setting = f"loss.name = '{settings.name}'"
    members = ("discriminator", "generator", "needs_real")
    if missing := [name for name in members if not hasattr(loss, name)]:
        raise ConfigError([f"{setting}: {entry!r} has no {', '.join(missing)}, expected {', '.join(members)}. Add it."])
    logits = torch.zeros(2)
    for value in (loss.discriminator(logits, logits), loss.generator(logits if loss.needs_real else None, logits)):
        if not isinstance(value, Tensor) or value.shape != ():
            returned = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError([f"{setting}: for two logits it returned {returned}, expected a scalar. Use .mean()."])
    return loss
