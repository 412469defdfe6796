"""Loss terms of both networks, as functions of the discriminator's outputs for a batch.

Each term is written once, here. A backend (`backend.py`, `analytic/backend.py`) computes the outputs that a term reads,
and its gradient.

- Classification (auxiliary classifier, Odena et al. 2017, arXiv:1610.09585): the discriminator learns the class of real
  images; the generator learns to generate images that are classified as their label.
- Latent reconstruction (InfoGAN, Chen et al. 2016, arXiv:1606.03657): a linear head predicts z from the features, which
  are not trained by it; the generator learns to keep z predictable, so that different z give different images.
- Gradient penalties: `gradient_penalty.py`. Feature matching: `feature_matching.py`. Energy distance:
  `energy_distance.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from ganctl.training.config.schema import LossSettings
from ganctl.training.distributed.ranks import Ranks
from ganctl.training.errors import ConfigError
from ganctl.training.losses.adversarial import AdversarialLoss, build_loss
from ganctl.training.losses.energy_distance import energy_distance
from ganctl.training.losses.feature_matching import FeatureMatching
from ganctl.training.losses.gradient_penalty import distance_from_unit_norm
from ganctl.training.models.base import Discriminator, Generator, ImageShape, exposes_features
from ganctl.training.models.projected import ProjectedDiscriminator

# weights for `auto`; see docs/recipe.md
_CLASSIFICATION = 1.0
_GENERATOR_CLASSIFICATION = 0.1  # relative to the discriminator's classification weight
_LATENT_RECONSTRUCTION = 2.0
_FEATURE_MATCHING = 2.0
ENERGY_DISTANCE = 20.0

Input = Literal["features", "grad_norms", "mixed_grad_norms"]


@dataclass(frozen=True)
class Outputs:
    """The discriminator's outputs for N images; None if no term reads them."""

    logits: Tensor  # [N]
    features: Tensor | None = None  # [N, F]
    grad_norms: Tensor | None = None  # ‖∇ₓ logit‖² [N]


@dataclass(frozen=True)
class BatchOutputs:
    """The discriminator's outputs for a batch, and the batch's labels and latents."""

    real: Outputs | None  # None if no term of the generator reads it
    fake: Outputs
    labels: Tensor  # int64 [N], shared by real and generated images
    latents: Tensor  # [N, latent_dim] of the generated images
    mixed_grad_norms: Tensor | None = None  # ‖∇ₓ logit‖² [N] at images between real and generated ones
    real_inputs: Tensor | None = None  # of the discriminator, [N, C, H, W] or [N, K]; only for the generator's terms
    fake_inputs: Tensor | None = None  # the same of the generated images
    pair_weights: Tensor | None = None  # [N], of pairs of a real and a generated image; None: all 1


class LossResult(NamedTuple):
    """The weighted sum of the terms, a scalar, and the values to record, by name.

    The discriminator's loss also has the logits of the real images, [N], not differentiable.
    """

    loss: Tensor
    stats: dict[str, Tensor]
    real_logits: Tensor | None = None


class Term(ABC):
    """A loss term; the loss is the sum of `weight` times the value of each term.

    Attributes:
        inputs: outputs that the term reads, besides the logits.
        needs_real: whether the term reads the outputs for real images.
        is_penalty: whether this is a gradient penalty, which has a schedule and may be left out of some steps.
        stat: name under which the value is recorded; None to record nothing.
        parameters: of heads that only this term trains.
    """

    inputs: frozenset[Input] = frozenset()
    needs_real = True
    is_penalty = False
    stat: str | None = None
    parameters: tuple[nn.Parameter, ...] = ()

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    @abstractmethod
    def __call__(self, outputs: BatchOutputs) -> Tensor:
        """The unweighted value: a scalar, a mean over the batch."""


class DiscriminatorAdversarial(Term):
    """The discriminator's adversarial loss."""

    stat = "loss_d"

    def __init__(self, loss: AdversarialLoss) -> None:
        super().__init__()
        self._loss = loss

    def __call__(self, outputs: BatchOutputs) -> Tensor:
        assert outputs.real is not None
        logits = (each.logits for each in (outputs.real, outputs.fake))
        return self._loss.discriminator(*(reweight(values, outputs.pair_weights) for values in logits))


class GeneratorAdversarial(Term):
    """The generator's adversarial loss."""

    stat = "loss_g"

    def __init__(self, loss: AdversarialLoss) -> None:
        super().__init__()
        self._loss, self.needs_real = loss, loss.needs_real

    def __call__(self, outputs: BatchOutputs) -> Tensor:
        real = outputs.real.logits if outputs.real else None
        return self._loss.generator(real, reweight(outputs.fake.logits, outputs.pair_weights))


class GradientNorm(Term):
    """R1 or R2, E‖∇ₓD(x)‖² on real or generated images (Mescheder et al. 2018, arXiv:1801.04406, eq. 9 and 10)."""

    inputs = frozenset({"grad_norms"})
    is_penalty = True

    def __init__(self, side: Literal["real", "fake"], gamma: float) -> None:
        super().__init__(gamma / 2)
        self._side, self.stat = side, {"real": "r1", "fake": "r2"}[side]

    def __call__(self, outputs: BatchOutputs) -> Tensor:
        norms: Tensor = getattr(outputs, self._side).grad_norms
        return norms.mean()


class WganGp(Term):
    """WGAN-GP, E(‖∇D(x̂)‖₂ − 1)² between real and generated images (Gulrajani et al. 2017, arXiv:1704.00028, eq. 3)."""

    inputs = frozenset({"mixed_grad_norms"})
    is_penalty = True
    stat = "wgan_gp"

    def __call__(self, outputs: BatchOutputs) -> Tensor:
        assert outputs.mixed_grad_norms is not None
        return distance_from_unit_norm(outputs.mixed_grad_norms).mean()


class Classification(Term):
    """Cross-entropy of the classifier head on real or on generated images."""

    inputs = frozenset({"features"})

    def __init__(self, side: Literal["real", "fake"], classifier: nn.Linear, weight: float) -> None:
        super().__init__(weight)
        self._side, self._classifier, self.needs_real = side, classifier, side == "real"
        if side == "real":
            self.stat, self.parameters = "classification", tuple(classifier.parameters())

    def __call__(self, outputs: BatchOutputs) -> Tensor:
        return cross_entropy(self._classifier(getattr(outputs, self._side).features), outputs.labels)


class LatentReconstruction(Term):
    """Mean squared error of the predicted latents; with `train_head`, it trains the head and not the features."""

    inputs = frozenset({"features"})
    needs_real = False

    def __init__(self, head: nn.Linear, weight: float, *, train_head: bool) -> None:
        super().__init__(weight)
        self._head, self._train_head = head, train_head
        if train_head:
            self.stat, self.parameters = "latent_reconstruction", tuple(head.parameters())

    def __call__(self, outputs: BatchOutputs) -> Tensor:
        features = outputs.fake.features
        assert features is not None
        return mse_loss(self._head(features.detach() if self._train_head else features), outputs.latents)


class FeatureMatchingTerm(Term):
    """Feature matching: the distance between running statistics of real and generated features."""

    inputs = frozenset({"features"})
    stat = "feature_matching"

    def __init__(self, feature_matching: FeatureMatching, ranks: Ranks) -> None:
        super().__init__()
        self._feature_matching, self._ranks = feature_matching, ranks

    def __call__(self, outputs: BatchOutputs) -> Tensor:
        real = outputs.real.features if outputs.real else None
        assert real is not None
        assert outputs.fake.features is not None
        return self._feature_matching.loss(real, outputs.fake.features, outputs.labels, self._ranks)


class EnergyDistanceTerm(Term):
    """Energy distance between real and generated images with their labels, in features of a pretrained network."""

    needs_real = False  # it reads the input of the discriminator, not its outputs
    stat = "energy_distance"

    def __init__(self, weight: float, maps: list[ImageShape], ranks: Ranks, *, conditional: bool) -> None:
        super().__init__(weight)
        self._maps, self._ranks, self._conditional = maps, ranks, conditional

    def __call__(self, outputs: BatchOutputs) -> Tensor:
        assert outputs.real_inputs is not None
        assert outputs.fake_inputs is not None
        # the images of an unconditional generator have no label
        labels = outputs.labels if self._conditional else torch.zeros_like(outputs.labels)
        return energy_distance(outputs.real_inputs, outputs.fake_inputs, labels, self._maps, self._ranks)


@dataclass(frozen=True)
class Terms:
    """The loss terms of both networks.

    Attributes:
        discriminator: the discriminator's terms.
        generator: the generator's terms.
        feature_matching: statistics of the features; None without feature matching.
        rare_weight: exponent of the pair weights; 0 for no weights.
    """

    discriminator: Sequence[Term]
    generator: Sequence[Term]
    feature_matching: FeatureMatching | None
    rare_weight: float


def inputs_of(terms: Iterable[Term]) -> frozenset[Input]:
    """The outputs that any of the terms reads, besides the logits."""
    return frozenset[Input]().union(*(term.inputs for term in terms))


@dataclass(frozen=True)
class Weights:
    """Weights of the terms on features, with every `auto` resolved."""

    classification: float
    classification_generator: float
    latent_reconstruction: float
    feature_matching: float
    rare_weight: float
    energy_distance: float


def resolve_weights(settings: LossSettings, discriminator: nn.Module) -> Weights:
    """Resolves the weights for a discriminator; `auto` means 0 if it lacks the head.

    Raises:
        ConfigError: a term needs a head that the discriminator lacks, or another term.
    """

    def weight(name: str, default: float, head: str, description: str) -> float:
        setting = getattr(settings, name)
        # attributes of other networks may mean anything
        if exposes_features(discriminator) and getattr(discriminator, head) is not None:
            return default if setting == "auto" else float(setting)
        if setting not in ("auto", 0):
            raise ConfigError(
                [f"loss.{name} = {setting}: this discriminator has no {description}. Set model.discriminator to 'conv'"
                 " (a classifier also needs model.conditional and conditioning by projection), or a"
                 " ganctl.Discriminator that has it and overrides neither forward nor logits_from_features; or set this"
                 " to 'auto' or 0."]
            )  # fmt: skip
        return 0.0

    classification = weight("classification", _CLASSIFICATION, "classifier", "classifier")
    auto_generator = _GENERATOR_CLASSIFICATION * classification
    classification_generator = weight("classification_generator", auto_generator, "classifier", "classifier")
    _require("classification_generator", classification_generator, "classification", classification)
    latent_reconstruction = weight("latent_reconstruction", _LATENT_RECONSTRUCTION, "latent", "latent head")
    feature_matching = weight("feature_matching", _FEATURE_MATCHING, "features", "features of the images alone")
    auto = settings.rare_weight == "auto"
    rare_weight = (1.0 if feature_matching else 0.0) if auto else float(settings.rare_weight)
    _require("rare_weight", rare_weight, "feature_matching", feature_matching)
    projected = isinstance(discriminator, ProjectedDiscriminator)
    if settings.energy_distance not in ("auto", 0) and not projected:
        fault = f"loss.energy_distance = {settings.energy_distance}: this discriminator sees no pretrained features"
        raise ConfigError([f"{fault}. Set model.discriminator to 'projected', or this to 'auto' or 0."])
    auto_energy = ENERGY_DISTANCE if projected else 0.0
    energy_distance = auto_energy if settings.energy_distance == "auto" else float(settings.energy_distance)
    return Weights(
        classification, classification_generator, latent_reconstruction, feature_matching, rare_weight, energy_distance
    )


def _require(name: str, weight: float, needed: str, needed_weight: float) -> None:
    """Raises ConfigError if the weight `name` is set, and `needed`, without which it has no effect, is 0."""
    if weight and not needed_weight:
        fault = f"loss.{name} = {weight}: found loss.{needed} = 0, expected a weight above 0"
        raise ConfigError([f"{fault}. Set it above 0, or loss.{name} to 0."])


def build_terms(settings: LossSettings, generator: Generator, discriminator: nn.Module, ranks: Ranks) -> Terms:
    """Builds the loss terms of the settings, without those of weight 0.

    Raises:
        ConfigError: a term needs a head that the discriminator lacks, or another term.
    """
    weights = resolve_weights(settings, discriminator)
    loss = build_loss(settings)
    discriminator_terms: list[Term] = [DiscriminatorAdversarial(loss)]
    generator_terms: list[Term] = [GeneratorAdversarial(loss)]
    if settings.r1:
        discriminator_terms.append(GradientNorm("real", settings.r1))
    if settings.r2:
        discriminator_terms.append(GradientNorm("fake", settings.r2))
    if settings.wgan_gp:
        discriminator_terms.append(WganGp(settings.wgan_gp))
    heads, feature_matching = cast(Discriminator, discriminator), None
    if weight := weights.classification:
        discriminator_terms.append(Classification("real", cast(nn.Linear, heads.classifier), weight))
    if weight := weights.classification_generator:
        generator_terms.append(Classification("fake", cast(nn.Linear, heads.classifier), weight))
    if weight := weights.latent_reconstruction:
        latent_head = cast(nn.Linear, heads.latent)
        discriminator_terms.append(LatentReconstruction(latent_head, 1.0, train_head=True))
        generator_terms.append(LatentReconstruction(latent_head, weight, train_head=False))
    if weight := weights.feature_matching:
        device = next(generator.parameters()).device
        feature_matching = FeatureMatching(weight, generator.classes or 1, heads.logit.in_features, device)
        generator_terms.append(FeatureMatchingTerm(feature_matching, ranks))
    if weight := weights.energy_distance:
        maps = cast(ProjectedDiscriminator, discriminator).maps
        generator_terms.append(EnergyDistanceTerm(weight, maps, ranks, conditional=generator.conditional))
    return Terms(discriminator_terms, generator_terms, feature_matching, weights.rare_weight)


def reweight(values: Tensor, weights: Tensor | None) -> Tensor:
    """Multiplies the gradients of `values` [N] by `weights` [N], and keeps the values; None: keeps both."""
    if weights is None:
        return values
    reweighted = values.view_as(values)
    reweighted.register_hook(lambda grad: grad * weights)
    return reweighted
