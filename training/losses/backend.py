"""Backends carry the gradient of a loss from its terms to a network's weights; autograd is the one for all networks."""

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
from ganctl.training.losses.terms import Judged, LossResult, Outputs, Terms, feature_groups, inputs_of
from ganctl.training.models.base import Discriminator, Generator


class Fakes(NamedTuple):
    """Generated images [N, C, H, W] and the latents [N, latent_dim] that they come from."""

    latents: Tensor
    images: Tensor


@dataclass(frozen=True)
class Batch:
    """The input of a step.

    Attributes:
        images: real images in [−1, 1], [N, C, H, W].
        labels: int64 [N], shared by real and generated images.
        fakes: the generated images that both networks see, with their graph; None where each phase generates its own.
        first_layer: real, then generated images as the first layer of an analytic backend reads them, where both
            networks see the same.
    """

    images: Tensor
    labels: Tensor
    fakes: Fakes | None = None
    first_layer: Tensor | None = None


class Backend(ABC):
    """Computes both networks' losses and leaves the gradients in the `grad` of their parameters."""

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
        """`step_inputs` hold the present factor of the penalties; gradients are computed side by side in `streams`."""
        self.terms, self.generator, self.discriminator = terms, generator, discriminator
        self.precision, self.scaler, self.step_inputs, self.streams = precision, scaler, step_inputs, streams
        self.dtype = next(generator.parameters()).dtype
        self.discriminator_inputs = inputs_of(terms.discriminator)
        self.generator_inputs = inputs_of(terms.generator)
        self.generator_needs_real = any(term.needs_real for term in terms.generator)

    def prepare(self, batch: Batch) -> Batch:
        """The batch with what this backend computes once for both phases."""
        return batch

    @abstractmethod
    def backward_discriminator(self, batch: Batch, fakes: Fakes, mix: Tensor | None) -> LossResult:
        """Leaves the discriminator's gradients in its parameters.

        Args:
            fakes: detached from the generator's graph.
            mix: ε of the images between real and generated ones, [N]; None where no term reads them.
        """

    @abstractmethod
    def backward_generator(self, batch: Batch, fakes: Fakes) -> LossResult:
        """Leaves the generator's gradients in its parameters; `fakes` have the generator's graph."""

    def conditioning(self, labels: Tensor) -> tuple[Tensor, ...]:
        """The labels as arguments of the networks: none without conditioning."""
        return (labels,) if self.generator.conditional else ()

    def sample_weights(self, features: Tensor | None, labels: Tensor) -> Tensor | None:
        """How much each pair of a real and a generated image counts, [N]; None: all alike.

        Both distributions are weighted by the same function of an image, so the optimum stays: equal distributions.
        Until then rare kinds of images count for more than their number.

        Args:
            features: [2N, F] of all real images, then all generated ones.
            labels: int64 [N].
        """
        if self.terms.matching is None or not self.terms.rarity:
            return None
        assert features is not None
        groups = feature_groups(labels, conditional=self.generator.conditional)
        pairs = features.view(2, len(labels), -1)
        return self.terms.matching.sample_weight(pairs, groups, self.terms.rarity).mean(dim=0)

    def sum(self, network: str, judged: Judged) -> LossResult:
        """The weighted sum of a network's terms."""
        terms = self.terms.discriminator if network == "discriminator" else self.terms.generator
        return self.terms.sum(terms, judged, self.step_inputs.penalty)


class AutogradBackend(Backend):
    """Gradients by autograd, those of gradient norms by double backward: for every network and term."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._one_pass = not has_batch_norm(self.discriminator)  # now: normalization over ranks is another class

    def backward_discriminator(self, batch: Batch, fakes: Fakes, mix: Tensor | None) -> LossResult:
        inputs, n = self.discriminator_inputs, len(batch.images)
        penalized = bool(inputs & {"grad_norms", "mixed_grad_norms"})
        # gradient norms are differentiated: their pass is fp32 (or better) throughout
        with self.precision.autocast(enabled=not penalized):
            if not self._one_pass:
                real, fake = (self._outputs(images, batch.labels) for images in (batch.images, fakes.images))
            else:  # exact, since no image sees another
                images = torch.cat([batch.images, fakes.images]).requires_grad_("grad_norms" in inputs)
                both = self._outputs(images, torch.cat([batch.labels, batch.labels]))
                norms = squared_gradient_norm(both.logits, images) if "grad_norms" in inputs else None
                real, fake = (_rows(both, norms, rows) for rows in (slice(n), slice(n, None)))
            mixed = None
            if "mixed_grad_norms" in inputs:
                assert mix is not None
                mixed = mixed_gradient_norm(self._logits, batch.images, fakes.images, batch.labels, mix)
            weights = self._pair_weights(real.features, fake.features, batch.labels)
            result = self.sum("discriminator", Judged(real, fake, batch.labels, fakes.latents, weights, mixed))
        self._backward(result.loss, list(self.discriminator.parameters()))
        means = {"real_logit": real.logits.mean(), "fake_logit": fake.logits.mean()}
        return LossResult(result.loss, means | result.stats)

    def backward_generator(self, batch: Batch, fakes: Fakes) -> LossResult:
        with self.precision.autocast():
            with torch.no_grad():
                real = self._outputs(batch.images, batch.labels) if self.generator_needs_real else None
            fake = self._outputs(fakes.images, batch.labels)
            weights = None if real is None else self._pair_weights(real.features, fake.features, batch.labels)
            result = self.sum("generator", Judged(real, fake, batch.labels, fakes.latents, weights))
        self._backward(result.loss, list(self.generator.parameters()))
        return result

    def _outputs(self, images: Tensor, labels: Tensor) -> Outputs:
        if "features" not in self.discriminator_inputs | self.generator_inputs:
            return Outputs(self._logits(images, labels))
        network = cast(Discriminator, self.discriminator)
        features: Tensor = network.features(images).to(self.dtype)
        return Outputs(network.judge(features, *self.conditioning(labels)).to(self.dtype), features)

    def _logits(self, images: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = self.discriminator(images, *self.conditioning(labels)).to(self.dtype)
        return logits

    def _pair_weights(self, real: Tensor | None, fake: Tensor | None, labels: Tensor) -> Tensor | None:
        if real is None or fake is None:
            return None
        with torch.no_grad():
            return self.sample_weights(torch.cat([real, fake]), labels)

    def _backward(self, loss: Tensor, parameters: list[nn.Parameter]) -> None:
        """backward() rather than grad(): it lays each gradient out in memory as its parameter, and the fused Adam reads
        both as flat arrays (with a convolution's permuted gradient it would silently update the wrong weights)."""
        self.scaler.scale(loss).backward(inputs=parameters)


def has_batch_norm(network: nn.Module) -> bool:
    """Whether the images of a batch see each other in a network."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def _rows(outputs: Outputs, norms: Tensor | None, rows: slice) -> Outputs:
    features = None if outputs.features is None else outputs.features[rows]
    return Outputs(outputs.logits[rows], features, None if norms is None else norms[rows])
