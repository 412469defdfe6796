"""The training objective of both networks: draws latents, generates images, and calls the backward passes of a backend.

Every rank draws the random numbers of the whole batch from the same stream and uses its own slice. So the latents of a
step do not depend on the number of ranks.

Augmentation is a part of the discriminator's input: real and generated images are augmented when a batch is prepared or
generated, and no backend needs to know of it. So gradient penalties are taken at the augmented images, and the gradient
of the generator flows back through the augmentation. Both phases of a step see a set of images with one augmentation,
as they share the generated images themselves (`train.reuse_fakes`). The same holds for the pretrained network of a
projected discriminator: what a batch calls its images are then their features.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ganctl.training.augment.operations import RANDOM_NUMBERS, augment
from ganctl.training.augment.probability import HELD_OUT, AdaptiveProbability
from ganctl.training.config.schema import Config
from ganctl.training.data.base import ImageSet
from ganctl.training.device.precision import Precision
from ganctl.training.device.step_inputs import Number, StepInputs
from ganctl.training.device.streams import NO_STREAMS, StreamPool
from ganctl.training.distributed.ranks import Ranks
from ganctl.training.errors import ConfigError
from ganctl.training.losses.analytic.backend import AnalyticBackend, find_autograd_reason
from ganctl.training.losses.backend import AutogradBackend, Backend, Batch, GeneratedBatch
from ganctl.training.losses.feature_matching import FeatureMatching
from ganctl.training.losses.terms import LossResult, build_terms
from ganctl.training.models.base import Generator, to_float
from ganctl.training.models.projected import ProjectedDiscriminator
from ganctl.training.pretrained.projection import load_projection

_MIRRORED = 0.5  # share of the real images that `augment.flip` mirrors
PENALTIES = "penalties"  # the part of a step that adds gradient penalties to the discriminator's loss
_ADAPTIVE_STATS = ("overfitting", "augment_probability")


class GANObjective:
    """The losses of a generator and a discriminator on one device.

    Attributes:
        projection: the pretrained network of a projected discriminator; None for other discriminators.
    """

    def __init__(
        self,
        config: Config,
        generator: Generator,
        discriminator: nn.Module,
        *,
        precision: Precision,
        ranks: Ranks,
        rng: torch.Generator,
        step_inputs: StepInputs,
        streams: StreamPool = NO_STREAMS,
        backend: type[Backend] | None = None,
        held_out: ImageSet | None = None,
    ) -> None:
        """Builds the loss terms and selects the backend.

        Args:
            config: the settings.
            generator: on the same device as the discriminator.
            discriminator: before a conversion to synchronized batch normalization.
            precision: number format of the passes.
            ranks: the ranks that share a batch.
            rng: stream of latents and of the random numbers of augmentation and penalties, on the networks' device.
            step_inputs: per-step scalars.
            streams: side streams for the kernels of gradients.
            backend: computes the gradients; None for the fastest one that supports all terms.
            held_out: images that are not trained on, for adaptive augmentation.

        Raises:
            ConfigError: a gradient penalty or adaptive augmentation on a discriminator with batch normalization, or a
                term whose head the discriminator lacks.
        """
        self._config, self._ranks, self._rng, self._precision = config, ranks, rng, precision
        self.generator, self.dtype = generator, next(generator.parameters()).dtype
        self.terms = build_terms(config.loss, generator, discriminator, ranks)
        projected = isinstance(discriminator, ProjectedDiscriminator)
        self.projection = load_projection(rng.device, self.dtype) if projected else None
        adaptive = config.augment.probability == "adaptive"
        self._adaptive = AdaptiveProbability(config.augment, rng.device) if adaptive else None
        self._held_out: tuple[Tensor, Tensor] | None = None
        if adaptive:
            assert held_out is not None, "adaptive augmentation needs held-out images"
            self._held_out = held_out.images.to(rng.device), held_out.labels.to(rng.device)
        self.autograd_reason = find_autograd_reason(self.terms, discriminator, streams)
        backend = backend or (AutogradBackend if self.autograd_reason else AnalyticBackend)
        self.scaler = precision.scaler()
        self.backend = backend(self.terms, generator, discriminator, precision, self.scaler, step_inputs, streams)
        fault = "found a discriminator with batch normalization, expected logits that depend on one image each"
        if config.loss.has_gradient_penalty and self.backend.has_batch_norm:
            raise ConfigError([f"loss.r1, loss.r2, loss.wgan_gp: {fault}. Remove it, or set all three to 0."])
        if adaptive and self.backend.has_batch_norm:
            raise ConfigError([f"augment.probability = adaptive: {fault}. Remove it, or set a number, such as 0.5."])

    def prepare(self, images: Tensor, labels: Tensor, *, both: bool, penalized: bool = True) -> Batch:
        """Converts a step's batch, and generates images for both phases if `train.reuse_fakes` is set.

        Args:
            images: uint8 [N, C, H, W].
            labels: int64 [N].
            both: whether both networks are updated in this step.
            penalized: whether the discriminator's loss has its gradient penalties in this step.
        """
        if self._config.augment.flip:
            mirrored = self._draw(torch.rand, len(images)).view(-1, 1, 1, 1) < _MIRRORED
            images = torch.where(mirrored, images.flip(3), images)
        real = self.project(self._augment(to_float(images, self.dtype)))
        if not (both and self._config.train.reuse_fakes):
            return Batch(real, labels, penalized)
        return self.backend.prepare(Batch(real, labels, penalized, self._generate(labels)))

    def backward_discriminator(self, batch: Batch) -> LossResult:
        """Sets the gradients of the discriminator's parameters."""
        with torch.no_grad():
            generated = batch.generated or self._generate(batch.labels)
        generated = generated._replace(images=generated.images.detach())
        needs_mix = "mixed_grad_norms" in self.backend.discriminator_inputs(penalized=batch.penalized)
        mix = self._draw(torch.rand, len(batch.images)) if needs_mix else None
        result = self.backend.backward_discriminator(batch, generated, mix)
        if self._adaptive is not None:
            assert result.real_logits is not None
            self._adaptive.update(result.real_logits, self._held_out_logits(), self._ranks)
            result.stats.update(zip(_ADAPTIVE_STATS, (self._adaptive.overfitting, self._adaptive.value), strict=True))
        return result

    def backward_generator(self, batch: Batch) -> LossResult:
        """Sets the gradients of the generator's parameters."""
        return self.backend.backward_generator(batch, batch.generated or self._generate(batch.labels))

    def project(self, images: Tensor) -> Tensor:
        """Returns the discriminator's input for this rank's images: features [N, K] if it is projected."""
        if self.projection is None:
            return images
        # of held-out images, all ranks take all: their number is a multiple of 4, so the shifts are equal on all ranks
        first = self._ranks.rank * len(images)
        with self._precision.autocast(enabled=images.is_cuda):  # depthwise convolutions in bf16 are slow on a CPU
            features: Tensor = self.projection(images, first)
        return features.to(self.dtype)

    def draw_latents(self, n: int) -> Tensor:
        """Draws n latents for this rank, [n, latent_dim], with standard deviation `train.latent_std`."""
        z, std = self._draw(torch.randn, n, self.generator.latent_dim), self._config.train.latent_std
        return z if std == 1 else z * std

    @property
    def stat_names(self) -> dict[str, tuple[str, ...]]:
        """The names of the statistics by the part of a step that computes them: see `Step.prepare`."""
        discriminator = self.terms.discriminator
        terms = {
            "discriminator": [term for term in discriminator if not term.is_penalty],
            PENALTIES: [term for term in discriminator if term.is_penalty],
            "generator": self.terms.generator,
        }
        names = {part: tuple(term.stat for term in terms[part] if term.stat) for part in terms}
        general = ("real_logit", "fake_logit", "discriminator_accuracy")
        adaptive = _ADAPTIVE_STATS if self._adaptive is not None else ()
        return names | {"discriminator": (*general, *names["discriminator"], *adaptive)}

    def state_dict(self) -> dict[str, Tensor]:
        """The running statistics of feature matching and of adaptive augmentation; empty without both."""
        return {name: tensor for part in self._stateful for name, tensor in part.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for part in self._stateful:
            part.load_state_dict(state)

    @property
    def _stateful(self) -> list[FeatureMatching | AdaptiveProbability]:
        return [part for part in (self.terms.feature_matching, self._adaptive) if part is not None]

    def _generate(self, labels: Tensor) -> GeneratedBatch:
        z = self.draw_latents(len(labels))
        with self._precision.autocast():
            images: Tensor = self.generator(z, *self.backend.conditioning(labels)).to(self.dtype)
        return GeneratedBatch(z, self.project(self._augment(images)))

    def _augment(self, images: Tensor) -> Tensor:
        """Augments this rank's images in [−1, 1]."""
        if self._adaptive is not None:
            probability: Number = self._adaptive.value
        elif not (probability := float(self._config.augment.probability)):
            return images
        return augment(images, self._draw(torch.rand, len(images), RANDOM_NUMBERS), probability)

    @torch.no_grad()
    def _held_out_logits(self) -> Tensor:
        """Logits of some held-out images, augmented as the training images are, [HELD_OUT]; the same on all ranks."""
        assert self._held_out is not None
        assert self._adaptive is not None
        images, labels = self._held_out
        # not by `_draw`: each rank takes all of them, so that their number does not depend on the ranks
        numbers = torch.rand(HELD_OUT, 1 + RANDOM_NUMBERS, device=images.device, dtype=self.dtype, generator=self._rng)
        chosen = (numbers[:, 0] * len(images)).long().clamp(max=len(images) - 1)
        augmented = augment(to_float(images[chosen], self.dtype), numbers[:, 1:], self._adaptive.value)
        with self._precision.autocast():
            logits: Tensor = self.backend.discriminator(
                self.project(augmented), *self.backend.conditioning(labels[chosen])
            )
        return logits.to(self.dtype)

    def _draw(self, sample: Callable[..., Tensor], n: int, *shape: int) -> Tensor:
        """Draws random numbers for the whole batch, and returns this rank's n."""
        total = n * self._ranks.size
        numbers = sample(total, *shape, device=self._rng.device, dtype=self.dtype, generator=self._rng)
        return numbers[self._ranks.local_slice(total)]
