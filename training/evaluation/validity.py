"""Decides which scores are valid, and why others are not.

The scores compare images in the features of the scoring classifier: they mean nothing if that classifier has learned
nothing. Statistics of few images are mostly noise.
"""

import math
from collections.abc import Mapping
from typing import Any

from ganctl.training.evaluation.network import Classifier

MIN_IMAGES = 200  # generated and real; the covariance of 128 features needs more images than features
_DEVIATIONS = 3.0  # standard errors above chance; a classifier of random labels reaches that once in a thousand
_MIN_SKILL = 0.1  # share of the errors of the majority guess that the classifier must avoid

FEATURE_SCORES = ("fd", "fd_floor", "fd_ratio", "precision", "recall", "density", "coverage")
PREDICTION_SCORES = (
    "label_accuracy", "class_accuracy",
    "class_balance", "class_balance_real", "inception_score", "inception_score_real",
)  # fmt: skip
_INVALID_IF_TOO_FEW = FEATURE_SCORES[1:]  # fd stays: at equal numbers of images it still ranks checkpoints


def find_scorer_fault(classifier: Classifier) -> str | None:
    """The reason why features and predictions of the scoring classifier are invalid; None if they are valid."""
    if classifier.head.out_features == 1:
        return "the data have no labels, or one class, so that the scoring classifier learns nothing"
    metadata = classifier.metadata
    accuracy, majority, images = (float(metadata[f"test_{name}"]) for name in ("accuracy", "majority", "images"))
    error = math.sqrt(majority * (1 - majority) / images)
    minimum = majority + max(_DEVIATIONS * error, _MIN_SKILL * (1 - majority))
    if accuracy >= minimum and accuracy > majority:
        return None
    found = f"the scoring classifier reads {accuracy:.1%} of {images:,.0f} held-out images right"
    chance = f"always guessing the most frequent class gives {majority:.1%}"
    if minimum > 1:
        return f"{found}, which are too few to judge it ({chance})"
    return f"{found}, expected at least {minimum:.1%} ({chance})"


def too_few_images(generated: int, real: int) -> str | None:
    """The reason why statistics of these numbers of generated and of distinct real images are noise; else None."""
    if min(generated, real) >= MIN_IMAGES:
        return None
    return f"found {generated:,} generated and {real:,} distinct real images, expected {MIN_IMAGES} or more of each"


def mask_invalid_scores(
    scores: Mapping[str, Any], classifier: Classifier, *, too_few: str | None, classifier_features: bool
) -> dict[str, Any]:
    """Replaces invalid scores by None, and adds the reasons.

    Args:
        scores: all scores, as computed.
        classifier: the scoring classifier.
        too_few: the reason of `too_few_images`, or None.
        classifier_features: True if the features are those of the scoring classifier, False for another network.

    Returns:
        The scores with scorer_accuracy (the classifier's test accuracy), scorer_fault (the reason of
        `find_scorer_fault`, or None) and no_summary (the reasons why the scores do not show how good the images are, or
        None).
    """
    invalid = set(_INVALID_IF_TOO_FEW) if too_few else set()
    if fault := find_scorer_fault(classifier):
        invalid |= {*PREDICTION_SCORES, *(FEATURE_SCORES if classifier_features else ())}
    reasons = [reason for reason in (fault if classifier_features else None, too_few) if reason]
    valid = {name: None if name in invalid else value for name, value in scores.items()}
    return valid | {
        "scorer_accuracy": float(classifier.metadata["test_accuracy"]) if classifier.head.out_features > 1 else None,
        "scorer_fault": fault,
        "no_summary": "; ".join(reasons) or None,
    }
