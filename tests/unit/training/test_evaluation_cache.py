"""What is kept of the real images is what would be computed anew, is found only where nothing has changed, and never
stands in the way."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet, Split, fixed_permutation
from ganctl.training.data.datasets import load_split
from ganctl.training.evaluation.cache import TensorCache
from ganctl.training.evaluation.classifier import load_classifier
from ganctl.training.evaluation.evaluator import Evaluator
from tests.unit.training.conftest import RegisterData

N = 150


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]) -> TensorCache:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return TensorCache(told.append)


@pytest.fixture
def fakes() -> Tensor:
    return load_split(DataSettings(), "val").images[:N]


def folder(store: TensorCache) -> Path:
    assert store.folder is not None
    return store.folder


def kept(store: TensorCache) -> list[Path]:
    return sorted(folder(store).iterdir())


def test_scores_with_kept_statistics_are_those_with_fresh_ones(
    store: TensorCache, told: list[str], fakes: Tensor
) -> None:
    fresh = Evaluator(DataSettings(), "test", num_images=N).score_images(fakes, None)
    first = Evaluator(DataSettings(), "test", num_images=N, cache=store).score_images(fakes, None)
    times = [path.stat().st_mtime_ns for path in kept(store)]
    second = Evaluator(DataSettings(), "test", num_images=N, cache=store).score_images(fakes, None)
    assert fresh == first == second
    assert len(times) == 1
    assert [path.stat().st_mtime_ns for path in kept(store)] == times  # read, not written again
    assert told == []


def test_another_pixel_split_number_or_network_is_another_file(
    store: TensorCache, monkeypatch: pytest.MonkeyPatch, register_data: RegisterData
) -> None:
    def count(n: int = N, split: Split = "test", data: str = "mnist") -> int:
        Evaluator(DataSettings(name=data), split, num_images=n, cache=store, classifier=load_classifier(DataSettings()))
        return len(kept(store))

    assert count() == 1
    assert count(n=N - 1) == 2
    assert count(split="val") == 3
    # index of the first image in use
    where = {"test": int(fixed_permutation(10_000)[0]), "train": int(fixed_permutation(55_000)[0])}

    def harmed(changed: str) -> None:
        def load(settings: DataSettings, split: Split) -> ImageSet:
            real = load_split(DataSettings(), split)
            if split != changed:
                return real
            images = real.images.clone()
            images[where[split], 0, 14, 14] ^= 1
            return replace(real, images=images)

        register_data("harmed", load)

    for number, changed in ((4, "test"), (5, "train")):
        harmed(changed)
        assert count(data="harmed") == number
    classifier = load_classifier(DataSettings())
    with torch.no_grad():
        classifier.head.bias[0] += 1
    Evaluator(DataSettings(), "test", num_images=N, cache=store, classifier=classifier)
    assert len(kept(store)) == 6
    monkeypatch.setattr("ganctl.training.evaluation.cache.FORMAT", 99)
    assert count() == 7


def tensors() -> dict[str, Tensor]:
    return {"a": torch.arange(1000.0), "b": torch.tensor(0.5, dtype=torch.float64)}


@pytest.mark.parametrize("harm", ["cut", "flip", "foreign"])
def test_a_damaged_file_is_told_and_computed_anew(store: TensorCache, told: list[str], harm: str) -> None:
    store.get_or_compute({"what": "x"}, tensors)
    (path,) = kept(store)
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[-5] ^= 1
    path.write_bytes({"cut": content[:-100], "flip": bytes(flipped), "foreign": b"something else"}[harm])
    again = store.get_or_compute({"what": "x"}, tensors)
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors().items())
    assert str(path) in told[0]
    assert "is damaged" in told[0]
    assert path.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_told_and_costs_only_time(store: TensorCache, told: list[str]) -> None:
    folder(store).parent.parent.write_text("a file where a folder should be")
    assert torch.equal(store.get_or_compute({"what": "x"}, tensors)["a"], tensors()["a"])
    assert len(told) == 1
    assert "not cached" in told[0]


def test_many_may_write_and_read_the_same_at_once(store: TensorCache, told: list[str]) -> None:
    path = store.path({"what": "x"})
    assert path is not None

    def again(i: int) -> bool:
        if i % 4 == 0:
            path.unlink(missing_ok=True)
        return torch.equal(store.get_or_compute({"what": "x"}, tensors)["a"], tensors()["a"])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(again, range(1000)))
    assert told == []
    assert kept(store) == [path]  # nothing half written is left


def test_training_keeps_nothing_outside_of_its_run(store: TensorCache) -> None:
    Evaluator(DataSettings(), "val", num_images=N)
    assert not folder(store).exists()
