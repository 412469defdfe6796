"""The scalars and settings of a run under the names that TensorBoard and the trackers show."""

from collections.abc import Mapping
from typing import Any

from ganctl.training.config.schema import Config
from ganctl.training.readers.tree import printable

THROUGHPUT = "train/images_per_second"


def train_scalars(stats: Mapping[str, float]) -> dict[str, float]:
    """Returns the mean losses of a log interval as `train/…`."""
    return _group("train", stats)


def evaluation_scalars(scores: Mapping[str, Any]) -> dict[str, float]:
    """Returns the scores of an evaluation as `validation/…` and `validation_class_accuracy/CLASS`."""
    by_class = scores.get("class_accuracy") or {}
    return _group("validation", scores) | _group("validation_class_accuracy", by_class)


def final_scalars(scores: Mapping[str, Any]) -> dict[str, float]:
    """Returns the reported scores as `test/…`, or as `val/…` if a limit ended the run."""
    return _group(scores["split"], scores)


def printable_settings(config: Config) -> dict[str, bool | int | float | str]:
    """Returns the preset and all settings that have a value; bytes of paths that are no UTF-8 are escaped."""
    values = {"preset": config.preset, **config.flat()}
    return {
        name: printable(value) if isinstance(value, str) else value
        for name, value in values.items()
        if isinstance(value, bool | int | float | str)
    }


def _group(group: str, values: Mapping[str, Any]) -> dict[str, float]:
    return {f"{group}/{name}": value for name, value in values.items() if isinstance(value, float)}
