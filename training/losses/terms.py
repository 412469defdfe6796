"""Terms of both networks' losses, as functions of what the discriminator computed of a batch.

A term is written once, here. A backend (`backend.py`, `analytic/backend.py`) computes the inputs that it names and
carries its gradient to the weights.

- Classification (auxiliary classifier, Odena et al. 2017, arXiv:1610.09585): the discriminator reads the class of real
  images; the generator is trained so that its images are read as the class that was asked for.
- Latent reconstruction (InfoGAN, Chen et al. 2016, arXiv:1606.03657): a head reads z from features, which do not learn
  by it; the generator is trained to keep z readable, so that different z give different images.
- Gradient penalties and feature matching: see `gradient_penalty.py`, `feature_matching.py`.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from ganctl.training.config.schema import LossSettings
from ganctl.training.device.step_inputs import Number
from ganctl.training.distributed.ranks import Ranks
from ganctl.training.errors import ConfigError
from ganctl.training.losses.adversarial import AdversarialLoss, build_loss
from ganctl.training.losses.feature_matching import FeatureMatching
from ganctl.training.losses.gradient_penalty import distance_from_unit_norm
from ganctl.training.models.base import Discriminator, Generator, judges_features

# the weights that `auto` means; see docs/recipe.md
_CLASSIFICATION = 1.0
_GENERATOR_SHARE = 0.1  # of the discriminator's weight of classification
_LATENT = 2.0
_MATCHING = 2.0

Input = Literal["features", "grad_norms", "mixed_grad_norms"]


@dataclass(frozen=True)
class Outputs:
    """What the discriminator computed of N images; None where no term reads it."""

    logits: Tensor  # [N]
    features: Tensor | None = None  # [N, F]
    grad_norms: Tensor | None = None  # ‖∇ₓ logit‖² [N]


@dataclass(frozen=True)
class Judged:
    """What the discriminator computed of a batch."""

    real: Outputs | None  # None where the generator's terms do not read it
    fake: Outputs
    labels: Tensor  # int64 [N], shared by real and generated images
    latents: Tensor  # [N, latent_dim] of the generated images
    sample_weights: Tensor | None = None  # [N], how much each pair of images counts; None: all alike
    mixed_grad_norms: Tensor | None = None  # ‖∇ₓ logit‖² [N] at images between real and generated ones


class LossResult(NamedTuple):
    """The sum of the weighted terms, a scalar, and the values that are recorded, by name."""

    loss: Tensor
    stats: dict[str, Tensor]


class Term(ABC):
    """One term: `weight` times what a call gives; `inputs` are the fields that it reads beside the logits."""

    inputs: frozenset[Input] = frozenset()
    needs_real = True  # whether it reads the discriminator's outputs for real images
    scheduled = False  # whether its weight follows the schedule of the penalties
    stat: str | None = None  # the name by which its value is recorded
    parameters: tuple[nn.Parameter, ...] = ()  # of heads that learn by this term alone

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    @abstractmethod
    def __call__(self, judged: Judged) -> Tensor:
        """The unweighted term: a scalar, a mean over the batch."""


class DiscriminatorAdversarial(Term):
    """The discriminator's side of the adversarial loss."""

    stat = "loss_d"

    def __init__(self, loss: AdversarialLoss) -> None:
        super().__init__()
        self._loss = loss

    def __call__(self, judged: Judged) -> Tensor:
        assert judged.real is not None
        logits = (outputs.logits for outputs in (judged.real, judged.fake))
        return self._loss.discriminator(*(reweight(each, judged.sample_weights) for each in logits))


class GeneratorAdversarial(Term):
    """The generator's side of the adversarial loss."""

    stat = "loss_g"

    def __init__(self, loss: AdversarialLoss) -> None:
        super().__init__()
        self._loss, self.needs_real = loss, loss.needs_real

    def __call__(self, judged: Judged) -> Tensor:
        real = judged.real.logits if judged.real else None
        return self._loss.generator(real, reweight(judged.fake.logits, judged.sample_weights))


class GradientNorm(Term):
    """R1 or R2, E‖∇ₓD(x)‖² on real or generated images (Mescheder et al. 2018, arXiv:1801.04406, eq. 9 and 10)."""

    inputs = frozenset({"grad_norms"})
    scheduled = True

    def __init__(self, side: Literal["real", "fake"], gamma: float) -> None:
        super().__init__(gamma / 2)
        self._side, self.stat = side, {"real": "r1", "fake": "r2"}[side]

    def __call__(self, judged: Judged) -> Tensor:
        norms: Tensor = getattr(judged, self._side).grad_norms
        return norms.mean()


class WganGp(Term):
    """E(‖∇D(x̂)‖₂ − 1)² between real and generated images (Gulrajani et al. 2017, arXiv:1704.00028, eq. 3)."""

    inputs = frozenset({"mixed_grad_norms"})
    scheduled = True
    stat = "wgan_gp"

    def __call__(self, judged: Judged) -> Tensor:
        assert judged.mixed_grad_norms is not None
        return distance_from_unit_norm(judged.mixed_grad_norms).mean()


class Classification(Term):
    """Cross-entropy of the classes that the classifier reads, of real images or of generated ones."""

    inputs = frozenset({"features"})

    def __init__(self, side: Literal["real", "fake"], classifier: nn.Linear, weight: float) -> None:
        super().__init__(weight)
        self._side, self._classifier, self.needs_real = side, classifier, side == "real"
        if side == "real":
            self.stat, self.parameters = "classification", tuple(classifier.parameters())

    def __call__(self, judged: Judged) -> Tensor:
        return cross_entropy(self._classifier(getattr(judged, self._side).features), judged.labels)


class LatentReconstruction(Term):
    """Mean squared error of the latents that the reader reads; by `train_reader` it learns, and the features do not."""

    inputs = frozenset({"features"})
    needs_real = False

    def __init__(self, reader: nn.Linear, weight: float, *, train_reader: bool) -> None:
        super().__init__(weight)
        self._reader, self._train_reader = reader, train_reader
        if train_reader:
            self.stat, self.parameters = "latent_reconstruction", tuple(reader.parameters())

    def __call__(self, judged: Judged) -> Tensor:
        features = judged.fake.features
        assert features is not None
        return mse_loss(self._reader(features.detach() if self._train_reader else features), judged.latents)


class Matching(Term):
    """The distance between running statistics of real and generated features."""

    inputs = frozenset({"features"})
    stat = "feature_matching"

    def __init__(self, matching: FeatureMatching, ranks: Ranks, *, conditional: bool) -> None:
        super().__init__()
        self._matching, self._ranks, self._conditional = matching, ranks, conditional

    def __call__(self, judged: Judged) -> Tensor:
        real = judged.real.features if judged.real else None
        assert real is not None
        assert judged.fake.features is not None
        groups = feature_groups(judged.labels, conditional=self._conditional)
        return self._matching.loss(real, judged.fake.features, groups, self._ranks)


@dataclass(frozen=True)
class Terms:
    """The terms of both networks, the statistics of feature matching, and the exponent of the sample weights."""

    discriminator: Sequence[Term]
    generator: Sequence[Term]
    matching: FeatureMatching | None
    rarity: float

    def sum(self, terms: Iterable[Term], judged: Judged, penalty: Number) -> LossResult:
        """The weighted sum of terms; `penalty` is the present factor of the scheduled ones."""
        stats: dict[str, Tensor] = {}
        total: list[Tensor] = []
        for term in terms:
            value = term(judged)
            weight = term.weight * penalty if term.scheduled else term.weight
            total.append(weight * value)
            if term.stat:
                stats[term.stat] = value
        return LossResult(functools.reduce(torch.add, total), stats)


def inputs_of(terms: Iterable[Term]) -> frozenset[Input]:
    """The fields that some of the terms read."""
    return frozenset[Input]().union(*(term.inputs for term in terms))


@dataclass(frozen=True)
class Weights:
    """The weights of the terms that read features, with every `auto` resolved."""

    classification: float
    classification_generator: float
    latent: float
    matching: float
    rarity: float


def resolve_weights(settings: LossSettings, discriminator: nn.Module) -> Weights:
    """The weights for this discriminator: `auto` is 0 where it lacks the head.

    Raises:
        ConfigError: a term needs a head that the discriminator does not have, or another term.
    """
    classifier = reader = logit = None
    if judges_features(discriminator):  # a `classifier` of another network may be anything
        classifier, reader, logit = discriminator.classifier, discriminator.latent, discriminator.logit
    classification = _weight("classification", settings.classification, _CLASSIFICATION, classifier)
    of_generator = _weight(
        "classification_generator", settings.classification_generator, _GENERATOR_SHARE * classification, classifier
    )
    if of_generator and not classification:
        raise ConfigError(
            [f"loss.classification_generator = {of_generator}: with loss.classification = 0 the discriminator never"
             " learns to"
             " tell classes; set it above 0 too, or both to 0."]
        )  # fmt: skip
    latent = _weight("latent_reconstruction", settings.latent_reconstruction, _LATENT, reader)
    matching = _weight("feature_matching", settings.feature_matching, _MATCHING, logit)
    rarity = (1.0 if matching else 0.0) if settings.rare_weight == "auto" else float(settings.rare_weight)
    if rarity and not matching:
        raise ConfigError(
            [f"loss.rare_weight = {settings.rare_weight}: what is rare is told by the statistics of"
             " loss.feature_matching; set that"
             " above 0 too, or loss.rare_weight to 0."]
        )  # fmt: skip
    return Weights(classification, of_generator, latent, matching, rarity)


def build_terms(settings: LossSettings, generator: Generator, discriminator: nn.Module, ranks: Ranks) -> Terms:
    """The terms that the settings ask for, those of weight 0 left out.

    Raises:
        ConfigError: a term needs a head that the discriminator does not have, or another term.
    """
    weights = resolve_weights(settings, discriminator)
    loss = build_loss(settings)
    discriminators: list[Term] = [DiscriminatorAdversarial(loss)]
    generators: list[Term] = [GeneratorAdversarial(loss)]
    if settings.r1:
        discriminators.append(GradientNorm("real", settings.r1))
    if settings.r2:
        discriminators.append(GradientNorm("fake", settings.r2))
    if settings.wgan_gp:
        discriminators.append(WganGp(settings.wgan_gp))
    heads, matching = cast(Discriminator, discriminator), None
    if weights.classification:
        discriminators.append(Classification("real", cast(nn.Linear, heads.classifier), weights.classification))
    if weights.classification_generator:
        generators.append(Classification("fake", cast(nn.Linear, heads.classifier), weights.classification_generator))
    if weights.latent:
        discriminators.append(LatentReconstruction(cast(nn.Linear, heads.latent), 1.0, train_reader=True))
        generators.append(LatentReconstruction(cast(nn.Linear, heads.latent), weights.latent, train_reader=False))
    if weights.matching:
        device = next(generator.parameters()).device
        matching = FeatureMatching(weights.matching, generator.classes or 1, heads.logit.in_features, device)
        generators.append(Matching(matching, ranks, conditional=generator.conditional))
    return Terms(discriminators, generators, matching, weights.rarity)


def feature_groups(labels: Tensor, *, conditional: bool) -> Tensor:
    """The classes whose features have means of their own, int64 [N]: all one class without conditioning."""
    return labels if conditional else torch.zeros_like(labels)


class _Reweight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (weights,) = ctx.saved_tensors
        return grad * weights, None


def reweight(values: Tensor, weights: Tensor | None) -> Tensor:
    """The same values [N], whose gradients become `weights` [N] times as large; None: as they are."""
    if weights is None:
        return values
    scaled: Tensor = _Reweight.apply(values, weights)
    return scaled


def _weight(name: str, asked: float | str, default: float, head: nn.Linear | None) -> float:
    if head is None:
        if asked != "auto" and asked:
            what = {
                "latent_reconstruction": "tell latents",
                "feature_matching": "show features of images alone",
            }.get(name, "tell classes")
            raise ConfigError(
                [f"loss.{name} = {asked}: this discriminator cannot {what}. That needs 'conv' and, for classes,"
                 " model.conditional with labels by projection; one's own must be a"
                 " ganctl.Discriminator with that head, and its forward. Or take 'auto', or 0."]
            )  # fmt: skip
        return 0.0
    return default if asked == "auto" else float(asked)
