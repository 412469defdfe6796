"""Backends compute a loss from its terms and its gradient by the weights; the autograd one supports all networks."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ganctl.training.device.precision import Precision
from ganctl.training.device.step_inputs import StepInputs
from ganctl.training.device.streams import StreamPool
from ganctl.training.losses.gradient_penalty import mixed_gradient_norm, squared_gradient_norm
from ganctl.training.losses.terms import BatchOutputs, LossResult, Outputs, Terms, group_by_class, inputs_of
from ganctl.training.models.base import Discriminator, Generator


class Fakes(NamedTuple):
    """Generated images [N, C, H, W] and their latents [N, latent_dim]."""

    latents: Tensor
    images: Tensor


@dataclass(frozen=True)
class Batch:
    """The input of a step.

    Attributes:
        images: real images in [−1, 1], [N, C, H, W].
        labels: int64 [N], shared by real and generated images.
        fakes: generated images for both phases, with their autograd graph; None if each phase generates its own.
        first_layer: real, then generated images in the layout of the analytic backend's first layer, for both phases;
            None if each phase prepares its own.
    """

    images: Tensor
    labels: Tensor
    fakes: Fakes | None = None
    first_layer: Tensor | None = None


class Backend(ABC):
    """Computes the losses of both networks, and sets the gradients of their parameters."""

    def __init__(
        self,
        terms: Terms,
        generator: Generator,
        discriminator: nn.Module,
        *,
        precision: Precision,
        scaler: torch.amp.GradScaler,
        step_inputs: StepInputs,
        streams: StreamPool,
    ) -> None:
        """Creates a backend.

        Args:
            terms: the loss terms of both networks.
            generator: the generator.
            discriminator: the discriminator.
            precision: number format of the passes.
            scaler: scales the losses before the backward pass.
            step_inputs: contain the current factor of the penalties.
            streams: side streams for the kernels of gradients.
        """
        self.terms, self.generator, self.discriminator = terms, generator, discriminator
        self.precision, self.scaler, self.step_inputs, self.streams = precision, scaler, step_inputs, streams
        self.dtype = next(generator.parameters()).dtype
        self.discriminator_inputs = inputs_of(terms.discriminator)
        self.generator_inputs = inputs_of(terms.generator)
        self.generator_needs_real = any(term.needs_real for term in terms.generator)

    def prepare(self, batch: Batch) -> Batch:
        """Adds to a batch the data that this backend computes once for both phases."""
        return batch

    @abstractmethod
    def backward_discriminator(self, batch: Batch, fakes: Fakes, mix: Tensor | None) -> LossResult:
        """Sets the gradients of the discriminator's parameters.

        Args:
            fakes: detached from the generator's graph.
            mix: ε of the images between real and generated ones, [N]; None if no term reads them.
        """

    @abstractmethod
    def backward_generator(self, batch: Batch, fakes: Fakes) -> LossResult:
        """Sets the gradients of the generator's parameters; `fakes` must have the generator's autograd graph."""

    def conditioning(self, labels: Tensor) -> tuple[Tensor, ...]:
        """The labels as further arguments of a network's call; empty without conditioning."""
        return (labels,) if self.generator.conditional else ()

    def sample_weights(self, features: Tensor | None, labels: Tensor) -> Tensor | None:
        """Weights of the pairs of a real and a generated image, [N]; None if all are 1.

        Both distributions are weighted by the same function of an image, so the optimum is unchanged: equal
        distributions. Rare images get more weight.

        Args:
            features: of all real images, then of all generated ones, [2N, F].
            labels: int64 [N].
        """
        if self.terms.feature_matching is None or not self.terms.rare_weight:
            return None
        assert features is not None
        groups = group_by_class(labels, conditional=self.generator.conditional)
        pairs = features.view(2, len(labels), -1)
        return self.terms.feature_matching.sample_weight(pairs, groups, self.terms.rare_weight).mean(dim=0)

    def sum(self, network: str, outputs: BatchOutputs) -> LossResult:
        """The weighted sum of the terms of a network, "discriminator" or "generator"."""
        terms = self.terms.discriminator if network == "discriminator" else self.terms.generator
        return self.terms.sum(terms, outputs, self.step_inputs.penalty_factor)


class AutogradBackend(Backend):
    """Gradients by autograd, with double backward for gradient norms; supports every network and term."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._one_pass = not has_batch_norm(self.discriminator)  # before a conversion to synchronized layers

    def backward_discriminator(self, batch: Batch, fakes: Fakes, mix: Tensor | None) -> LossResult:
        inputs, n = self.discriminator_inputs, len(batch.images)
        penalized = bool(inputs & {"grad_norms", "mixed_grad_norms"})
        # gradient norms are differentiated again, which needs at least fp32 in the whole pass
        with self.precision.autocast(enabled=not penalized):
            if not self._one_pass:
                real, fake = (self._outputs(images, batch.labels) for images in (batch.images, fakes.images))
            else:  # exact, since each output depends on one image
                images = torch.cat([batch.images, fakes.images]).requires_grad_("grad_norms" in inputs)
                both = self._outputs(images, torch.cat([batch.labels, batch.labels]))
                norms = squared_gradient_norm(both.logits, images) if "grad_norms" in inputs else None
                real, fake = (_rows(both, norms, rows) for rows in (slice(n), slice(n, None)))
            mixed = None
            if "mixed_grad_norms" in inputs:
                assert mix is not None
                mixed = mixed_gradient_norm(self._logits, batch.images, fakes.images, batch.labels, mix)
            weights = self._pair_weights(real.features, fake.features, batch.labels)
            result = self.sum("discriminator", BatchOutputs(real, fake, batch.labels, fakes.latents, weights, mixed))
        self._backward(result.loss, list(self.discriminator.parameters()))
        means = {"real_logit": real.logits.mean(), "fake_logit": fake.logits.mean()}
        return LossResult(result.loss, means | result.stats)

    def backward_generator(self, batch: Batch, fakes: Fakes) -> LossResult:
        with self.precision.autocast():
            with torch.no_grad():
                real = self._outputs(batch.images, batch.labels) if self.generator_needs_real else None
            fake = self._outputs(fakes.images, batch.labels)
            weights = None if real is None else self._pair_weights(real.features, fake.features, batch.labels)
            result = self.sum("generator", BatchOutputs(real, fake, batch.labels, fakes.latents, weights))
        self._backward(result.loss, list(self.generator.parameters()))
        return result

    def _outputs(self, images: Tensor, labels: Tensor) -> Outputs:
        if "features" not in self.discriminator_inputs | self.generator_inputs:
            return Outputs(self._logits(images, labels))
        network = cast(Discriminator, self.discriminator)
        features: Tensor = network.features(images).to(self.dtype)
        return Outputs(network.logits_from_features(features, *self.conditioning(labels)).to(self.dtype), features)

    def _logits(self, images: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = self.discriminator(images, *self.conditioning(labels)).to(self.dtype)
        return logits

    def _pair_weights(self, real: Tensor | None, fake: Tensor | None, labels: Tensor) -> Tensor | None:
        if real is None or fake is None:
            return None
        with torch.no_grad():
            return self.sample_weights(torch.cat([real, fake]), labels)

    def _backward(self, loss: Tensor, parameters: list[nn.Parameter]) -> None:
        """Sets gradients by `backward`, which gives each gradient the memory layout of its parameter, unlike `grad`.

        The fused Adam reads both as flat arrays, so a permuted gradient would silently update the wrong weights.
        """
        self.scaler.scale(loss).backward(inputs=parameters)


def has_batch_norm(network: nn.Module) -> bool:
    """Returns whether a network has batch normalization, so that an output depends on all images of the batch."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def _rows(outputs: Outputs, norms: Tensor | None, rows: slice) -> Outputs:
    features = None if outputs.features is None else outputs.features[rows]
    return Outputs(outputs.logits[rows], features, None if norms is None else norms[rows])
