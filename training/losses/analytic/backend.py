"""Backend with hand-derived gradients for supported discriminators; its gradients equal autograd's."""

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
from ganctl.training.losses.terms import BatchOutputs, LossResult, Outputs, Terms, inputs_of
from ganctl.training.models.base import Discriminator


def find_autograd_reason(terms: Terms, discriminator: nn.Module, streams: StreamPool) -> str | None:
    """The reason to use AutogradBackend; None if AnalyticBackend supports the terms and is faster."""
    inputs = inputs_of([*terms.discriminator, *terms.generator])
    if unsupported := inputs - {"features", "grad_norms"}:
        return f"a loss term reads {', '.join(sorted(unsupported))}, which needs double backward"
    if not is_piecewise_linear(discriminator):
        return "the discriminator has layers without a hand-derived gradient"
    if "grad_norms" not in inputs and not streams.count:
        return "without gradient penalties autograd is as fast"
    return None


class AnalyticBackend(Backend):
    """Gradients by passes over the discriminator's layers; autograd only for the terms and heads."""

    def prepare(self, batch: Batch) -> Batch:
        return batch if batch.fakes is None else replace(batch, first_layer=self._first_layer(batch, batch.fakes))

    def backward_discriminator(self, batch: Batch, fakes: Fakes, mix: Tensor | None) -> LossResult:
        images = self._first_layer(batch, fakes) if batch.first_layer is None else batch.first_layer
        heads = [parameter for term in self.terms.discriminator for parameter in term.parameters]
        if "grad_norms" in self.discriminator_inputs:
            result, logits, grads = self._backward_with_grad_norms(batch, fakes, images, heads)
        else:
            result, logits, grads = self._backward_without_grad_norms(batch, fakes, images, heads)
        _set_gradients(grads)
        real, fake = logits.detach().view(2, -1).mean(dim=1).unbind()
        return LossResult(result.loss, {"real_logit": real, "fake_logit": fake, **result.stats})

    def backward_generator(self, batch: Batch, fakes: Fakes) -> LossResult:
        discriminator, n = cast(Discriminator, self.discriminator), len(fakes.images)
        images = batch.first_layer
        if images is None:
            images = self._first_layer(batch if self.generator_needs_real else None, fakes)
        elif not self.generator_needs_real:
            images = images[n:]
        passes = FeaturePass(discriminator, images, self.precision.pass_dtype)
        features, labels = passes.features[-n:].requires_grad_(), self.conditioning(batch.labels)
        fake = Outputs(discriminator.logits_from_features(features, *labels), features)
        real = weights = None
        if self.generator_needs_real:
            real = Outputs(discriminator.logits_from_features(passes.features[:n], *labels), passes.features[:n])
            weights = self.sample_weights(passes.features, batch.labels)
        result = self.sum("generator", BatchOutputs(real, fake, batch.labels, fakes.latents, weights))
        (grad_out,) = torch.autograd.grad(self.scaler.scale(result.loss), features)
        grad = from_first_layer(discriminator, passes.backward(grad_out, slice(-n, None)), fakes.images.shape)
        fakes.images.backward(grad, inputs=list(self.generator.parameters()))
        return result

    def _backward_without_grad_norms(
        self, batch: Batch, fakes: Fakes, images: Tensor, heads: Sequence[nn.Parameter]
    ) -> tuple[LossResult, Tensor, dict[Tensor, Tensor]]:
        """Loss, logits [2N] and gradients by parameter, by one forward and one backward pass."""
        n, discriminator = len(batch.images), cast(Discriminator, self.discriminator)
        passes = FeaturePass(discriminator, images, self.precision.pass_dtype, self.streams)
        features, parameters = passes.features.requires_grad_(), [*discriminator.logit.parameters(), *heads]
        if discriminator.projection is not None:
            parameters += discriminator.projection.parameters()
        labels = self.conditioning(torch.cat([batch.labels, batch.labels]))
        logits = discriminator.logits_from_features(features, *labels)
        real, fake = (Outputs(logits[rows], features[rows]) for rows in (slice(n), slice(n, None)))
        weights = self.sample_weights(features.detach(), batch.labels)
        result = self.sum("discriminator", BatchOutputs(real, fake, batch.labels, fakes.latents, weights))
        grad_out, *head_grads = torch.autograd.grad(self.scaler.scale(result.loss), [features, *parameters])
        grads: dict[Tensor, Tensor] = dict(zip(parameters, head_grads, strict=True))
        passes.add_gradients(grad_out, slice(None), grads)
        return result, logits, grads

    def _backward_with_grad_norms(
        self, batch: Batch, fakes: Fakes, images: Tensor, heads: Sequence[nn.Parameter]
    ) -> tuple[LossResult, Tensor, dict[Tensor, Tensor]]:
        """Loss, logits [2N] and gradients by parameter, for terms with gradient norms.

        autograd gives the gradients by logits, norms, features and heads. AnalyticR1R2 continues those by logits and
        norms to the weights, FeaturePass those by features.
        """
        n = len(batch.images)
        labels = torch.cat([batch.labels, batch.labels]) if self.generator.conditional else None
        network = cast(Discriminator, self.discriminator)
        passes = AnalyticR1R2(network, images, labels, self.precision.penalty_dtype, self.streams)
        image_grads = passes.image_gradients()
        logits, norms = passes.logits.requires_grad_(), image_grads.square().flatten(1).sum(dim=1).requires_grad_()
        features = [passes.features[rows].requires_grad_() for rows in (slice(n), slice(n, None))]
        real = Outputs(logits[:n], features[0], norms[:n])
        fake = Outputs(logits[n:], features[1], norms[n:])
        weights = self.sample_weights(passes.features, batch.labels)
        result = self.sum("discriminator", BatchOutputs(real, fake, batch.labels, fakes.latents, weights))
        leaves = [logits, norms, *features, *heads]
        scaled_loss = self.scaler.scale(result.loss)
        dloss_dlogits, dloss_dnorms, *other_grads = torch.autograd.grad(scaled_loss, leaves, allow_unused=True)
        # ∂‖v‖² = 2 v · ∂v
        directions = image_grads * (2 * dloss_dnorms).view(-1, *[1] * (image_grads.dim() - 1))
        grads = passes.parameter_gradients(dloss_dlogits, directions)
        for rows, grad_out in zip((slice(n), slice(n, None)), other_grads[:2], strict=True):
            if grad_out is not None:
                passes.add_gradients(grad_out, rows, grads)
        grads |= zip(heads, other_grads[2:], strict=True)
        return result, logits, grads

    def _first_layer(self, batch: Batch | None, fakes: Fakes) -> Tensor:
        """Real images (if `batch` is given), then generated ones, in the layout of the first layer with weights."""
        images = [*([] if batch is None else [batch.images]), fakes.images]
        joined = torch.cat([each.detach() for each in images]) if len(images) > 1 else images[0].detach()
        return to_first_layer(
            cast(Discriminator, self.discriminator), joined.to(self.precision.penalty_dtype or self.dtype)
        )


def _set_gradients(grads: Mapping[Tensor, Tensor]) -> None:
    """Sets the gradients, each in its parameter's memory layout: see `AutogradBackend._backward`."""
    for parameter, grad in grads.items():
        same_layout = grad.stride() == parameter.stride()
        parameter.grad = grad if same_layout else torch.empty_like(parameter).copy_(grad)
