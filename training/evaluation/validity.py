"""Decides which scores have a meaning, and gives the reason where some have none.

Scores compare images in the features of the scoring classifier, so they mean nothing where that classifier has learnt
nothing; and the statistics of few images are mostly chance.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEAST_IMAGES = 200  # on either side; the covariance of 128 features needs more images than features
_DEVIATIONS = 3.0  # standard errors above chance: one scorer of random labels in a thousand gets there
_LEAST_SKILL = 0.1  # share of the errors of the constant guess that a scorer must avoid

FEATURE_SCORES = ("fd", "fd_floor", "fd_ratio", "precision", "recall", "density", "coverage")
READINGS = (
    "label_accuracy", "class_accuracy",
    "class_balance", "class_balance_real", "inception_score", "inception_score_real",
)  # fmt: skip
_OF_FEW_IMAGES = FEATURE_SCORES[1:]  # fd stays: at equal numbers of images it still orders checkpoints


@dataclass(frozen=True)
class ScorerAccuracy:
    """Accuracy of the scoring classifier on held-out images, beside that of the constant guess."""

    accuracy: float
    majority: float  # share of the most frequent class: the accuracy of always naming that class
    images: int  # held-out images
    classes: int

    @staticmethod
    def of(notes: Mapping[str, str], classes: int) -> "ScorerAccuracy":
        """Reads the notes that stand beside a classifier's weights."""
        accuracy, majority = float(notes["test_accuracy"]), float(notes["test_majority"])
        return ScorerAccuracy(accuracy, majority, int(notes["test_images"]), classes)

    @property
    def fault(self) -> str | None:
        """The reason why the classifier's features and readings mean nothing; None where they mean something."""
        if self.classes == 1:
            return (
                "the data have one class, so that the scoring classifier has nothing to tell apart and learns nothing"
            )
        error = math.sqrt(self.majority * (1 - self.majority) / self.images)
        least = self.majority + max(_DEVIATIONS * error, _LEAST_SKILL * (1 - self.majority))
        if self.accuracy >= least and self.accuracy > self.majority:
            return None
        return (
            f"the scoring classifier reads {self.accuracy:.1%} of {self.images:,} held-out images right, too few beside"
            f" the {self.majority:.1%} of always naming the most frequent class to say that it has learnt the classes"
        )


def few_images(drawn: int, real: int) -> str | None:
    """The reason why statistics of so many drawn and so many different real images are mostly chance; else None."""
    if min(drawn, real) >= LEAST_IMAGES:
        return None
    return f"{drawn:,} drawn and {real:,} different real images were compared, expected {LEAST_IMAGES} or more of each"


def without_meaningless(
    scores: Mapping[str, Any], scorer: ScorerAccuracy, *, few: str | None, own_features: bool
) -> dict[str, Any]:
    """The scores, with None for those that have no meaning, and the reasons.

    Args:
        scores: as computed.
        scorer: accuracy of the scoring classifier.
        few: the reason why the images are too few; None where they are enough.
        own_features: whether the features are the scoring classifier's, and not those of another network.

    Returns:
        the scores with scorer_accuracy, scorer_fault (the reason why the classifier's readings mean nothing, or None)
        and no_summary (the reasons why nobody can say how good the images are, or None).
    """
    meaningless = set(_OF_FEW_IMAGES) if few else set()
    fault = scorer.fault
    if fault:
        meaningless |= {*READINGS, *(FEATURE_SCORES if own_features else ())}
    reasons = [reason for reason in (fault if own_features else None, few) if reason]
    sound = {name: None if name in meaningless else value for name, value in scores.items()}
    return sound | {
        "scorer_accuracy": scorer.accuracy if scorer.classes > 1 else None,
        "scorer_fault": fault,
        "no_summary": "; ".join(reasons) or None,
    }
