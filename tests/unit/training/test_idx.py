"""Gzip-compressed IDX files are decompressed once; copies in the cache are found and checked by digests."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ganctl.training.data.idx import read_idx

PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def write(path: Path, pixels: np.ndarray) -> Path:
    header = bytes((0, 0, 8, pixels.ndim)) + b"".join(n.to_bytes(4, "big") for n in pixels.shape)
    path.write_bytes(gzip.compress(header + pixels.tobytes()))
    return path


def forbid_decompression(monkeypatch: pytest.MonkeyPatch) -> None:
    def decompress(packed: bytes) -> bytes:
        raise AssertionError("decompressed again")

    monkeypatch.setattr("ganctl.training.data.idx.gzip.decompress", decompress)


def test_a_gzip_file_is_decompressed_once(tmp_path: Path, data_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "some-idx3-ubyte.gz", PIXELS)
    assert np.array_equal(read_idx(path, PIXELS.shape), PIXELS)
    assert len(list(data_cache.iterdir())) == 1
    forbid_decompression(monkeypatch)
    assert np.array_equal(read_idx(path, PIXELS.shape), PIXELS)


def test_files_of_equal_name_and_other_content_have_separate_copies(tmp_path: Path, data_cache: Path) -> None:
    path = write(tmp_path / "some-idx3-ubyte.gz", PIXELS)
    read_idx(path, PIXELS.shape)
    assert np.array_equal(read_idx(write(path, PIXELS + 1), PIXELS.shape), PIXELS + 1)
    assert len(list(data_cache.iterdir())) == 2


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: raw[:-1] + b"x", lambda raw: b""])
def test_a_damaged_copy_in_the_cache_is_replaced(
    tmp_path: Path, data_cache: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = write(tmp_path / "some-idx3-ubyte.gz", PIXELS)
    read_idx(path, PIXELS.shape)
    (copy,) = data_cache.iterdir()
    intact = copy.read_bytes()
    copy.write_bytes(damage(intact))
    assert np.array_equal(read_idx(path, PIXELS.shape), PIXELS)
    assert copy.read_bytes() == intact


def test_an_idx_file_is_read_without_a_usable_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert np.array_equal(read_idx(write(tmp_path / "some-idx3-ubyte.gz", PIXELS), PIXELS.shape), PIXELS)
