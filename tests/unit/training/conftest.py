"""Fixtures shared by the tests of training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ganctl.training.config.registry import DATASETS
from ganctl.training.data import cache
from tests.unit.training.fake_clock import FakeClock

RegisterData = Callable[[str, Any], None]


@pytest.fixture
def data_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empties the caches of images, on disk and in memory; returns the folder of the one on disk."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache.clear_memory_cache()
    return tmp_path / "cache" / "ganctl" / "datasets"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The clock that training reads, in the hands of the test."""
    return FakeClock(monkeypatch)


@pytest.fixture
def register_data(monkeypatch: pytest.MonkeyPatch) -> RegisterData:
    """Returns a function that registers a data set for the duration of the test."""
    return lambda name, load: monkeypatch.setitem(DATASETS.entries, name, load)
