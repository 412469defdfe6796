"""The label classifier: its accuracy, its repeatability, and its cache."""

from pathlib import Path

import pytest
import torch

from ganctl.training.config.schema import DataSettings
from ganctl.training.evaluation import label_classifier
from ganctl.training.evaluation.label_classifier import LabelClassifier, fit, load_label_classifier
from ganctl.training.evaluation.scorer import load_scorer
from tests.unit.training.conftest import RegisterData
from tests.unit.training.digits import CPU, load_digits

DIGITS = DataSettings(source="test-digits")


@pytest.fixture
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, register_data: RegisterData) -> Path:
    """An empty cache, and the data set DIGITS."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    register_data("test-digits", load_digits)
    return tmp_path / "cache"


def load(messages: list[str]) -> LabelClassifier:
    classifier = load_label_classifier(DIGITS, CPU, messages.append)
    assert classifier is not None
    return classifier


def forbid_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("the classifier was fitted again")

    monkeypatch.setattr(label_classifier, "fit", refuse)


def test_it_reads_985_of_1000_test_digits_right() -> None:
    classifier = load_label_classifier(DataSettings(), CPU)
    assert classifier is not None
    assert classifier.skill.accuracy >= 0.985
    assert classifier.skill.images == 10_000
    assert not classifier.skill.is_weak


def test_a_few_hundred_images_fit_a_useful_classifier_with_the_same_digest_each_time() -> None:
    train, test = load_digits(DIGITS, "train"), load_digits(DIGITS, "test")
    before = torch.get_rng_state()
    first, second = fit(train, test, CPU), fit(train, test, CPU)
    assert first.digest == second.digest
    assert first.skill == second.skill
    assert first.skill.accuracy > 0.85
    assert torch.equal(torch.get_rng_state(), before), "a training run goes on with the same random numbers"


def test_of_many_test_images_a_part_measures_the_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_classifier, "TEST_IMAGES", 100)
    skill = fit(load_digits(DIGITS, "train"), load_digits(DIGITS, "test"), CPU).skill
    assert skill.images == 100
    assert skill.accuracy > 0.8


def test_a_second_call_reads_the_same_classifier_from_the_cache(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    first = load(messages)
    (cached,) = cache_dir.rglob("label-classifiers/*.safetensors")
    assert str(cached) in messages[0]
    assert f"{first.skill.accuracy:.1%}" in messages[1]
    messages.clear()
    forbid_fits(monkeypatch)
    second = load(messages)
    assert messages == []
    assert second.digest == first.digest
    assert second.skill == first.skill
    assert load_scorer(DIGITS).digest == load_scorer(DIGITS).digest


def test_a_damaged_cache_file_is_reported_and_fitted_again(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_classifier, "TRAINING_IMAGES", 60)
    expected = load([]).digest
    (cached,) = cache_dir.rglob("label-classifiers/*.safetensors")
    flipped = bytearray(cached.read_bytes())
    flipped[-3] ^= 1
    for content in (bytes(flipped), b""):
        cached.write_bytes(content)
        messages: list[str] = []
        assert load(messages).digest == expected
        assert str(cached) in messages[0]
        assert "damaged" in messages[0]
        assert "fitting" in messages[1]
    with monkeypatch.context() as patch:
        forbid_fits(patch)
        assert load([]).digest == expected, "the new file is intact"


def test_a_cache_that_cannot_be_written_is_reported(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_classifier, "TRAINING_IMAGES", 60)
    cache_dir.write_text("a file where a folder should be")
    messages: list[str] = []
    load(messages)
    assert str(cache_dir) in messages[-1]
    assert "Not a directory" in messages[-1]
