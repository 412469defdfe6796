"""The cache of real-image statistics: equal to computed ones, keyed by all inputs, and optional."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet, Split, fixed_permutation
from ganctl.training.data.datasets import load_split
from ganctl.training.evaluation.cache import TensorCache
from ganctl.training.evaluation.classifier import load_classifier
from ganctl.training.evaluation.evaluator import Evaluator
from ganctl.training.evaluation.scorer import ClassifierScorer, FeatureScorer, Scorer
from tests.unit.training.conftest import RegisterData
from tests.unit.training.digits import CPU, digits_classifier, digits_scorer

N = 100


@pytest.fixture
def messages() -> list[str]:
    """Collects the messages of the cache."""
    return []


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]) -> TensorCache:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return TensorCache(messages.append)


@pytest.fixture
def fakes() -> Tensor:
    return load_split(DataSettings(), "val").images[:N]


def folder(cache: TensorCache) -> Path:
    path = cache.path({})
    assert path is not None
    return path.parent


def cached_files(cache: TensorCache) -> list[Path]:
    return sorted(folder(cache).iterdir())


def test_scores_with_cached_statistics_equal_scores_with_computed_ones(
    cache: TensorCache, messages: list[str], fakes: Tensor
) -> None:
    def score(cache: TensorCache | None) -> dict[str, Any]:
        evaluator = Evaluator(DataSettings(), "test", num_images=N, cache=cache, scorer=digits_scorer())
        return evaluator.score_images(fakes, None)

    uncached, first = score(None), score(cache)
    times = [path.stat().st_mtime_ns for path in cached_files(cache)]
    second = score(cache)
    assert uncached == first == second
    assert len(times) == 1
    assert [path.stat().st_mtime_ns for path in cached_files(cache)] == times  # only read
    assert messages == []


def test_other_pixels_splits_numbers_of_images_scorers_measures_and_formats_have_other_files(
    cache: TensorCache, monkeypatch: pytest.MonkeyPatch, register_data: RegisterData
) -> None:
    def count(n: int = N, split: Split = "test", data: str = "mnist", scorer: Scorer | None = None) -> int:
        Evaluator(DataSettings(source=data), split, num_images=n, cache=cache, scorer=scorer or digits_scorer())
        return len(cached_files(cache))

    assert count() == 1
    assert count(n=N - 1) == 2
    assert count(split="val") == 3
    first_used = {"test": int(fixed_permutation(10_000)[0]), "train": int(fixed_permutation(55_000)[0])}

    def register_with_other_pixel(changed: str) -> None:
        def load(settings: DataSettings, split: Split) -> ImageSet:
            real = load_split(DataSettings(), split)
            if split != changed:
                return real
            images = real.images.clone()
            images[first_used[split], 0, 14, 14] ^= 1
            return replace(real, images=images)

        register_data("changed", load)

    for number, changed in ((4, "test"), (5, "train")):
        register_with_other_pixel(changed)
        assert count(data="changed") == number
    classifier = digits_classifier()
    assert count(scorer=FeatureScorer(replace(classifier, bias=classifier.bias + 1), CPU)) == 6
    assert count(scorer=FeatureScorer(None, CPU)) == 7
    assert count(scorer=ClassifierScorer(load_classifier(DataSettings()), CPU)) == 8
    monkeypatch.setattr(FeatureScorer, "measure", 99)
    assert count() == 9
    monkeypatch.setattr("ganctl.training.evaluation.cache.FORMAT", 99)
    assert count() == 10


def tensors() -> dict[str, Tensor]:
    return {"a": torch.arange(1000.0), "b": torch.tensor(0.5, dtype=torch.float64)}


@pytest.mark.parametrize("damage", ["truncated", "flipped bit", "other content"])
def test_a_damaged_cache_file_is_reported_and_computed_again(
    cache: TensorCache, messages: list[str], damage: str
) -> None:
    cache.get_or_compute({"key": "x"}, tensors)
    (path,) = cached_files(cache)
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[-5] ^= 1
    path.write_bytes(
        {"truncated": content[:-100], "flipped bit": bytes(flipped), "other content": b"something else"}[damage]
    )
    computed = cache.get_or_compute({"key": "x"}, tensors)
    assert all(torch.equal(computed[name], tensor) for name, tensor in tensors().items())
    assert str(path) in messages[0]
    assert "damaged" in messages[0]
    assert path.read_bytes() == content


def test_an_unwritable_cache_is_reported_once_and_the_tensors_are_computed(
    cache: TensorCache, messages: list[str]
) -> None:
    root = folder(cache).parent.parent
    root.write_text("a file where a folder should be")
    for _ in range(2):
        assert torch.equal(cache.get_or_compute({"key": "x"}, tensors)["a"], tensors()["a"])
    assert len(messages) == 1
    assert str(root) in messages[0]
    assert "Not a directory" in messages[0]


def test_concurrent_threads_can_write_and_read_the_same_file(cache: TensorCache, messages: list[str]) -> None:
    path = cache.path({"key": "x"})
    assert path is not None

    def delete_or_read(i: int) -> bool:
        if i % 4 == 0:
            path.unlink(missing_ok=True)
        return torch.equal(cache.get_or_compute({"key": "x"}, tensors)["a"], tensors()["a"])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(delete_or_read, range(1000)))
    assert messages == []
    assert cached_files(cache) == [path]  # no temporary file is left


def test_an_evaluator_without_a_cache_writes_no_file(cache: TensorCache) -> None:
    Evaluator(DataSettings(), "val", num_images=N, scorer=digits_scorer())
    assert not folder(cache).exists()
