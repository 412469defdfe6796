"""Adversarial losses. Logits are [N]; every loss is a mean over the batch, so that equal shares of it may be averaged.

One's own loss is a class (or an object) with the same members: registered with `@LOSSES.register("name")`, or named as
`loss.name = "module:Name"`.
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

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the discriminator minimises; a scalar."""
        ...

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """What the generator minimises; a scalar. `real` is given where `needs_real` says so."""
        ...

    needs_real: bool  # whether the generator's loss looks at the real images' logits


@LOSSES.register("relativistic")
class Relativistic:
    """Each fake is judged against the real image beside it, softplus(−(D(x) − D(G(z)))).

    Jolicoeur-Martineau 2018, arXiv:1807.00734; with R1 and R2: Huang et al. 2024, arXiv:2501.05441, eq. 2.
    """

    needs_real = True

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(fake - real).mean()

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        assert real is not None, "the pairing loss needs the real images' logits"
        return softplus(real - fake).mean()


@LOSSES.register("non-saturating")
class NonSaturating:
    """Binary cross-entropy on logits; the generator maximises log D instead of minimising log(1 − D).

    Goodfellow et al. 2014, arXiv:1406.2661, section 3.
    """

    needs_real = False

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(-real).mean() + softplus(fake).mean()

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return softplus(-fake).mean()


@LOSSES.register("hinge")
class Hinge:
    """max(0, 1 − D(x)) + max(0, 1 + D(G(z))) against −D(G(z)).

    Lim & Ye 2017, arXiv:1705.02894; as in Miyato et al. 2018, arXiv:1802.05957, eq. 16 and 17.
    """

    needs_real = False

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return relu(1 - real).mean() + relu(1 + fake).mean()

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return -fake.mean()


@LOSSES.register("least-squares")
class LeastSquares:
    """½(D(x) − 1)² + ½D(G(z))² against ½(D(G(z)) − 1)²: Mao et al. 2017, arXiv:1611.04076, eq. 9."""

    needs_real = False

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean()

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return 0.5 * (fake - 1).square().mean()


@LOSSES.register("wasserstein")
class Wasserstein:
    """D(G(z)) − D(x) against −D(G(z)): Arjovsky et al. 2017, arXiv:1701.07875, eq. 2. The critic must be kept smooth:
    by `loss.wgan_gp`, or `model.spectral_norm`."""

    needs_real = False

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return fake.mean() - real.mean()

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return -fake.mean()


def build_loss(settings: LossSettings) -> AdversarialLoss:
    """The loss that the settings name.

    Raises:
        ConfigError: there is no such loss, or it lacks a member.
    """
    found = LOSSES.get(settings.name)
    loss = found() if isinstance(found, type) else found
    lacking = [name for name in ("discriminator", "generator", "needs_real") if not hasattr(loss, name)]
    if lacking:
        raise ConfigError([f"loss.name = '{settings.name}': {found!r} lacks {', '.join(lacking)}; a loss has these."])
    logits = torch.zeros(2)
    tried = cast(AdversarialLoss, loss)
    for value in (tried.discriminator(logits, logits), tried.generator(logits if tried.needs_real else None, logits)):
        if not isinstance(value, Tensor) or value.shape != ():
            what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError([f"loss.name = '{settings.name}': of two logits it makes {what}, expected a scalar tensor"
                               " (such as .mean())."])  # fmt: skip
    return tried
