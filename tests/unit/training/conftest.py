"""Fixtures of several files here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ganctl.training.config.registry import DATASETS
from ganctl.training.data import image_folder

RegisterData = Callable[[str, Any], None]


@pytest.fixture
def data_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache of images that is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image_folder.clear_memory_cache()
    return tmp_path / "cache" / "ganctl" / "datasets"


@pytest.fixture
def register_data(monkeypatch: pytest.MonkeyPatch) -> RegisterData:
    """Registers a data set for one test."""
    return lambda name, load: monkeypatch.setitem(DATASETS.entries, name, load)
