"""Straightforward update of the conditional presets, the baseline for our optimized step.

Separate passes for real and fake images, R1 and R2 by double backward, plain Adam, an EMA in a loop, PyTorch's default
memory layout. Shared with our step: networks, loss, feature matching statistics, learning rates per layer. The losses
equal those of `Step` with the same settings and random numbers.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from ganctl.training.config.schema import Config
from ganctl.training.distributed.ranks import SINGLE_RANK
from ganctl.training.losses.adversarial import build_loss
from ganctl.training.losses.feature_matching import FeatureMatching
from ganctl.training.losses.gradient_penalty import squared_gradient_norm
from ganctl.training.losses.terms import resolve_weights, reweight
from ganctl.training.models.base import Discriminator, Generator, to_float
from ganctl.training.optim.param_groups import param_groups
from ganctl.training.optim.schedules import decay


class StraightforwardStep:
    """Updates both networks once per call; needs labels and a discriminator of this project."""

    def __init__(
        self, config: Config, generator: Generator, discriminator: Discriminator, device: torch.device
    ) -> None:
        """Takes ownership of the networks: they are trained in place."""
        self.generator, self.discriminator = generator, discriminator
        for parameter in (*generator.parameters(), *discriminator.parameters()):
            parameter.data = parameter.data.contiguous()
        self.ema = copy.deepcopy(self.generator).requires_grad_(False)
        self._dtype = discriminator.logit.weight.dtype
        self._config, self._loss = config, build_loss(config.loss)
        self._weights = resolve_weights(config.loss, discriminator)
        width, weight = discriminator.logit.in_features, self._weights.feature_matching
        self._matching = FeatureMatching(weight, generator.classes or 1, width, device) if weight else None
        self._rng = torch.Generator(device).manual_seed(config.train.seed)
        self._adam_g = self._adam(self.generator, lr_by_fan_in=config.optimizer.lr_by_fan_in)
        self._adam_d = self._adam(self.discriminator)

    def __call__(
        self, images: Tensor, labels: Tensor, *, step: int, progress: float, rate: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Takes the arguments of `Step`; returns the adversarial losses of discriminator and generator."""
        real = to_float(images, self._dtype)
        shape = (len(real), self.generator.latent_dim)
        z = torch.randn(shape, generator=self._rng, device=real.device, dtype=self._dtype)
        z *= self._config.train.latent_std
        fake = self.generator(z, labels)
        loss_d = self._train_discriminator(real, fake.detach(), labels, z, self._penalty_factor(step, progress))
        self._optimizer_step(self._adam_d, rate)
        loss_g = self._train_generator(real, fake, labels, z)
        self._optimizer_step(self._adam_g, rate)
        decay_now = min(self._config.train.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for average, current in zip(self.ema.parameters(), self.generator.parameters(), strict=True):
                average.mul_(decay_now).add_(current, alpha=1 - decay_now)
        return loss_d.detach(), loss_g.detach()

    def _penalty_factor(self, step: int, progress: float) -> float:
        """The factor of both penalties; 0 in steps without them."""
        loss, when = self._config.loss, self._config.optimizer
        if (step + 1) % loss.penalty_every:
            return 0.0
        factor = decay("cosine", progress, when.decay_start, loss.penalty_final_factor, when.decay_end)
        return loss.penalty_every * factor

    def _train_discriminator(self, real: Tensor, fake: Tensor, labels: Tensor, z: Tensor, penalty: float) -> Tensor:
        real, fake = real.clone().requires_grad_(), fake.clone().requires_grad_()
        real_features, fake_features = self.discriminator.features(real), self.discriminator.features(fake)
        real_logits, fake_logits = self._logits(real_features, labels), self._logits(fake_features, labels)
        sample_weights = self._sample_weights(real_features, fake_features, labels)
        reweighted = (reweight(logits, sample_weights) for logits in (real_logits, fake_logits))
        adversarial = self._loss.discriminator(*reweighted)
        loss = adversarial
        if penalty:
            loss = loss + penalty / 2 * self._config.loss.r1 * squared_gradient_norm(real_logits, real).mean()
            loss = loss + penalty / 2 * self._config.loss.r2 * squared_gradient_norm(fake_logits, fake).mean()
        if self.discriminator.classifier is not None and self._weights.classification:
            classification = cross_entropy(self.discriminator.classifier(real_features), labels)
            loss = loss + self._weights.classification * classification
        if self.discriminator.latent is not None and self._weights.latent_reconstruction:
            loss = loss + mse_loss(self.discriminator.latent(fake_features.detach()), z)
        self._adam_d.zero_grad()
        loss.backward()
        return adversarial

    def _train_generator(self, real: Tensor, fake: Tensor, labels: Tensor, z: Tensor) -> Tensor:
        with torch.no_grad():
            real_features = self.discriminator.features(real)
        fake_features = self.discriminator.features(fake)
        sample_weights = self._sample_weights(real_features, fake_features, labels)
        fake_logits = reweight(self._logits(fake_features, labels), sample_weights)
        adversarial = self._loss.generator(self._logits(real_features, labels), fake_logits)
        loss = adversarial
        if self.discriminator.classifier is not None and self._weights.classification_generator:
            classification = cross_entropy(self.discriminator.classifier(fake_features), labels)
            loss = loss + self._weights.classification_generator * classification
        if self.discriminator.latent is not None and self._weights.latent_reconstruction:
            loss = loss + self._weights.latent_reconstruction * mse_loss(self.discriminator.latent(fake_features), z)
        if self._matching:
            loss = loss + self._matching.loss(real_features, fake_features, labels, SINGLE_RANK)
        self._adam_g.zero_grad()
        loss.backward()
        return adversarial

    def _logits(self, features: Tensor, labels: Tensor) -> Tensor:
        return self.discriminator.logits_from_features(features, labels)

    def _sample_weights(self, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor | None:
        if self._matching is None or not self._weights.rare_weight:
            return None
        real_features, fake_features = (
            self._matching.image_weights(seen, labels, self._weights.rare_weight) for seen in (real, fake)
        )
        return (real_features + fake_features) / 2

    def _adam(self, network: nn.Module, *, lr_by_fan_in: bool = False) -> torch.optim.Adam:
        settings = self._config.optimizer
        return torch.optim.Adam(
            param_groups(network, lr_by_fan_in=lr_by_fan_in),
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
            foreach=False,
        )

    def _optimizer_step(self, optimizer: torch.optim.Adam, rate: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self._config.optimizer.lr * rate * group["scale"]
        self._clip_to_history(optimizer)
        optimizer.step()

    @torch.no_grad()
    def _clip_to_history(self, optimizer: torch.optim.Adam) -> None:
        for parameter, state in optimizer.state.items():  # empty before the first step
            assert isinstance(parameter, Tensor), "the state is keyed by parameters"
            if parameter.grad is not None and self._config.optimizer.grad_clip_ratio:
                mean = state["exp_avg_sq"].sum() / (1 - self._config.optimizer.beta2 ** state["step"])
                factor = self._config.optimizer.grad_clip_ratio * mean.sqrt() / parameter.grad.norm()
                parameter.grad.mul_(factor.clamp(max=1.0) if mean > 0 else 1.0)
