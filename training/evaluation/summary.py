"""What scores mean, in words: how far generated images are from the real ones."""

from collections.abc import Mapping
from typing import Any

_AT_THE_FLOOR, _CLOSE, _SOME_WAY = 1.2, 2.0, 6.0  # times the floor
_READABLE = 0.98  # share of images that are read as asked, below which it is worth a word


def summary(scores: Mapping[str, Any]) -> str:
    """One or two sentences about `fd`, `fd_floor` and `label_accuracy` (None where there are no labels), or the reason
    `no_summary` why there is nothing to say about them.

    The floor is the distance that as many real training images have. What is between is a matter of words: up to 1.2 ×
    the floor no difference is left that this distance could show, from 6 × on most people see it in single images.
    """
    if scores.get("no_summary"):
        return f"no summary: {scores['no_summary']}"
    times = scores["fd"] / scores["fd_floor"]
    if times <= _AT_THE_FLOOR:
        told = "as close to the real images as other real images are"
    elif times <= _CLOSE:
        told = "close: taken together the images differ a little from real ones"
    elif times <= _SOME_WAY:
        told = "some way off: many images pass for real ones, all together they do not"
    else:
        told = "far off: many images are no good, or some kinds of real images are missing"
    told = f"{times:.1f} × the floor is {told}"
    accuracy = scores["label_accuracy"]
    if accuracy is not None and accuracy < _READABLE:
        told += f". Of 100 images {round(100 * (1 - accuracy))} are not read as what was asked for"
        told += "; 'sample --reject-misread' leaves those out" if accuracy >= 0.5 else ""
    return told


def needs_more_training(scores: Mapping[str, Any]) -> bool:
    """Whether more training is what to do next; False where there is no summary."""
    return not scores.get("no_summary") and bool(scores["fd"] / scores["fd_floor"] > _CLOSE)
