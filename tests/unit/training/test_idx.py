"""IDX files in gzip are decompressed once, and what is kept of them is never taken for something else."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from ganctl.training.data.idx import read_idx

PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def write(path: Path, pixels: np.ndarray) -> Path:
    header = bytes((0, 0, 8, pixels.ndim)) + b"".join(n.to_bytes(4, "big") for n in pixels.shape)
    path.write_bytes(gzip.compress(header + pixels.tobytes()))
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/ganctl/datasets"


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def decompress(packed: bytes) -> bytes:
        raise AssertionError("it has been decompressed before")

    monkeypatch.setattr("ganctl.training.data.idx.gzip.decompress", decompress)


def test_a_file_is_decompressed_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "some-idx3-ubyte.gz", PIXELS)
    assert np.array_equal(read_idx(path, PIXELS.shape), PIXELS)
    assert len(list(cache.iterdir())) == 1
    forbid(monkeypatch)
    assert np.array_equal(read_idx(path, PIXELS.shape), PIXELS)


def test_another_file_of_the_name_is_another_file(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "some-idx3-ubyte.gz", PIXELS)
    read_idx(path, PIXELS.shape)
    assert np.array_equal(read_idx(write(path, PIXELS + 1), PIXELS.shape), PIXELS + 1)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: raw[:-1] + b"x", lambda raw: b""])
def test_what_was_damaged_in_the_cache_is_made_anew(tmp_path: Path, cache: Path, damage: object) -> None:
    path = write(tmp_path / "some-idx3-ubyte.gz", PIXELS)
    read_idx(path, PIXELS.shape)
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))  # type: ignore[operator]  # pytest's parameters have no types
    assert np.array_equal(read_idx(path, PIXELS.shape), PIXELS)
    assert kept.read_bytes() == whole


def test_without_a_cache_it_is_read_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert np.array_equal(read_idx(write(tmp_path / "some-idx3-ubyte.gz", PIXELS), PIXELS.shape), PIXELS)
