"""Describes in words how far generated images are from the real images."""

import math
from collections.abc import Mapping
from typing import Any

from ganctl.training.evaluation.neighbors import SUSPECT

_CLOSE = 0.15
_SUMMARIES = {  # by the upper limit of KID
    0.02: "as close to the real images as other real images are",
    _CLOSE: "close: as a set, the images differ a little from real images",
    1.0: "at a visible distance: as a set, the images differ from real ones",
    math.inf: "far: as a set, the images differ much from real ones, or some kinds of images are missing",
}
_ERRORS = 2.0  # a KID of fewer standard errors is not different from 0
_GOOD_ACCURACY = 0.98  # share of the scorer's own accuracy; a lower label accuracy is mentioned


def score_line(scores: Mapping[str, Any]) -> str:
    """Summarizes scores in a sentence, with the accuracy of the classifier that reads the labels."""
    fd, floor = scores["fd"], scores["fd_floor"]
    text = "no scores" if fd is None else f"Fréchet distance {fd:.2f}"
    if fd is not None and floor and not scores.get("no_summary"):  # 0 if both splits have the same images
        text += f", {fd / floor:.1f} × the floor {floor:.2f} of real images"
    if scores.get("kid") is not None:  # missing in scores of an earlier version
        text += f"; KID {scores['kid']:.3f} ± {scores['kid_se']:.3f}"
    if scores["label_accuracy"] is not None:
        text += f"; label accuracy {scores['label_accuracy']:.1%} by a classifier that reads"
    elif scores.get("scorer_accuracy") is not None:  # an unconditional generator, or scores without a meaning
        text += "; the label classifier reads"
    if (accuracy := scores.get("scorer_accuracy")) is not None:
        text += f" {accuracy:.1%} of held-out images right"
        text += ", a weak one" if scores.get("scorer_weak") else ""
    return f"on the {scores['split']} images: {text}"


def summary(scores: Mapping[str, Any]) -> str:
    """Returns one or two sentences about `kid` and `label_accuracy` (None without labels).

    If the scores have a `no_summary`, it returns that reason instead. KID does not depend on the number of images. The
    limits between the words are a convention; docs/evaluation.md has the KID of degraded real images to compare with.
    """
    if scores.get("no_summary"):
        return f"no summary: {scores['no_summary']}"
    kid, error = scores["kid"], scores["kid_se"]
    excess = 0.0 if kid <= _ERRORS * error else kid
    words = next(text for limit, text in _SUMMARIES.items() if excess <= limit)
    text = f"a KID of {kid:.3f} is {words}"
    accuracy = scores["label_accuracy"]
    if accuracy is not None and accuracy < _GOOD_ACCURACY * scores["scorer_accuracy"]:
        text += f". Of 100 images the classifier reads {round(100 * (1 - accuracy))} as another class than requested"
        text += f", and {round(100 * (1 - scores['scorer_accuracy']))} of 100 real ones"
        text += "; 'sample --reject-misread' rejects them" if accuracy >= 0.5 else ""
    return text


def needs_more_training(scores: Mapping[str, Any]) -> bool:
    """True if the scores call for more training; False if they allow no summary, or if the generator copies."""
    if scores.get("no_summary") or (scores.get("near_copies") or 0.0) >= SUSPECT:
        return False
    return bool(scores["kid"] > max(_CLOSE, _ERRORS * scores["kid_se"]))
