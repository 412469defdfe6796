"""Decides which scores are valid, and why others are not.

Label scores mean nothing if the classifier that reads the labels has learned nothing. Statistics of few images are
mostly noise.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MIN_IMAGES = 100  # generated and real
SMALL_SET = 5000  # images; below, the bias of the Fréchet distance is large, and KID is the distance to read
_DEVIATIONS = 3.0  # standard errors above chance; a classifier of random labels reaches that once in a thousand
_MIN_SKILL = 0.1  # share of the errors of the majority guess that the classifier must avoid
_GOOD_SKILL = 0.5  # below, it is called weak

FEATURE_SCORES = ("fd", "fd_floor", "fd_ratio", "kid", "kid_se", "precision", "recall", "density", "coverage")
PREDICTION_SCORES = (
    "label_accuracy", "class_accuracy",
    "class_balance", "class_balance_real", "inception_score", "inception_score_real",
)  # fmt: skip
_INVALID_IF_TOO_FEW = tuple(name for name in FEATURE_SCORES if name != "fd")  # fd still ranks checkpoints
NO_CLASSES = "the data have no labels, or one class, so that there is no classifier"


@dataclass(frozen=True)
class LabelSkill:
    """Accuracy of a classifier on held-out images, and that of a constant guess.

    Attributes:
        accuracy: share of the images whose class it predicts.
        majority: share of the largest class: the accuracy of a constant guess.
        images: number of held-out images.
    """

    accuracy: float
    majority: float
    images: int

    @staticmethod
    def measure(predictions: Tensor, labels: Tensor) -> "LabelSkill":
        """Compares predicted with true labels, both int64 [N]."""
        majority, hits = int(torch.bincount(labels).max()), int((predictions == labels).sum())
        # rounded as in `to_metadata`: a classifier from the cache has the skill of the fitted one
        return LabelSkill(round(hits / len(labels), 4), round(majority / len(labels), 4), len(labels))

    @staticmethod
    def from_metadata(metadata: Mapping[str, str]) -> "LabelSkill":
        """Reads the result of `to_metadata`."""
        accuracy, majority, images = (metadata[f"test_{name}"] for name in ("accuracy", "majority", "images"))
        return LabelSkill(float(accuracy), float(majority), int(images))

    def to_metadata(self) -> dict[str, str]:
        """The values as text, for the metadata of a weights file."""
        accuracy, majority = f"{self.accuracy:.4f}", f"{self.majority:.4f}"
        return {"test_accuracy": accuracy, "test_images": str(self.images), "test_majority": majority}

    @property
    def is_weak(self) -> bool:
        """True if the classifier makes more than half of the errors of a constant guess."""
        return self.accuracy - self.majority < _GOOD_SKILL * (1 - self.majority)


def find_scorer_fault(skill: LabelSkill | None) -> str | None:
    """The reason why label predictions are invalid; None if they are valid.

    Args:
        skill: of the classifier; None without classes.
    """
    if skill is None:
        return NO_CLASSES
    error = math.sqrt(skill.majority * (1 - skill.majority) / skill.images)
    minimum = skill.majority + max(_DEVIATIONS * error, _MIN_SKILL * (1 - skill.majority))
    if skill.accuracy >= minimum and skill.accuracy > skill.majority:
        return None
    found = f"the classifier reads {skill.accuracy:.1%} of {skill.images:,} held-out images right"
    chance = f"always guessing the most frequent class gives {skill.majority:.1%}"
    if minimum > 1:
        return f"{found}, which are too few to judge it ({chance})"
    return f"{found}, expected at least {minimum:.1%} ({chance})"


def too_few_images(generated: int, real: int) -> str | None:
    """The reason why statistics of these numbers of generated and of distinct real images are noise; else None."""
    if min(generated, real) >= MIN_IMAGES:
        return None
    return f"found {generated:,} generated and {real:,} distinct real images, expected {MIN_IMAGES} or more of each"


def mask_invalid_scores(
    scores: Mapping[str, Any], skill: LabelSkill | None, *, too_few: str | None, features_need_skill: bool
) -> dict[str, Any]:
    """Replaces invalid scores by None, and adds the reasons.

    Args:
        scores: all scores, as computed.
        skill: of the classifier that reads the labels; None without classes.
        too_few: the reason of `too_few_images`, or None.
        features_need_skill: True if the features are those of that classifier.

    Returns:
        The scores with scorer_accuracy (the classifier's test accuracy), scorer_weak (True if the label scores are
        rough), scorer_fault (the reason of `find_scorer_fault`, or None) and no_summary (the reasons why the scores do
        not show how good the images are, or None).
    """
    invalid = set(_INVALID_IF_TOO_FEW) if too_few else set()
    if fault := find_scorer_fault(skill):
        invalid |= {*PREDICTION_SCORES, *(FEATURE_SCORES if features_need_skill else ())}
    reasons = [reason for reason in (fault if features_need_skill else None, too_few) if reason]
    valid = {name: None if name in invalid else value for name, value in scores.items()}
    return valid | {
        "scorer_accuracy": skill.accuracy if skill else None,
        "scorer_weak": bool(skill and not fault and skill.is_weak),
        "scorer_fault": fault,
        "no_summary": "; ".join(reasons) or None,
    }
