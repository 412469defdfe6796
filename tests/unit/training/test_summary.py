"""The summary at the end of a run matches its scores."""

import re
from typing import Any

import pytest

from ganctl.training.evaluation.summary import needs_more_training, score_line, summary


def scores(kid: float, accuracy: float | None = 0.99, error: float = 0.004, **more: Any) -> dict[str, Any]:
    facts = {"split": "test", "scorer_accuracy": None if accuracy is None else 0.99, "scorer_weak": False}
    distances = {"fd": 10.0, "fd_floor": 4.0, "fd_ratio": 2.5, "kid": kid, "kid_se": error}
    return distances | {"label_accuracy": accuracy, "no_summary": None} | facts | more


@pytest.mark.parametrize(
    ("kid", "words", "more_training"),
    [
        (-0.003, r"-0\.003 is as close ", False),
        (0.012, r"0\.012 is as close ", False),
        (0.1, r"0\.100 is close", False),
        (0.4, r"0\.400 is at a visible distance", True),
        (41.1, r"41\.100 is far", True),
    ],
)
def test_the_summary_describes_the_distance(kid: float, words: str, more_training: bool) -> None:
    assert re.match(f"a KID of {words}", summary(scores(kid)))
    assert needs_more_training(scores(kid)) == more_training


def test_a_distance_within_two_standard_errors_counts_as_none() -> None:
    assert "as close" in summary(scores(0.5, error=0.3))
    assert not needs_more_training(scores(0.5, error=0.3))
    assert "visible" in summary(scores(0.5, error=0.2))
    assert needs_more_training(scores(0.5, error=0.2))


def test_a_generator_that_copies_is_not_to_be_trained_longer() -> None:
    assert needs_more_training(scores(3, near_copies=0.049))
    assert needs_more_training(scores(3, near_copies=None))
    assert not needs_more_training(scores(3, near_copies=0.05))


def test_scores_with_a_reason_have_no_summary() -> None:
    absent = {"kid": None, "kid_se": None, "fd_floor": None, "fd_ratio": None}
    without = scores(3) | absent | {"no_summary": "found 12 images"}
    assert summary(without) == "no summary: found 12 images"
    assert not needs_more_training(without)
    assert "KID" not in score_line(without)


def test_the_summary_mentions_wrong_labels_only_if_they_are_frequent() -> None:
    distance = summary(scores(3, None))
    assert re.search(r"\b7\b.*\b1\b.*--reject-misread", summary(scores(3, 0.93)).removeprefix(distance))
    assert summary(scores(3, 0.975)) == distance
    assert "--reject-misread" not in summary(scores(90, 0.1)), "it would reject nearly all images"


def test_the_line_of_scores_names_kid_its_standard_error_and_the_accuracy_of_the_classifier() -> None:
    line = score_line(scores(0.4, 0.93))
    for part in ("10.00", "2.5 × the floor 4.00", "KID 0.400 ± 0.004", "93.0%", "99.0%", "test images"):
        assert part in line
    assert "weak" not in line
    assert "weak" in score_line(scores(0.4, 0.93, scorer_weak=True))
    assert "classifier" not in score_line(scores(0.4, None))
    unlabeled = score_line(scores(0.4, None, scorer_accuracy=0.99))
    assert unlabeled.endswith("KID 0.400 ± 0.004; the label classifier reads 99.0% of held-out images right")


def test_scores_of_an_earlier_version_have_a_line() -> None:
    earlier = {"split": "val", "fd": 8.0, "fd_floor": 4.0, "label_accuracy": 0.97}
    assert "2.0 × the floor" in score_line(earlier)
