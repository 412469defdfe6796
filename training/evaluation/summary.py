"""Describes in words how far generated images are from the real images."""

import math
from collections.abc import Mapping
from typing import Any

_CLOSE = 2.0
_SUMMARIES = {  # by the upper limit of fd / fd_floor
    1.2: "as close to the real images as other real images are",
    _CLOSE: "close: as a set, the images differ a little from real images",
    6.0: "at a visible distance: many images look real, but as a set they differ",
    math.inf: "far: many images do not look real, or some kinds of real images are missing",
}
_GOOD_ACCURACY = 0.98  # a lower label accuracy is mentioned


def score_line(scores: Mapping[str, Any]) -> str:
    """Summarizes scores in a sentence, with the accuracy of the scoring classifier."""
    fd, floor = scores["fd"], scores["fd_floor"]
    text = "no scores" if fd is None else f"Fréchet distance {fd:.2f}"
    if fd is not None and not scores.get("no_summary"):
        text += f", {fd / floor:.1f} × the floor {floor:.2f} of real images"
    if scores["label_accuracy"] is not None:
        text += f"; label accuracy {scores['label_accuracy']:.1%}"
    if (accuracy := scores.get("scorer_accuracy")) is not None:  # missing in scores of an earlier version
        text += f"; the scoring classifier reads {accuracy:.2%} of held-out images right"
    return f"on the {scores['split']} images: {text}"


def summary(scores: Mapping[str, Any]) -> str:
    """Returns one or two sentences about `fd`, `fd_floor` and `label_accuracy` (None without labels).

    If the scores have a `no_summary`, it returns that reason instead. The floor is the distance of as many real
    training images. Up to 1.2 × the floor this distance shows no difference; from 6 × on most people see it in single
    images. The limits between are a convention.
    """
    if scores.get("no_summary"):
        return f"no summary: {scores['no_summary']}"
    ratio = scores["fd"] / scores["fd_floor"]
    text = f"{ratio:.1f} × the floor is {next(text for limit, text in _SUMMARIES.items() if ratio <= limit)}"
    accuracy = scores["label_accuracy"]
    if accuracy is not None and accuracy < _GOOD_ACCURACY:
        text += f". Of 100 images the classifier reads {round(100 * (1 - accuracy))} as another class than requested"
        text += "; 'sample --reject-misread' rejects them" if accuracy >= 0.5 else ""
    return text


def needs_more_training(scores: Mapping[str, Any]) -> bool:
    """True if the scores call for more training; False if they allow no summary."""
    return not scores.get("no_summary") and bool(scores["fd"] / scores["fd_floor"] > _CLOSE)
