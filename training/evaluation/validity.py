"""Decides which scores are valid, and gives the reasons for the invalid ones.

The scores compare images in the features of the scoring classifier: they mean nothing if that classifier has learned
nothing. Statistics of few images are mostly noise.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MIN_IMAGES = 200  # generated and real; the covariance of 128 features needs more images than features
_DEVIATIONS = 3.0  # standard errors above chance; a classifier of random labels reaches that once in a thousand
_MIN_SKILL = 0.1  # share of the errors of the majority guess that the classifier must avoid

FEATURE_SCORES = ("fd", "fd_floor", "fd_ratio", "precision", "recall", "density", "coverage")
PREDICTION_SCORES = (
    "label_accuracy", "class_accuracy",
    "class_balance", "class_balance_real", "inception_score", "inception_score_real",
)  # fmt: skip
_INVALID_IF_TOO_FEW = FEATURE_SCORES[1:]  # fd stays: at equal numbers of images it still ranks checkpoints


@dataclass(frozen=True)
class ScorerAccuracy:
    """Accuracy of the scoring classifier on held-out images, and that of the majority guess."""

    accuracy: float
    majority: float  # share of the most frequent class
    images: int  # number of held-out images
    classes: int

    @staticmethod
    def of(metadata: Mapping[str, str], classes: int) -> "ScorerAccuracy":
        """Reads the accuracy from the metadata of a classifier."""
        accuracy, majority = float(metadata["test_accuracy"]), float(metadata["test_majority"])
        return ScorerAccuracy(accuracy, majority, int(metadata["test_images"]), classes)

    @property
    def fault(self) -> str | None:
        """The reason why features and predictions of the classifier are invalid; None if they are valid."""
        if self.classes == 1:
            return "the data have one class, so that the scoring classifier learns nothing"
        error = math.sqrt(self.majority * (1 - self.majority) / self.images)
        minimum = self.majority + max(_DEVIATIONS * error, _MIN_SKILL * (1 - self.majority))
        if self.accuracy >= minimum and self.accuracy > self.majority:
            return None
        return (
            f"the scoring classifier reads {self.accuracy:.1%} of {self.images:,} held-out images right, expected at"
            f" least {minimum:.1%} (always guessing the most frequent class gives {self.majority:.1%})"
        )


def too_few_images(generated: int, real: int) -> str | None:
    """The reason why statistics of these numbers of generated and of distinct real images are noise; else None."""
    if min(generated, real) >= MIN_IMAGES:
        return None
    return f"found {generated:,} generated and {real:,} distinct real images, expected {MIN_IMAGES} or more of each"


def mask_invalid_scores(
    scores: Mapping[str, Any], scorer: ScorerAccuracy, *, too_few: str | None, classifier_features: bool
) -> dict[str, Any]:
    """Replaces invalid scores by None, and adds the reasons.

    Args:
        scores: all scores, as computed.
        scorer: accuracy of the scoring classifier.
        too_few: the reason of `too_few_images`, or None.
        classifier_features: True if the features are those of the scoring classifier, False for another network.

    Returns:
        The scores with scorer_accuracy, scorer_fault (the reason why the predictions of the classifier are invalid, or
        None) and no_summary (the reasons why the scores do not show how good the images are, or None).
    """
    invalid = set(_INVALID_IF_TOO_FEW) if too_few else set()
    fault = scorer.fault
    if fault:
        invalid |= {*PREDICTION_SCORES, *(FEATURE_SCORES if classifier_features else ())}
    reasons = [reason for reason in (fault if classifier_features else None, too_few) if reason]
    valid = {name: None if name in invalid else value for name, value in scores.items()}
    return valid | {
        "scorer_accuracy": scorer.accuracy if scorer.classes > 1 else None,
        "scorer_fault": fault,
        "no_summary": "; ".join(reasons) or None,
    }
