"""The classification accuracy score: what a classifier that has seen only generated images makes of real ones."""

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

FEW = 1000


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, register_data: RegisterData) -> DataSettings:
    """A thousand digits to learn from, a thousand to test with."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("ganctl.training.evaluation.train_classifier.MIN_STEPS", 60)

    def load(settings: DataSettings, split: Split) -> ImageSet:
        return part("train" if split == "train" else "test", 0)

    register_data("few", load)
    return DataSettings(name="few")


def part(split: Split, start: int) -> ImageSet:
    whole = load_split(DataSettings(), split)
    chosen = slice(start, start + FEW)
    return ImageSet(whole.images[chosen], whole.labels[chosen], whole.class_names)


def test_images_as_good_as_real_ones_have_no_gap_and_the_real_side_is_trained_once(few: DataSettings) -> None:
    told: list[str] = []
    store = TensorCache(told.append)
    other = part("train", 20_000)
    before = torch.get_rng_state()
    scores = classification_accuracy(other, few, cache=store, announce=told.append)
    assert torch.equal(torch.get_rng_state(), before), "others' random numbers are left alone"
    assert scores["cas_real"] > 0.8
    assert abs(scores["cas_gap"]) < 0.06
    assert scores["cas_gap"] == scores["cas_real"] - scores["cas"]
    assert (scores["cas_n"], scores["cas_n_real"]) == (FEW, FEW)
    assert any("1,000 real images, once" in text for text in told)
    told.clear()
    again = classification_accuracy(other, few, cache=store, announce=told.append)
    assert again == scores
    assert not any("real images" in text for text in told)
    assert any("steps" in text for text in told), "a person is told how far it is"


def test_images_without_their_classes_teach_nothing(few: DataSettings) -> None:
    real = part("train", 20_000)
    mixed = ImageSet(real.images, real.labels.roll(1), real.class_names)
    scores = classification_accuracy(mixed, few, cache=TensorCache(lambda text: None))
    assert scores["cas"] < 0.4
    assert scores["cas_gap"] > 0.4


def test_a_class_without_images_is_told(few: DataSettings) -> None:
    real = part("train", 0)
    keep = real.labels != 3
    with pytest.raises(DataError, match="no images of the classes 3"):
        classification_accuracy(
            ImageSet(real.images[keep], real.labels[keep], real.class_names), few, cache=TensorCache(lambda text: None)
        )
