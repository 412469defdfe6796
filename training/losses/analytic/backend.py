"""The same losses with hand-derived gradients, for discriminators of layers that `passes.py` supports."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from ganctl.training.device.streams import StreamPool
from ganctl.training.losses.analytic.passes import (
    AnalyticR1R2,
    FeaturePass,
    from_first_layer,
    is_piecewise_linear,
    to_first_layer,
)
from ganctl.training.losses.backend import Backend, Batch, Fakes
from ganctl.training.losses.terms import Judged, LossResult, Outputs, Terms, inputs_of
from ganctl.training.models.base import Discriminator


def why_not_analytic(terms: Terms, discriminator: nn.Module, streams: StreamPool) -> str | None:
    """Why AnalyticBackend does not carry these terms' gradients, or is not faster; None where it is to be used."""
    inputs = inputs_of([*terms.discriminator, *terms.generator])
    if unsupported := inputs - {"features", "grad_norms"}:
        return f"a loss term reads {', '.join(sorted(unsupported))}, which needs double backward"
    if not is_piecewise_linear(discriminator):
        return "the discriminator has layers without a hand-derived gradient"
    if "grad_norms" not in inputs and not streams.count:
        return "without gradient penalties autograd is as fast"
    return None


class AnalyticBackend(Backend):
    """Gradients by passes over the discriminator's layers; autograd for the terms and the last layer alone."""

    def prepare(self, batch: Batch) -> Batch:
        return batch if batch.fakes is None else replace(batch, first_layer=self._first_layer(batch, batch.fakes))

    def backward_discriminator(self, batch: Batch, fakes: Fakes, mix: Tensor | None) -> LossResult:
        images = self._first_layer(batch, fakes) if batch.first_layer is None else batch.first_layer
        heads = [parameter for term in self.terms.discriminator for parameter in term.parameters]
        if "grad_norms" in self.discriminator_inputs:
            result, logits, grads = self._four_passes(batch, fakes, images, heads)
        else:
            result, logits, grads = self._one_pass(batch, fakes, images, heads)
        _leave(grads)
        real, fake = logits.detach().view(2, -1).mean(dim=1).unbind()
        return LossResult(result.loss, {"real_logit": real, "fake_logit": fake, **result.stats})

    def backward_generator(self, batch: Batch, fakes: Fakes) -> LossResult:
        discriminator, n = cast(Discriminator, self.discriminator), len(fakes.images)
        images = batch.first_layer
        if images is None:
            images = self._first_layer(batch if self.generator_needs_real else None, fakes)
        elif not self.generator_needs_real:
            images = images[n:]
        passes = FeaturePass(discriminator, images, self.precision.of_passes)
        features, known = passes.features[-n:].requires_grad_(), self.conditioning(batch.labels)
        fake = Outputs(discriminator.judge(features, *known), features)
        real = weights = None
        if self.generator_needs_real:
            real = Outputs(discriminator.judge(passes.features[:n], *known), passes.features[:n])
            weights = self.sample_weights(passes.features, batch.labels)
        result = self.sum("generator", Judged(real, fake, batch.labels, fakes.latents, weights))
        (grad_out,) = torch.autograd.grad(self.scaler.scale(result.loss), features)
        grad = from_first_layer(discriminator, passes.backward(grad_out, slice(-n, None)), fakes.images.shape)
        fakes.images.backward(grad, inputs=list(self.generator.parameters()))
        return result

    def _one_pass(
        self, batch: Batch, fakes: Fakes, images: Tensor, heads: Sequence[nn.Parameter]
    ) -> tuple[LossResult, Tensor, dict[Tensor, Tensor]]:
        """Without gradient norms: features forward, and the gradient of the loss by them backward."""
        n, discriminator = len(batch.images), cast(Discriminator, self.discriminator)
        passes = FeaturePass(discriminator, images, self.precision.of_passes, self.streams)
        features, parameters = passes.features.requires_grad_(), [*discriminator.logit.parameters(), *heads]
        if discriminator.projection is not None:
            parameters += discriminator.projection.parameters()
        logits = discriminator.judge(features, *self.conditioning(torch.cat([batch.labels, batch.labels])))
        real, fake = (Outputs(logits[rows], features[rows]) for rows in (slice(n), slice(n, None)))
        weights = self.sample_weights(features.detach(), batch.labels)
        result = self.sum("discriminator", Judged(real, fake, batch.labels, fakes.latents, weights))
        grad_out, *found = torch.autograd.grad(self.scaler.scale(result.loss), [features, *parameters])
        grads: dict[Tensor, Tensor] = dict(zip(parameters, found, strict=True))
        passes.add_gradients(grad_out, slice(None), grads)
        return result, logits, grads

    def _four_passes(
        self, batch: Batch, fakes: Fakes, images: Tensor, heads: Sequence[nn.Parameter]
    ) -> tuple[LossResult, Tensor, dict[Tensor, Tensor]]:
        """With gradient norms: the loss is differentiated by logits, norms and features, and AnalyticR1R2 carries the
        first two to the weights."""
        n = len(batch.images)
        labels = torch.cat([batch.labels, batch.labels]) if self.generator.conditional else None
        network = cast(Discriminator, self.discriminator)
        passes = AnalyticR1R2(network, images, labels, self.precision.of_penalties, self.streams)
        gradients = passes.image_gradients()
        logits, norms = passes.logits.requires_grad_(), gradients.square().flatten(1).sum(dim=1).requires_grad_()
        features = [passes.features[rows].requires_grad_() for rows in (slice(n), slice(n, None))]
        real = Outputs(logits[:n], features[0], norms[:n])
        fake = Outputs(logits[n:], features[1], norms[n:])
        weights = self.sample_weights(passes.features, batch.labels)
        result = self.sum("discriminator", Judged(real, fake, batch.labels, fakes.latents, weights))
        leaves = [logits, norms, *features, *heads]
        by_logits, by_norms, *found = torch.autograd.grad(self.scaler.scale(result.loss), leaves, allow_unused=True)
        # ∂‖v‖² = 2 v · ∂v
        directions = gradients * (2 * by_norms).view(-1, *[1] * (gradients.dim() - 1))
        grads = passes.parameter_gradients(by_logits, directions)
        for rows, by_features in zip((slice(n), slice(n, None)), found, strict=False):
            if by_features is not None:
                passes.add_gradients(by_features, rows, grads)
        grads |= zip(heads, found[2:], strict=True)
        return result, logits, grads

    def _first_layer(self, batch: Batch | None, fakes: Fakes) -> Tensor:
        """Real images, if any, then generated ones, as the discriminator's first layer reads them."""
        images = [*([] if batch is None else [batch.images]), fakes.images]
        joined = torch.cat([each.detach() for each in images]) if len(images) > 1 else images[0].detach()
        return to_first_layer(
            cast(Discriminator, self.discriminator), joined.to(self.precision.of_penalties or self.dtype)
        )


def _leave(grads: Mapping[Tensor, Tensor]) -> None:
    """Leaves gradients in their parameters, each in its parameter's memory layout: see `AutogradBackend._backward`."""
    for parameter, grad in grads.items():
        laid_out = grad.stride() == parameter.stride()
        parameter.grad = grad if laid_out else torch.empty_like(parameter).copy_(grad)
