"""The same objectives by shorter ways than autograd's, for discriminators of layers that `piecewise.py` knows."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from ganctl.training.config.schema import Config
from ganctl.training.device.streams import Lanes
from ganctl.training.losses.analytic.passes import FeaturePass, FourPasses, is_piecewise_linear, move, unmove
from ganctl.training.losses.feature_matching import emphasise
from ganctl.training.losses.objective import Batch, Fakes, Learnt, Objectives
from ganctl.training.models.networks import Discriminator


def fastest_way(config: Config, discriminator: nn.Module, lanes: Lanes) -> type[Objectives]:
    """How gradients are made. WGAN-GP's penalty is taken elsewhere than where the losses are; without penalties,
    autograd is as fast unless gradients are made side by side."""
    shorter = not config.loss.gp and (config.loss.penalised or lanes.count > 0)
    return ObjectivesByLayers if shorter and is_piecewise_linear(discriminator) else Objectives


class ObjectivesByLayers(Objectives):
    """By passes over the discriminator's layers, without a tape."""

    def begin(self, images: Tensor, labels: Tensor, *, both: bool) -> Batch:
        batch = super().begin(images, labels, both=both)
        return batch if batch.fakes is None else replace(batch, moved=self._move(batch.images, batch.fakes.images))

    def _teach_discriminator(self, batch: Batch, fakes: Fakes) -> Learnt:
        """By one pass over real and fake images; with penalties, by four."""
        if self.penalised:
            return self._four_passes(batch, fakes)
        n, discriminator = len(batch.images), cast(Discriminator, self.discriminator)
        moved = self._move(batch.images, fakes.images) if batch.moved is None else batch.moved
        passes = FeaturePass(discriminator, moved, self._precision.of_passes, self._lanes)
        features, judging = passes.features.requires_grad_(), [*discriminator.logit.parameters()]
        if discriminator.projection is not None:
            judging += discriminator.projection.parameters()
        labels = torch.cat([batch.labels, batch.labels]) if self._config.model.conditional else batch.labels
        logits = discriminator.judge(features, *self._known(labels))
        emphasis = self._emphasis(passes.features, batch.labels)
        adversarial = self._loss.discriminator(emphasise(logits[:n], emphasis), emphasise(logits[n:], emphasis))
        read, stats, reading = self._read(features[:n], features[n:].detach(), batch.labels, fakes.latents)
        loss = sum(read, adversarial)
        signal, *signals = torch.autograd.grad(self._scaler.scale(loss), [features, *judging, *reading])
        found: dict[Tensor, Tensor] = dict(zip([*judging, *reading], signals, strict=True))
        passes.add_gradients(signal, slice(None), found)
        _leave(found)
        real, fake = logits.detach().view(2, n).mean(dim=1).unbind()
        return Learnt(loss, {"loss_d": adversarial, "real_logit": real, "fake_logit": fake, **stats})

    def _teach_generator(self, batch: Batch, fakes: Fakes) -> Learnt:
        """By one pass over real and fake images."""
        discriminator, n = cast(Discriminator, self.discriminator), len(fakes.images)
        moved = batch.moved
        if moved is None:
            moved = self._move(*([batch.images] if self._sees_real else []), fakes.images)
        elif not self._sees_real:
            moved = moved[n:]
        passes = FeaturePass(discriminator, moved, self._precision.of_passes)
        fake = passes.features[-n:].requires_grad_()
        real = passes.features[:n] if self._sees_real else None
        emphasis = self._emphasis(passes.features, batch.labels) if self._sees_real else None
        learnt = self._generator_loss(real, fake, emphasis, batch.labels, fakes.latents)
        (signal,) = torch.autograd.grad(self._scaler.scale(learnt.loss), fake)
        gradient = unmove(discriminator, passes.backward(signal, slice(-n, None)), fakes.images.shape)
        fakes.images.backward(gradient, inputs=self._of_generator)
        return learnt

    def _four_passes(self, batch: Batch, fakes: Fakes) -> Learnt:
        """The gradients of `_discriminator_loss`, penalties included, for a piecewise linear discriminator."""
        n = len(batch.images)
        labels = torch.cat([batch.labels, batch.labels]) if self._config.model.conditional else None
        moved = self._move(batch.images, fakes.images) if batch.moved is None else batch.moved
        passes = FourPasses(
            cast(Discriminator, self.discriminator), moved, labels, self._precision.of_penalties, self._lanes
        )
        # what stands on the network's last layer, by autograd: one backward pass for all of it
        logits, of_real = passes.logits.requires_grad_(), passes.features[:n].requires_grad_()
        adversarial = self._loss.discriminator(logits[:n], logits[n:])
        read, stats, heads = self._read(of_real, passes.features[n:], batch.labels, fakes.latents)
        loss = sum(read, adversarial)
        leaves = [logits, *([of_real] if self._heads.auxiliary else [])]  # what the loss is differentiated by
        slopes, *signals = torch.autograd.grad(self._scaler.scale(loss), [*leaves, *heads])
        emphasis = self._emphasis(passes.features, batch.labels)
        if emphasis is not None:
            slopes = (slopes.view(2, n) * emphasis).view(2 * n)
        # and the penalties beside it
        gradients = passes.image_gradients().unflatten(0, (2, n))
        norms = gradients.square().flatten(1).sum(dim=1) / n
        weighted = self._gammas * self._dials.penalty
        loss = loss.detach() + (weighted / 2 * norms).sum()
        directions = gradients * (weighted / n).view(2, *[1] * (gradients.dim() - 1))
        found = passes.parameter_gradients(slopes, self._scaler.scale(directions.flatten(0, 1)))
        stats["r1"], stats["r2"] = norms.unbind()
        stats["real_logit"], stats["fake_logit"] = logits.detach().view(2, n).mean(dim=1).unbind()
        if self._heads.auxiliary:
            passes.add_gradients(signals.pop(0), slice(n), found)
        found |= zip(heads, signals, strict=True)
        _leave(found)
        return Learnt(loss, {"loss_d": adversarial, **stats})

    def _read(
        self, of_real: Tensor, of_fake: Tensor, labels: Tensor, latents: Tensor
    ) -> tuple[list[Tensor], dict[str, Tensor], list[nn.Parameter]]:
        """What the heads that read more than a logit learn from features [N, F]: losses, what of them is recorded, and
        whose parameters learn."""
        losses, stats, parameters = list[Tensor](), dict[str, Tensor](), list[nn.Parameter]()
        if self._heads.auxiliary:
            stats["auxiliary"] = self._heads.class_loss(of_real, labels)
            losses.append(self._heads.auxiliary * stats["auxiliary"])
            parameters += cast(nn.Linear, self._heads.classifier).parameters()
        if self._heads.latent:
            stats["latent"] = self._heads.latent_error(of_fake, latents)
            losses.append(stats["latent"])
            parameters += cast(nn.Linear, self._heads.latent_reader).parameters()
        return losses, stats, parameters

    def _move(self, *images: Tensor) -> Tensor:
        """One after the other, as the discriminator's layers see them."""
        line = torch.cat([each.detach() for each in images]) if len(images) > 1 else images[0].detach()
        return move(cast(Discriminator, self.discriminator), line.to(self._precision.of_penalties or self.dtype))


def _leave(found: Mapping[Tensor, Tensor]) -> None:
    """Leaves gradients in their parameters, each as its parameter lies in memory: see `Objectives._backward`."""
    for parameter, gradient in found.items():
        laid_out = gradient.stride() == parameter.stride()
        parameter.grad = gradient if laid_out else torch.empty_like(parameter).copy_(gradient)
