"""Scores of a model card: a row for each score that the checkpoint has, with the same score of real images."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ganctl.training.evaluation.summary import summary

DIAGNOSTIC_IMAGES = 256  # at most, for `diversity` and `near_copies`, as in `training.callbacks.diagnostics`
_MEASURE_1 = 1  # of the scores of earlier versions, which have no number


class Score(NamedTuple):
    """A row of the table, all of it text.

    Attributes:
        key: the name in the manifest.
        name: the name in the card.
        value: of the generated images.
        real: the same of real images, the best that can be expected.
        n: the number of generated images.
        meaning: what it shows.
    """

    key: str
    name: str
    value: str
    real: str
    n: str
    meaning: str


class _Kind(NamedTuple):
    name: str
    real: str | float | None  # the key of the value of real images, or that value; None: not measured
    meaning: str


_KINDS = {
    "kid": _Kind("KID", 0.0, "kernel distance between the features of generated and real images; lower is better"),
    "fd": _Kind(
        "Fréchet distance", "fd_floor", "distance between the features as two Gaussians; depends on N; lower is better"
    ),
    "fd_ratio": _Kind("Fréchet distance / floor", 1.0, "as a multiple of the distance of as many real images"),
    "precision": _Kind("precision", None, "share of generated images that lie among real ones: quality"),
    "recall": _Kind("recall", None, "share of real images that lie among generated ones: variety"),
    "density": _Kind("density", None, "like precision, less sensitive to outliers; may exceed 1"),
    "coverage": _Kind("coverage", None, "share of real images with a generated one nearby"),
    "label_accuracy": _Kind(
        "label accuracy", "scorer_accuracy", "share that a classifier reads as the requested class"
    ),
    "class_balance": _Kind("class balance", "class_balance_real", "1: all classes are equally frequent"),
    "inception_score": _Kind(
        "Inception Score", "inception_score_real", "by the same classifier, not by Inception; higher is better"
    ),
    "diversity": _Kind("diversity", 1.0, "distance to the nearest other generated image; near 0: all are alike"),
    "near_copies": _Kind("near copies", 0.01, "share closer to a training image than 99 % of held-out images are"),
    "cas": _Kind("classification accuracy score", "cas_real", "accuracy of a classifier trained on generated images"),
}
_OF_DIAGNOSTICS = ("diversity", "near_copies")
_NOT_SCORES = {  # facts of the evaluation, and values that stand in the row of another score
    "step", "images", "num_images", "measure", "scorer_accuracy", "kid_se", "cas_gap",
    *(kind.real for kind in _KINDS.values() if isinstance(kind.real, str)),
}  # fmt: skip


def scores(metrics: Mapping[str, Any]) -> list[Score]:
    """Returns the scores of a checkpoint that are numbers; those of callbacks come last, by their own names."""
    own = [key for key in metrics if key not in _KINDS and key not in _NOT_SCORES]
    return [_score(key, metrics) for key in (*_KINDS, *own) if _is_number(metrics.get(key))]


def _score(key: str, metrics: Mapping[str, Any]) -> Score:
    kind = _KINDS.get(key, _Kind(key, None, "a score of a callback"))
    value = f"{metrics[key]:.4f}"
    if key == "kid" and _is_number(metrics.get("kid_se")):
        value += f" ± {metrics['kid_se']:.4f}"
    real = metrics.get(kind.real) if isinstance(kind.real, str) else kind.real
    if key in _OF_DIAGNOSTICS:
        n = f"≤ {DIAGNOSTIC_IMAGES}"  # fewer training images have as many generated ones
    else:
        n = f"{metrics['num_images']:,}" if key in _KINDS and metrics.get("num_images") else "–"
    return Score(key, kind.name, value, f"{real:.4f}" if _is_number(real) else "–", n, kind.meaning)


def class_rows(manifest: Mapping[str, Any]) -> list[tuple[int, str, str]]:
    """Returns label, name and label accuracy of each class of a conditional generator."""
    accuracy = manifest["checkpoint"]["metrics"].get("class_accuracy") or {}
    rows = enumerate(manifest["class_names"] if manifest["conditional"] else ())
    return [(label, name, f"{accuracy[name]:.4f}" if _is_number(accuracy.get(name)) else "–") for label, name in rows]


def notes(metrics: Mapping[str, Any]) -> list[str]:
    """Returns sentences about the scores: their summary, their measure, and why some of them are missing."""
    if not scores(metrics):
        reasons = [str(metrics[key]) for key in ("no_summary", "scorer_fault") if metrics.get(key)]
        none = (
            "the checkpoint has none, so nothing is known about the quality of its images; 'ganctl evaluate' scores it"
        )
        return [f"No scores: {reason}." for reason in reasons or [none]]
    lines = []
    if metrics.get("no_summary") or all(_is_number(metrics.get(key)) for key in ("kid", "kid_se")):
        has_labels = _is_number(metrics.get("scorer_accuracy"))
        lines.append(
            _sentence(summary({**metrics, "label_accuracy": metrics.get("label_accuracy") if has_labels else None}))
        )
    if metrics.get("scorer_fault"):
        lines.append(f"No label scores: {metrics['scorer_fault']}.")
    if metrics.get("scorer_weak"):
        lines.append("The classifier that reads the labels is weak: label accuracies are rough.")
    measure = metrics.get("measure", _MEASURE_1)
    lines.append(f"Measure {measure} of ganctl; scores of different measures cannot be compared.")
    return lines


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + "."


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
