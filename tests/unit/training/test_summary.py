"""The words at the end of a run are true of its scores."""

from typing import Any

import pytest

from ganctl.training.evaluation.summary import needs_more_training, summary


def scores(times: float, accuracy: float | None = 0.99) -> dict[str, Any]:
    return {"fd": 4.0 * times, "fd_floor": 4.0, "label_accuracy": accuracy}


@pytest.mark.parametrize(
    ("times", "told", "far"),
    [
        (1.0, "1.0 × the floor is as close to the real images as other real images are", False),
        (1.6, "1.6 × the floor is close: as a set, the images differ a little from real images", False),
        (2.1, "2.1 × the floor is at a visible distance: many images look real, but as a set they differ", True),
        (41.1, "41.1 × the floor is far: many images do not look real, or some kinds of real images are missing", True),
    ],
)
def test_the_distance_is_told_in_words(times: float, told: str, far: bool) -> None:
    assert summary(scores(times)) == told
    assert needs_more_training(scores(times)) == far


def test_labels_are_spoken_of_where_they_are_often_wrong() -> None:
    assert "reads 7 as another class than requested; 'sample --reject-misread'" in summary(scores(3, 0.93))
    assert "requested" not in summary(scores(3, 0.985))
    assert "requested" not in summary(scores(3, None))
    assert "--reject-misread" not in summary(scores(90, 0.1)), "there would be nothing left"
