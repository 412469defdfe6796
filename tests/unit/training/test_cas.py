"""Classification accuracy score: accuracy on real images of a classifier trained on generated images alone."""

from pathlib import Path

import pytest
import torch

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet, Split
from ganctl.training.data.datasets import load_split
from ganctl.training.errors import DataError
from ganctl.training.evaluation.cache import TensorCache
from ganctl.training.evaluation.cas import classification_accuracy
from tests.unit.training.conftest import RegisterData

COUNT = 1000


@pytest.fixture
def small_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, register_data: RegisterData) -> DataSettings:
    """Data set of 1,000 training and 1,000 test digits."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("ganctl.training.evaluation.train_classifier.MIN_STEPS", 60)

    def load(settings: DataSettings, split: Split) -> ImageSet:
        return part("train" if split == "train" else "test", 0)

    register_data("small", load)
    return DataSettings(source="small")


def part(split: Split, start: int) -> ImageSet:
    whole = load_split(DataSettings(), split)
    chosen = slice(start, start + COUNT)
    return ImageSet(whole.images[chosen], whole.labels[chosen], whole.class_names)


@pytest.mark.soak
def test_real_images_have_no_gap_and_the_real_score_is_computed_once(small_data: DataSettings) -> None:
    messages: list[str] = []
    store = TensorCache(messages.append)
    other = part("train", 20_000)
    before = torch.get_rng_state()
    scores = classification_accuracy(other, small_data, cache=store, announce=messages.append)
    assert torch.equal(torch.get_rng_state(), before), "it drew from the random numbers of its caller"
    assert scores["cas_real"] > 0.8
    assert abs(scores["cas_gap"]) < 0.06
    assert scores["cas_gap"] == scores["cas_real"] - scores["cas"]
    assert (scores["cas_n"], scores["cas_n_real"]) == (COUNT, COUNT)
    assert any("1,000 real images" in message for message in messages)
    messages.clear()
    again = classification_accuracy(other, small_data, cache=store, announce=messages.append)
    assert again == scores
    assert not any("real images" in message for message in messages)
    assert any("steps" in message for message in messages), "no message about the progress"


def test_images_with_wrong_labels_score_low(small_data: DataSettings) -> None:
    real = part("train", 20_000)
    mixed = ImageSet(real.images, real.labels.roll(1), real.class_names)
    scores = classification_accuracy(mixed, small_data, cache=TensorCache(lambda text: None))
    assert scores["cas"] < 0.4
    assert scores["cas_gap"] > 0.4


def test_a_class_without_images_is_named_in_the_error(small_data: DataSettings) -> None:
    real = part("train", 0)
    keep = real.labels != 3
    fakes = ImageSet(real.images[keep], real.labels[keep], real.class_names)
    with pytest.raises(DataError, match=r"^--cas: .*\b3\b"):
        classification_accuracy(fakes, small_data, cache=TensorCache(lambda text: None))
