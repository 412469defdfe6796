"""The update of `lightning-basic-gan` as a loop by hand: no trainer, no callbacks, no statistics, nothing configurable.

What our trainer costs beyond it is the cost of the frame. The same networks, losses, optimizers, number of passes and
random numbers as `training.step.Step` with that preset: fakes that both networks see, the discriminator first, with
real and fake images in one pass of it.
"""

import copy

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ganctl.training.config.schema import Config
from ganctl.training.device.precision import Precision
from ganctl.training.models.base import Generator, to_float


class BareStep:
    """One update of both networks at each call."""

    def __init__(
        self, config: Config, generator: Generator, discriminator: torch.nn.Module, device: torch.device, precision: str
    ) -> None:
        """Takes the networks over."""
        assert config.preset == "lightning-basic-gan", "what this loop does"
        self.generator, self.discriminator = generator, discriminator
        self.ema = copy.deepcopy(generator).requires_grad_(False)
        self._decay = config.train.ema_decay
        self._precision = Precision(precision, device.type, "asked for")
        self._rng = torch.Generator(device).manual_seed(config.train.seed)
        adam = config.optimizer
        self._adam_g, self._adam_d = (
            torch.optim.Adam(network.parameters(), lr=adam.lr, betas=(adam.beta1, adam.beta2), eps=adam.eps, fused=True)
            for network in (generator, discriminator)
        )
        self._of_generator: list[Tensor] = list(generator.parameters())
        self._of_discriminator: list[Tensor] = list(discriminator.parameters())
        self._of_average: list[Tensor] = list(self.ema.parameters())

    def __call__(self, images: Tensor, labels: Tensor, *, step: int) -> tuple[Tensor, Tensor]:
        """Of uint8 images [N, C, H, W]; gives the losses of discriminator and generator."""
        real = to_float(images)
        with self._precision.autocast():
            fake = self.generator(self._draw(real)).float()
            logits = self.discriminator(torch.cat([real, fake.detach()])).float()
            loss_d = softplus(-logits[: len(real)]).mean() + softplus(logits[len(real) :]).mean()
        self._adam_d.zero_grad()
        loss_d.backward(inputs=self._of_discriminator)
        self._adam_d.step()
        with self._precision.autocast():
            loss_g = softplus(-self.discriminator(fake).float()).mean()
        self._adam_g.zero_grad()
        loss_g.backward(inputs=self._of_generator)
        self._adam_g.step()
        with torch.no_grad():
            weight = 1 - min(self._decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self._of_average, self._of_generator, weight)
            for average, current in zip(self.ema.buffers(), self.generator.buffers(), strict=True):
                average.copy_(current)
        return loss_d.detach(), loss_g.detach()

    def _draw(self, real: Tensor) -> Tensor:
        return torch.randn(len(real), self.generator.latent_dim, generator=self._rng, device=real.device)
