"""The training objective of both networks on one batch: draws latents, generates, and has a backend do the rest.

Random numbers are drawn for the whole batch on every rank, from the same stream, and each rank uses its share: the
latents of a step do not depend on how many ranks there are.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ganctl.training.config.schema import Config
from ganctl.training.device.precision import Precision
from ganctl.training.device.step_inputs import StepInputs
from ganctl.training.device.streams import NO_STREAMS, StreamPool
from ganctl.training.distributed.ranks import Ranks
from ganctl.training.errors import ConfigError
from ganctl.training.losses.analytic.backend import AnalyticBackend, why_not_analytic
from ganctl.training.losses.backend import AutogradBackend, Backend, Batch, Fakes, has_batch_norm
from ganctl.training.losses.terms import LossResult, build_terms
from ganctl.training.models.base import Generator, to_float


class GANObjective:
    """Losses and penalties over a pair of networks on one device."""

    def __init__(
        self,
        config: Config,
        generator: Generator,
        discriminator: nn.Module,
        *,
        precision: Precision,
        scaler: torch.amp.GradScaler,
        ranks: Ranks,
        rng: torch.Generator,
        step_inputs: StepInputs,
        streams: StreamPool = NO_STREAMS,
        backend: type[Backend] | None = None,
    ) -> None:
        """`rng` is the stream of latents and of the penalties' random numbers, on the networks' device; `backend`: None
        takes the fastest one that carries all terms.

        Raises:
            ConfigError: a penalty is asked for on a discriminator whose images see each other, or a term whose head
                the discriminator does not have.
        """
        self._config, self._ranks, self._rng, self._precision = config, ranks, rng, precision
        self.generator, self.dtype = generator, next(generator.parameters()).dtype
        if config.loss.penalised and has_batch_norm(discriminator):
            raise ConfigError(
                ["loss.r1, loss.r2, loss.wgan_gp: a gradient penalty needs a discriminator that judges each image by"
                 " itself;"
                 " this one has batch normalisation. Take it out, or set all three to 0."]
            )  # fmt: skip
        self.terms = build_terms(config.loss, generator, discriminator, ranks)
        self.reason = why_not_analytic(self.terms, discriminator, streams)
        backend = backend or (AutogradBackend if self.reason else AnalyticBackend)
        self.backend = backend(
            self.terms,
            generator,
            discriminator,
            precision=precision,
            scaler=scaler,
            step_inputs=step_inputs,
            streams=streams,
        )

    def prepare(self, images: Tensor, labels: Tensor, *, both: bool) -> Batch:
        """A step's batch from uint8 images [N, C, H, W] and labels [N]; with `both` networks learning in this step they
        may see the same generated images."""
        real = to_float(images, self.dtype)
        if not (both and self._config.train.reuse_fakes):
            return Batch(real, labels)
        return self.backend.prepare(Batch(real, labels, self._generate(labels)))

    def backward_discriminator(self, batch: Batch) -> LossResult:
        """Leaves the discriminator's gradients in its parameters."""
        if batch.fakes is not None:
            fakes = Fakes(batch.fakes.latents, batch.fakes.images.detach())
        else:
            with torch.no_grad():
                fakes = self._generate(batch.labels)
        mixed = "mixed_grad_norms" in self.backend.discriminator_inputs
        mix = self._share(torch.rand, len(batch.images)) if mixed else None
        return self.backend.backward_discriminator(batch, fakes, mix)

    def backward_generator(self, batch: Batch) -> LossResult:
        """Leaves the generator's gradients in its parameters."""
        fakes = self._generate(batch.labels) if batch.fakes is None else batch.fakes
        return self.backend.backward_generator(batch, fakes)

    def draw_latents(self, n: int) -> Tensor:
        """n fresh latents for this rank, [n, latent_dim], of standard deviation `train.latent_std`."""
        z, deviation = self._share(torch.randn, n, self.generator.latent_dim), self._config.train.latent_std
        return z if deviation == 1 else z * deviation

    def state_dict(self) -> dict[str, Tensor]:
        """The running statistics of feature matching, where it is used."""
        return self.terms.matching.state_dict() if self.terms.matching else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if self.terms.matching:
            self.terms.matching.load_state_dict(state)

    def _generate(self, labels: Tensor) -> Fakes:
        z = self.draw_latents(len(labels))
        with self._precision.autocast():
            images: Tensor = self.generator(z, *self.backend.conditioning(labels)).to(self.dtype)
        return Fakes(z, images)

    def _share(self, sample: Callable[..., Tensor], n: int, *shape: int) -> Tensor:
        """This rank's n of the whole batch's random numbers."""
        everything = n * self._ranks.size
        numbers = sample(everything, *shape, device=self._rng.device, dtype=self.dtype, generator=self._rng)
        return numbers[self._ranks.share(everything)]
