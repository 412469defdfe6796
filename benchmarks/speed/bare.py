"""Hand-written update of the preset `lightning-basic-gan`, the baseline for the trainer's overhead.

No trainer, callbacks, statistics or options. Networks, losses, optimizers, passes and random numbers are those of
`training.step.Step` with that preset: both networks use the same fakes, and the discriminator, which is updated first,
processes real and fake images in one pass.
"""

import copy

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ganctl.training.config.schema import Config
from ganctl.training.device.precision import Precision
from ganctl.training.models.base import Generator, to_float


class BareStep:
    """Updates both networks once per call."""

    def __init__(
        self, config: Config, generator: Generator, discriminator: torch.nn.Module, device: torch.device, precision: str
    ) -> None:
        """Takes ownership of the networks: they are trained in place."""
        assert config.preset == "lightning-basic-gan", "the only preset that this loop implements"
        self.generator, self.discriminator = generator, discriminator
        self.ema = copy.deepcopy(generator).requires_grad_(False)
        self._decay = config.train.ema_decay
        self._precision = Precision(precision, device.type, "requested")
        self._rng = torch.Generator(device).manual_seed(config.train.seed)
        adam = config.optimizer
        self._adam_g, self._adam_d = (
            torch.optim.Adam(network.parameters(), lr=adam.lr, betas=(adam.beta1, adam.beta2), eps=adam.eps, fused=True)
            for network in (generator, discriminator)
        )
        self._generator_parameters: list[Tensor] = list(generator.parameters())
        self._discriminator_parameters: list[Tensor] = list(discriminator.parameters())
        self._ema_parameters: list[Tensor] = list(self.ema.parameters())

    def __call__(self, images: Tensor, labels: Tensor, *, step: int) -> tuple[Tensor, Tensor]:
        """Takes images, uint8 [N, C, H, W]; returns the losses of discriminator and generator."""
        real = to_float(images)
        with self._precision.autocast():
            fake = self.generator(self._sample_latents(real)).float()
            logits = self.discriminator(torch.cat([real, fake.detach()])).float()
            loss_d = softplus(-logits[: len(real)]).mean() + softplus(logits[len(real) :]).mean()
        self._adam_d.zero_grad()
        loss_d.backward(inputs=self._discriminator_parameters)
        self._adam_d.step()
        with self._precision.autocast():
            loss_g = softplus(-self.discriminator(fake).float()).mean()
        self._adam_g.zero_grad()
        loss_g.backward(inputs=self._generator_parameters)
        self._adam_g.step()
        with torch.no_grad():
            weight = 1 - min(self._decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self._ema_parameters, self._generator_parameters, weight)
            for average, current in zip(self.ema.buffers(), self.generator.buffers(), strict=True):
                average.copy_(current)
        return loss_d.detach(), loss_g.detach()

    def _sample_latents(self, real: Tensor) -> Tensor:
        return torch.randn(len(real), self.generator.latent_dim, generator=self._rng, device=real.device)
