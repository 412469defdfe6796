"""Scorers: compute the features and the label predictions that the scores are made of.

`load_scorer` returns the scorer of a data set. Each kind of scorer has the number of its measure: scores of different
measures cannot be compared.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from ganctl.training.checkpoint.format import weights_digest
from ganctl.training.config.schema import DataSettings
from ganctl.training.evaluation.classifier import load_classifier
from ganctl.training.evaluation.feature_files import FileFeatures
from ganctl.training.evaluation.feature_network import load_feature_network
from ganctl.training.evaluation.label_classifier import LabelClassifier, load_label_classifier
from ganctl.training.evaluation.measure import MEASURE
from ganctl.training.evaluation.network import Classifier, ScorerOutput, classify
from ganctl.training.evaluation.validity import LabelSkill


class Scorer(ABC):
    """Computes features and label predictions of images.

    Attributes:
        measure: number of the measure.
        name: of the features, for reports.
        digest: SHA-256 of all weights, and the type of the device (its rounding differs).
        skill: how well the label predictions fit held-out images; None if the data have no labels, or one class.
        needs_skill: True if the features mean nothing without a skill.
    """

    measure: int
    name: str
    digest: str
    skill: LabelSkill | None
    needs_skill = False

    @abstractmethod
    def __call__(self, images: Tensor) -> ScorerOutput:
        """Computes features and logits of uint8 images [N, C, H, W], as in an ImageSet."""


class FeatureScorer(Scorer):
    """The default scorer: the feature network of the package, or one of the user, and a label classifier."""

    measure = MEASURE

    def __init__(
        self, classifier: LabelClassifier | None, device: torch.device, file_features: FileFeatures | None = None
    ) -> None:
        """Takes the label classifier of the data set; `file_features` replace the features of the package."""
        self._network, self._classifier, self._file_features = load_feature_network(device), classifier, file_features
        self.name = "file" if file_features else "imagenet"
        self.skill = classifier.skill if classifier else None
        digests = [weights_digest(self._network.state_dict())]
        digests += [classifier.digest] if classifier else []
        digests += [file_features.digest, file_features.device.type] if file_features else []
        self.digest = " ".join([*digests, device.type])

    def __call__(self, images: Tensor) -> ScorerOutput:
        features = self._network.extract(images)
        logits = self._classifier(features.label) if self._classifier else torch.zeros(len(images), 1)
        return ScorerOutput(self._file_features(images) if self._file_features else features.image, logits)


class ClassifierScorer(Scorer):
    """The scorer of measure 1: the features of a small classifier that was trained on the images themselves."""

    measure = 1
    name = "classifier"
    needs_skill = True

    def __init__(self, classifier: Classifier, device: torch.device) -> None:
        self._classifier = classifier.to(device)
        self.digest = f"{weights_digest(classifier.state_dict())} {device.type}"
        classes = classifier.head.out_features
        self.skill = LabelSkill.from_metadata(classifier.metadata) if classes > 1 else None

    def __call__(self, images: Tensor) -> ScorerOutput:
        return classify(self._classifier, images)


def load_scorer(
    data: DataSettings,
    *,
    device: torch.device | None = None,
    announce: Callable[[str], None] = lambda text: None,
    measure: int = MEASURE,
    file_features: FileFeatures | None = None,
) -> Scorer:
    """Returns the scorer of a data set.

    Args:
        data: the data set. The first call for labeled data fits a classifier, which is cached.
        device: of the networks; default: the CPU.
        announce: receives progress messages.
        measure: 1 for the scores of earlier versions.
        file_features: a network of the user whose features replace those of the package.

    Raises:
        DataError: the training data are absent or damaged.
    """
    device = device or torch.device("cpu")
    if measure == 1:
        return ClassifierScorer(load_classifier(data, announce), device)
    return FeatureScorer(load_label_classifier(data, device, announce), device, file_features)
