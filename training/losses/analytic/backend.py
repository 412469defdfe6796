"""Backend with hand-derived gradients for supported discriminators; its gradients equal autograd's."""

from dataclasses import replace

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
from ganctl.training.losses.backend import Backend, Batch, GeneratedBatch
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
        return "without gradient penalties (loss.r1, loss.r2) autograd is as fast"
    return None


class AnalyticBackend(Backend):
    """Gradients by passes over the discriminator's layers; autograd only for the terms and heads."""

    discriminator: Discriminator

    def prepare(self, batch: Batch) -> Batch:
        return replace(batch, first_layer=self._first_layer(batch, batch.generated)) if batch.generated else batch

    def backward_discriminator(self, batch: Batch, generated: GeneratedBatch, mix: Tensor | None) -> LossResult:
        has_norms = "grad_norms" in self.discriminator_inputs(penalized=batch.penalized)
        backward = self._backward_with_norms if has_norms else self._plain_backward
        result, grads = backward(batch, generated)
        for parameter, grad in grads.items():  # in the parameter's memory layout: see `AutogradBackend._backward`
            same_layout = grad.stride() == parameter.stride()
            parameter.grad = grad if same_layout else torch.empty_like(parameter).copy_(grad)
        return result

    def backward_generator(self, batch: Batch, generated: GeneratedBatch) -> LossResult:
        n, images = len(generated.images), self._first_layer(batch, generated)
        images = images if self.generator_needs_real else images[n:]
        passes = FeaturePass(self.discriminator, images, self.precision.pass_dtype)
        features, labels = passes.features[-n:].requires_grad_(), self.conditioning(batch.labels)
        fake = Outputs(self.discriminator.logits_from_features(features, *labels), features)
        real = None
        if self.generator_needs_real:
            real = Outputs(self.discriminator.logits_from_features(passes.features[:n], *labels), passes.features[:n])
        result = self.sum(self.terms.generator, BatchOutputs(real, fake, batch.labels, generated.latents))
        (grad_out,) = torch.autograd.grad(self.scaler.scale(result.loss), features)
        grad = passes.backward(grad_out, slice(-n, None))
        grad = from_first_layer(self.discriminator, grad, generated.images.shape)
        generated.images.backward(grad, inputs=list(self.generator.parameters()))
        return result

    def _plain_backward(self, batch: Batch, generated: GeneratedBatch) -> tuple[LossResult, dict[Tensor, Tensor]]:
        """Loss, and gradients of the parameters, by one forward and one backward pass."""
        n, images = len(batch.images), self._first_layer(batch, generated)
        passes = FeaturePass(self.discriminator, images, self.precision.pass_dtype, self.streams)
        features, parameters = passes.features.requires_grad_(), [*self.discriminator.logit.parameters(), *self._heads]
        if self.discriminator.projection is not None:
            parameters += self.discriminator.projection.parameters()
        labels = self.conditioning(torch.cat([batch.labels, batch.labels]))
        logits = self.discriminator.logits_from_features(features, *labels)
        real, fake = (Outputs(logits[rows], features[rows]) for rows in (slice(n), slice(n, None)))
        outputs = BatchOutputs(real, fake, batch.labels, generated.latents)
        result = self.discriminator_loss(outputs, penalized=batch.penalized)
        grad_out, *head_grads = torch.autograd.grad(self.scaler.scale(result.loss), [features, *parameters])
        grads: dict[Tensor, Tensor] = dict(zip(parameters, head_grads, strict=True))
        passes.add_gradients(grad_out, slice(None), grads)
        return result, grads

    def _backward_with_norms(self, batch: Batch, generated: GeneratedBatch) -> tuple[LossResult, dict[Tensor, Tensor]]:
        """Loss, and gradients of the parameters, for terms with gradient norms.

        autograd computes the gradients of logits, norms, features and heads. AnalyticR1R2 propagates the first two to
        the weights, and FeaturePass those of the features.
        """
        n, images = len(batch.images), self._first_layer(batch, generated)
        labels = torch.cat([batch.labels, batch.labels]) if self.generator.conditional else None
        passes = AnalyticR1R2(self.discriminator, images, self.precision.penalty_dtype, self.streams)
        logits, image_grads = passes.image_gradients(labels)
        logits, norms = logits.requires_grad_(), image_grads.square().flatten(1).sum(dim=1).requires_grad_()
        features = [passes.features[rows].requires_grad_() for rows in (slice(n), slice(n, None))]
        real = Outputs(logits[:n], features[0], norms[:n])
        fake = Outputs(logits[n:], features[1], norms[n:])
        outputs = BatchOutputs(real, fake, batch.labels, generated.latents)
        result = self.discriminator_loss(outputs, penalized=batch.penalized)
        leaves = [logits, norms, *features, *self._heads]
        scaled_loss = self.scaler.scale(result.loss)
        dloss_dlogits, dloss_dnorms, *other_grads = torch.autograd.grad(scaled_loss, leaves, allow_unused=True)
        # ∂‖v‖² = 2 v · ∂v
        directions = image_grads * (2 * dloss_dnorms).view(-1, *[1] * (image_grads.dim() - 1))
        grads = passes.parameter_gradients(dloss_dlogits, directions)
        for rows, grad_out in zip((slice(n), slice(n, None)), other_grads[:2], strict=True):
            if grad_out is not None:
                passes.add_gradients(grad_out, rows, grads)
        grads |= zip(self._heads, other_grads[2:], strict=True)
        return result, grads

    @property
    def _heads(self) -> list[nn.Parameter]:
        """Parameters that only one of the discriminator's terms trains."""
        return [parameter for term in self.terms.discriminator for parameter in term.parameters]

    def _first_layer(self, batch: Batch, generated: GeneratedBatch) -> Tensor:
        """Real, then generated images in the layout of the first layer with weights."""
        if batch.first_layer is not None:
            return batch.first_layer
        images = torch.cat([batch.images, generated.images.detach()])
        return to_first_layer(self.discriminator, images.to(self.precision.penalty_dtype or self.dtype))
