"""The summary at the end of a run matches its scores."""

import re
from typing import Any

import pytest

from ganctl.training.evaluation.summary import needs_more_training, summary


def scores(ratio: float, accuracy: float | None = 0.99) -> dict[str, Any]:
    return {"fd": 4.0 * ratio, "fd_floor": 4.0, "label_accuracy": accuracy}


@pytest.mark.parametrize(
    ("ratio", "words", "more_training"),
    [
        (1.0, "1.0 × .* as close ", False),
        (1.6, "1.6 × .* is close", False),
        (2.1, "2.1 × .* visible distance", True),
        (41.1, "41.1 × .* is far", True),
    ],
)
def test_the_summary_describes_the_distance(ratio: float, words: str, more_training: bool) -> None:
    assert re.match(words, summary(scores(ratio)))
    assert needs_more_training(scores(ratio)) == more_training


def test_the_summary_mentions_wrong_labels_only_if_they_are_frequent() -> None:
    distance = summary(scores(3, None))
    assert re.search(r"\b7\b.*--reject-misread", summary(scores(3, 0.93)).removeprefix(distance))
    assert summary(scores(3, 0.985)) == distance
    assert "--reject-misread" not in summary(scores(90, 0.1)), "it would reject nearly all images"
