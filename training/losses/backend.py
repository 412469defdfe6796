"""Backends: compute a loss from its terms, and the gradients of the weights; AutogradBackend supports all networks."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ganctl.training.device.precision import Precision
from ganctl.training.device.step_inputs import StepInputs
from ganctl.training.device.streams import StreamPool
from ganctl.training.losses.gradient_penalty import mixed_gradient_norm, squared_gradient_norm
from ganctl.training.losses.terms import BatchOutputs, Input, LossResult, Outputs, Term, Terms, inputs_of
from ganctl.training.models.base import Discriminator, Generator


class GeneratedBatch(NamedTuple):
    """Generated images, augmented, as the discriminator sees them (see `Batch`), and their latents [N, latent_dim]."""

    latents: Tensor
    images: Tensor


@dataclass(frozen=True)
class Batch:
    """The input of a step.

    Attributes:
        images: real images in [−1, 1], augmented, [N, C, H, W]; for a projected discriminator their features, [N, K].
        labels: int64 [N], shared by real and generated images.
        penalized: whether the discriminator's loss has its gradient penalties in this step.
        generated: for both phases, with the autograd graph of the images; None if each phase generates its own.
        first_layer: real, then generated images for both phases, as `to_first_layer` of the analytic backend returns
            them; None if each phase converts its own.
    """

    images: Tensor
    labels: Tensor
    penalized: bool = True
    generated: GeneratedBatch | None = None
    first_layer: Tensor | None = None


@dataclass
class Backend(ABC):
    """Computes the losses of both networks, and sets the gradients of their parameters.

    Attributes:
        terms: the loss terms of both networks.
        generator: the generator.
        discriminator: the discriminator, before its conversion to synchronized batch normalization.
        precision: number format of the passes.
        scaler: scales the losses before the backward pass.
        step_inputs: contain the current factor of the penalties.
        streams: side streams for the kernels of gradients.
    """

    terms: Terms
    generator: Generator
    discriminator: nn.Module
    precision: Precision
    scaler: torch.amp.GradScaler
    step_inputs: StepInputs
    streams: StreamPool

    def __post_init__(self) -> None:
        self.dtype = next(self.generator.parameters()).dtype
        self.generator_inputs = inputs_of(self.terms.generator)
        self.generator_needs_real = any(term.needs_real for term in self.terms.generator)
        # then an output depends on all images of a batch
        self.has_batch_norm = any(isinstance(module, _BatchNorm) for module in self.discriminator.modules())

    def discriminator_inputs(self, *, penalized: bool) -> frozenset[Input]:
        """The outputs that the discriminator's terms read, with or without its gradient penalties."""
        return inputs_of(self._discriminator_terms(penalized=penalized))

    def _discriminator_terms(self, *, penalized: bool) -> Sequence[Term]:
        return [term for term in self.terms.discriminator if penalized or not term.is_penalty]

    def prepare(self, batch: Batch) -> Batch:
        """Adds to a batch the data that this backend computes once for both phases."""
        return batch

    @abstractmethod
    def backward_discriminator(self, batch: Batch, generated: GeneratedBatch, mix: Tensor | None) -> LossResult:
        """Sets the gradients of the discriminator's parameters.

        Args:
            batch: the real images and the labels.
            generated: detached from the generator's graph.
            mix: ε of the images between real and generated ones, [N]; None if no term of this step reads them.
        """

    @abstractmethod
    def backward_generator(self, batch: Batch, generated: GeneratedBatch) -> LossResult:
        """Sets the gradients of the generator's parameters; `generated` must have the generator's autograd graph."""

    def conditioning(self, labels: Tensor) -> tuple[Tensor, ...]:
        """The arguments of a network after its input: the labels, or nothing without conditioning."""
        return (labels,) if self.generator.conditional else ()

    def discriminator_loss(self, outputs: BatchOutputs, *, penalized: bool) -> LossResult:
        """The discriminator's loss, with or without its gradient penalties.

        Its statistics include the mean logits and the discriminator's accuracy: the share of pairs of a real and a
        generated image in which the real one has the higher logit; equal logits count half.
        """
        assert outputs.real is not None
        loss, stats, _ = self.sum(self._discriminator_terms(penalized=penalized), outputs)
        real, fake = (each.logits.detach() for each in (outputs.real, outputs.fake))
        accuracy = (real - fake).sign().mean().add(1).div(2)
        means = {"real_logit": real.mean(), "fake_logit": fake.mean(), "discriminator_accuracy": accuracy}
        return LossResult(loss, means | stats, real)

    def sum(self, terms: Sequence[Term], outputs: BatchOutputs) -> LossResult:
        """The weighted sum of loss terms, and their values."""
        outputs = replace(outputs, pair_weights=self._pair_weights(outputs))
        stats: dict[str, Tensor] = {}
        weighted: list[Tensor] = []
        for term in terms:
            value = term(outputs)
            weight = term.weight * self.step_inputs.penalty_factor if term.is_penalty else term.weight
            weighted.append(weight * value)
            if term.stat:
                stats[term.stat] = value
        return LossResult(functools.reduce(torch.add, weighted), stats)

    @torch.no_grad()
    def _pair_weights(self, outputs: BatchOutputs) -> Tensor | None:
        """Weights of the pairs of a real and a generated image, [N]; None if all are 1.

        Rare images get more weight. Both distributions are weighted by the same function of an image, so the optimum is
        unchanged: equal distributions.
        """
        feature_matching, power, real = self.terms.feature_matching, self.terms.rare_weight, outputs.real
        if feature_matching is None or not power or real is None:
            return None
        assert real.features is not None
        assert outputs.fake.features is not None
        pairs = torch.stack([real.features, outputs.fake.features])
        return feature_matching.image_weights(pairs, outputs.labels, power).mean(dim=0)


class AutogradBackend(Backend):
    """Computes gradients by autograd, with double backward for gradient norms; supports every network and term."""

    def backward_discriminator(self, batch: Batch, generated: GeneratedBatch, mix: Tensor | None) -> LossResult:
        inputs, n = self.discriminator_inputs(penalized=batch.penalized), len(batch.images)
        # gradient norms are differentiated again, which needs at least fp32 in the whole pass
        with self.precision.autocast(enabled=not inputs & {"grad_norms", "mixed_grad_norms"}):
            if self.has_batch_norm:
                real, fake = (self._outputs(images, batch.labels) for images in (batch.images, generated.images))
            else:  # one pass is exact, since each output depends on one image
                images = torch.cat([batch.images, generated.images]).requires_grad_("grad_norms" in inputs)
                both = self._outputs(images, torch.cat([batch.labels, batch.labels]))
                norms = squared_gradient_norm(both.logits, images) if "grad_norms" in inputs else None
                real, fake = (_rows(both, norms, rows) for rows in (slice(n), slice(n, None)))
            mixed = None
            if "mixed_grad_norms" in inputs:
                assert mix is not None
                mixed = mixed_gradient_norm(self._logits, batch.images, generated.images, batch.labels, mix)
            outputs = BatchOutputs(real, fake, batch.labels, generated.latents, mixed)
            result = self.discriminator_loss(outputs, penalized=batch.penalized)
        self._backward(result.loss, list(self.discriminator.parameters()))
        return result

    def backward_generator(self, batch: Batch, generated: GeneratedBatch) -> LossResult:
        with self.precision.autocast():
            with torch.no_grad():
                real = self._outputs(batch.images, batch.labels) if self.generator_needs_real else None
            fake = self._outputs(generated.images, batch.labels)
            outputs = BatchOutputs(
                real, fake, batch.labels, generated.latents, real_inputs=batch.images, fake_inputs=generated.images
            )
            result = self.sum(self.terms.generator, outputs)
        self._backward(result.loss, list(self.generator.parameters()))
        return result

    def _outputs(self, images: Tensor, labels: Tensor) -> Outputs:
        if "features" not in self.discriminator_inputs(penalized=False) | self.generator_inputs:
            return Outputs(self._logits(images, labels))
        network = cast(Discriminator, self.discriminator)
        features: Tensor = network.features(images).to(self.dtype)
        return Outputs(network.logits_from_features(features, *self.conditioning(labels)).to(self.dtype), features)

    def _logits(self, images: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = self.discriminator(images, *self.conditioning(labels)).to(self.dtype)
        return logits

    def _backward(self, loss: Tensor, parameters: list[nn.Parameter]) -> None:
        """Sets gradients by `backward`, which gives each gradient the memory layout of its parameter, unlike `grad`.

        The fused Adam reads both as flat arrays, so a permuted gradient would silently update the wrong weights.
        """
        self.scaler.scale(loss).backward(inputs=parameters)


def _rows(outputs: Outputs, norms: Tensor | None, rows: slice) -> Outputs:
    features = None if outputs.features is None else outputs.features[rows]
    return Outputs(outputs.logits[rows], features, None if norms is None else norms[rows])
