"""What the two networks learn from one batch: losses and gradient penalties, left as gradients in their parameters.

Random numbers are drawn for the whole batch on every rank, from the same stream, and each rank uses its share: the
latents of a step do not depend on how many ranks there are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ganctl.training.config.schema import Config
from ganctl.training.device.precision import Precision
from ganctl.training.device.step_inputs import Dials
from ganctl.training.device.streams import NO_LANES, Lanes
from ganctl.training.distributed.ranks import Ranks
from ganctl.training.errors import ConfigError
from ganctl.training.losses.adversarial import build_loss
from ganctl.training.losses.auxiliary import Heads
from ganctl.training.losses.feature_matching import FeatureMatching, emphasise
from ganctl.training.losses.gradient_penalty import interpolation_penalty, squared_gradient_norm
from ganctl.training.models.networks import Discriminator, Generator, to_float


class Fakes(NamedTuple):
    """Generated images [N, C, H, W] and the latents [N, z_dim] that they come from."""

    latents: Tensor
    images: Tensor


@dataclass(frozen=True)
class Batch:
    """What a step sees: real images in [−1, 1] [N, C, H, W], the labels [N] that real and fake share, and where both
    networks are to see the same fakes, these, with what their generator needs to learn from them; `moved` are both, as
    a discriminator of known layers sees them."""

    images: Tensor
    labels: Tensor
    fakes: Fakes | None = None
    moved: Tensor | None = None


class Learnt(NamedTuple):
    """The scalar whose gradients were left in the parameters, and what of it is recorded, by name."""

    loss: Tensor
    stats: dict[str, Tensor]


class Objectives:
    """Losses and penalties over a pair of networks on one device, their gradients by autograd."""

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
        dials: Dials,
        lanes: Lanes = NO_LANES,
    ) -> None:
        """`rng` is the stream of latents and of the penalties' random numbers, on the networks' device; `dials` tell
        what the penalties weigh; in the `lanes` gradients are made side by side.

        Raises:
            ConfigError: a penalty is asked for on a discriminator whose images see each other.
        """
        self.generator, self.discriminator = generator, discriminator
        self._of_generator, self._of_discriminator = list(generator.parameters()), list(discriminator.parameters())
        self.dtype, self._dials, self._lanes = next(generator.parameters()).dtype, dials, lanes
        self._config, self._loss, self._weights = config, build_loss(config.loss), config.loss
        self._precision, self._scaler, self._ranks, self._rng = precision, scaler, ranks, rng
        # one pass over real and fake is exact unless normalisation mixes the batch's images
        self._joined = not any(isinstance(module, _BatchNorm) for module in discriminator.modules())
        self.penalised = config.loss.penalised
        self._gammas = torch.tensor([config.loss.r1, config.loss.r2], device=rng.device, dtype=self.dtype)
        if self.penalised and not self._joined:
            raise ConfigError(
                ["loss.r1, loss.r2, loss.gp: a gradient penalty needs a discriminator that judges each image by itself;"
                 " this one has batch normalisation. Take it out, or set all three to 0."]
            )  # fmt: skip
        self._heads = Heads.of(discriminator, config.loss)
        self._matching = None
        if self._heads.matching:
            classes, width = generator.classes or 1, cast(Discriminator, discriminator).logit.in_features
            self._matching = FeatureMatching(self._heads.matching, classes, width, rng.device)
        self._sees_real = self._loss.needs_real or self._matching is not None  # the generator's part

    def begin(self, images: Tensor, labels: Tensor, *, both: bool) -> Batch:
        """A step's batch from uint8 images [N, C, H, W] and labels [N]. `both`: whether both networks learn in this
        step, and may share fakes."""
        real = to_float(images, self.dtype)
        if not (both and self._config.train.shared_fakes):
            return Batch(real, labels)
        return Batch(real, labels, self._generate(labels))

    def teach_discriminator(self, batch: Batch) -> Learnt:
        """Leaves the discriminator's gradients in its parameters."""
        if batch.fakes is not None:
            fakes = Fakes(batch.fakes.latents, batch.fakes.images.detach())
        else:
            with torch.no_grad():
                fakes = self._generate(batch.labels)
        return self._teach_discriminator(batch, fakes)

    def teach_generator(self, batch: Batch) -> Learnt:
        """Leaves the generator's gradients in its parameters."""
        fakes = self._generate(batch.labels) if batch.fakes is None else batch.fakes
        return self._teach_generator(batch, fakes)

    def draw(self, n: int) -> Tensor:
        """n fresh latents for this rank, [n, z_dim], of standard deviation `train.z_std`."""
        z, deviation = self._share(torch.randn, n, self.generator.z_dim), self._config.train.z_std
        return z if deviation == 1 else z * deviation

    def _emphasis(self, features: Tensor, labels: Tensor) -> Tensor | None:
        """How much each real image and the fake beside it count, [N], by the features [2N, F] of all real images, then
        all fakes; None: all alike.

        Both distributions are weighted by the same function of an image, so what is best stays best: that they are
        equal. On the way there the rare kinds count for more than their numbers.
        """
        if self._matching is None or not self._heads.rarity:
            return None
        pairs = features.view(2, len(labels), -1)
        return self._matching.rarity(pairs, self._groups(labels), self._heads.rarity).mean(dim=0)

    def _groups(self, labels: Tensor) -> Tensor:
        """The classes that have means of their own."""
        return labels if self.generator.conditional else torch.zeros_like(labels)

    def _teach_discriminator(self, batch: Batch, fakes: Fakes) -> Learnt:
        learnt = self._discriminator_loss(batch, fakes)
        self._backward(learnt.loss, self._of_discriminator)
        return learnt

    def _teach_generator(self, batch: Batch, fakes: Fakes) -> Learnt:
        with self._precision.autocast():
            if self._heads.reads_fakes:
                with torch.no_grad():
                    real = self._features(batch.images) if self._sees_real else None
                fake = self._features(fakes.images)
                emphasis = None if real is None else self._emphasis(torch.cat([real, fake]), batch.labels)
                learnt = self._generator_loss(real, fake, emphasis, batch.labels, fakes.latents)
            else:
                with torch.no_grad():
                    real = self._judge(batch.images, batch.labels) if self._sees_real else None
                loss = self._loss.generator(real, self._judge(fakes.images, batch.labels))
                learnt = Learnt(loss, {"loss_g": loss})
        self._backward(learnt.loss, self._of_generator)
        return learnt

    def _generator_loss(
        self, real: Tensor | None, fake: Tensor, emphasis: Tensor | None, labels: Tensor, latents: Tensor
    ) -> Learnt:
        """The generator's loss by features [N, F] of real and generated images, all heads' parts with it."""
        judge, known = cast(Discriminator, self.discriminator).judge, self._known(labels)
        of_real = None if real is None else judge(real, *known).to(self.dtype)
        of_fake = emphasise(judge(fake, *known).to(self.dtype), emphasis)
        loss = adversarial = self._loss.generator(of_real, of_fake)
        loss = sum(self._heads.generator_losses(fake, labels, latents), loss)
        stats = {"loss_g": adversarial}
        if self._matching:
            assert real is not None, "whoever matches sees real images"
            stats["matching"] = self._matching.loss(real, fake, self._groups(labels), self._ranks)
            loss = loss + stats["matching"]
        return Learnt(loss, stats)

    def state_dict(self) -> dict[str, Tensor]:
        """What the losses remember of the images so far."""
        return self._matching.state_dict() if self._matching else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if self._matching:
            self._matching.load_state_dict(state)

    def _backward(self, loss: Tensor, parameters: list[nn.Parameter]) -> None:
        """backward() rather than grad(): it lays each gradient out in memory as its parameter, and the fused Adam reads
        both as flat arrays (with a convolution's permuted gradient it would silently update the wrong weights)."""
        self._scaler.scale(loss).backward(inputs=parameters)

    def _discriminator_loss(self, batch: Batch, fakes: Fakes) -> Learnt:
        n, weights = len(batch.images), self._weights
        # penalties differentiate the discriminator's gradient: the pass that they share is fp32 (or better) throughout
        with self._precision.autocast(enabled=not self.penalised):
            if self._joined:
                images = torch.cat([batch.images, fakes.images]).requires_grad_(self.penalised)
                labels = torch.cat([batch.labels, batch.labels]) if self._config.model.conditional else batch.labels
                logits = self._judge(images, labels)
                real, fake = logits[:n], logits[n:]
            else:
                real, fake = self._judge(batch.images, batch.labels), self._judge(fakes.images, batch.labels)
            emphasis = None
            if self._heads.rarity:
                with torch.no_grad():
                    emphasis = self._emphasis(self._features(torch.cat([batch.images, fakes.images])), batch.labels)
            loss = adversarial = self._loss.discriminator(emphasise(real, emphasis), emphasise(fake, emphasis))
            penalties: dict[str, Tensor] = {}
            if weights.r1 or weights.r2:
                norms = squared_gradient_norm(logits, images)
                penalties = {"r1": norms[:n].mean(), "r2": norms[n:].mean()}
                loss = loss + self._dials.penalty / 2 * (weights.r1 * penalties["r1"] + weights.r2 * penalties["r2"])
            if weights.gp:
                mix = self._share(torch.rand, n)
                between = interpolation_penalty(self._judge, batch.images, fakes.images, batch.labels, mix)
                penalties["gp"] = between.mean()
                loss = loss + self._dials.penalty * weights.gp * penalties["gp"]
            if self._heads.auxiliary:
                penalties["auxiliary"] = self._heads.class_loss(self._features(batch.images), batch.labels)
                loss = loss + self._heads.auxiliary * penalties["auxiliary"]
            if self._heads.latent:
                with torch.no_grad():
                    features = self._features(fakes.images)
                penalties["latent"] = self._heads.latent_error(features, fakes.latents)
                loss = loss + penalties["latent"]
        return Learnt(loss, {"loss_d": adversarial, "real_logit": real.mean(), "fake_logit": fake.mean(), **penalties})

    def _generate(self, labels: Tensor) -> Fakes:
        z = self.draw(len(labels))
        with self._precision.autocast():
            images: Tensor = self.generator(z, *self._known(labels)).to(self.dtype)
        return Fakes(z, images)

    def _judge(self, images: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = self.discriminator(images, *self._known(labels)).to(self.dtype)
        return logits

    def _features(self, images: Tensor) -> Tensor:
        features: Tensor = cast(Discriminator, self.discriminator).features(images).to(self.dtype)
        return features

    def _known(self, labels: Tensor) -> tuple[Tensor, ...]:
        """What the networks are told of the labels."""
        return (labels,) if self._config.model.conditional else ()

    def _share(self, sample: Callable[..., Tensor], n: int, *shape: int) -> Tensor:
        """This rank's n of the whole batch's random numbers."""
        everything = n * self._ranks.size
        numbers = sample(everything, *shape, device=self._rng.device, dtype=self.dtype, generator=self._rng)
        return numbers[self._ranks.share(everything)]
