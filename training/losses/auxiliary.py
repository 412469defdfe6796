"""What the discriminator's further heads read from images, and what is learnt by it.

- Its class (auxiliary classification, Odena et al. 2017, arXiv:1610.09585): the discriminator learns to tell those of
  real images, which gives it features that mean something; the generator learns to be read as what it was asked for.
- The z that it was generated from (InfoGAN, Chen et al. 2016, arXiv:1606.03657): the head learns to read it, from
  features that learn nothing by it; the generator learns to leave it readable, so that other z give other images.
- The statistics that real and generated images have in the features themselves: see `matching.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from ganctl.training.config.schema import LossSettings
from ganctl.training.errors import ConfigError
from ganctl.training.models.networks import judges_features

# what `auto` means; see docs/recipe.md
_AUXILIARY = 1.0
_GENERATORS_SHARE = 0.1
_LATENT = 2.0
_MATCHING = 2.0


@dataclass(frozen=True)
class Heads:
    """The heads with the weights of their losses; a weight of 0 leaves its head unused."""

    classifier: nn.Linear | None
    latent_reader: nn.Linear | None
    auxiliary: float
    auxiliary_generator: float
    latent: float
    matching: float
    rarity: float

    @property
    def reads_fakes(self) -> bool:
        """Whether the generator learns more from the features of its images than what they are judged by."""
        return bool(self.auxiliary_generator or self.latent or self.matching)

    @staticmethod
    def of(discriminator: nn.Module, settings: LossSettings) -> "Heads":
        """The heads that a discriminator has.

        Raises:
            ConfigError: a loss is asked for whose head is not there.
        """
        classifier = reader = judge = None
        if judges_features(discriminator):  # a `classifier` of another network may be anything
            classifier, reader, judge = discriminator.classifier, discriminator.latent, discriminator.logit
        auxiliary = _weight("auxiliary", settings.auxiliary, _AUXILIARY, classifier)
        of_generator = _weight(
            "auxiliary_generator", settings.auxiliary_generator, _GENERATORS_SHARE * auxiliary, classifier
        )
        if of_generator and not auxiliary:
            raise ConfigError(
                [f"loss.auxiliary_generator = {of_generator}: with loss.auxiliary = 0 the discriminator never learns to"
                 " tell classes; set it above 0 too, or both to 0."]
            )  # fmt: skip
        latent = _weight("latent", settings.latent, _LATENT, reader)
        matching = _weight("matching", settings.matching, _MATCHING, judge)
        rarity = (1.0 if matching else 0.0) if settings.rarity == "auto" else float(settings.rarity)
        if rarity and not matching:
            raise ConfigError(
                [f"loss.rarity = {settings.rarity}: what is rare is told by the statistics of loss.matching; set that"
                 " above 0 too, or loss.rarity to 0."]
            )  # fmt: skip
        return Heads(classifier, reader, auxiliary, of_generator, latent, matching, rarity)

    def generator_losses(self, features: Tensor, labels: Tensor, latents: Tensor) -> Iterator[Tensor]:
        """What a generator is told beside, weighted, of its images' features [N, F], labels [N] and latents [N, z]."""
        if self.auxiliary_generator:
            yield self.auxiliary_generator * self.class_loss(features, labels)
        if self.latent:
            yield self.latent * self.latent_error(features, latents)

    def class_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the classes that are read."""
        assert self.classifier is not None
        return cross_entropy(self.classifier(features), labels)

    def latent_error(self, features: Tensor, latents: Tensor) -> Tensor:
        """Mean squared error of the latents that are read; their variance where nothing can be."""
        assert self.latent_reader is not None
        return mse_loss(self.latent_reader(features), latents)


def _weight(name: str, asked: float | str, default: float, head: nn.Linear | None) -> float:
    if head is None:
        if asked != "auto" and asked:
            what = {"latent": "tell latents", "matching": "show features of images alone"}.get(name, "tell classes")
            raise ConfigError(
                [f"loss.{name} = {asked}: this discriminator cannot {what}. That needs 'conv' and, for classes,"
                 " model.conditional with labels by projection; one's own must be a"
                 " training.models.Discriminator with that head, and its forward. Or take 'auto', or 0."]
            )  # fmt: skip
        return 0.0
    return default if asked == "auto" else float(asked)
