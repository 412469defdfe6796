"""Fixtures of several files here."""

from pathlib import Path

import pytest

from ganctl.training import image_folder


@pytest.fixture
def data_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache of images that is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image_folder._load.cache_clear()
    return tmp_path / "cache" / "ganctl" / "datasets"
