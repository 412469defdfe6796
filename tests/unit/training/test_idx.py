"""IDX files are read plain or packed; gzip files of named data sets are decompressed once, with copies in the cache."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet
from ganctl.training.data.datasets import load_split
from ganctl.training.errors import DataError
from ganctl.training.readers.idx import parse_idx

PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
COUNT = 10_000  # images of the test split

Load = Callable[[Path], ImageSet]


def idx(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("array", [PIXELS, PIXELS[:, 0, 0], PIXELS[:0], PIXELS[None]])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_file_gives_its_array(array: np.ndarray, pack: Callable[[bytes], bytes]) -> None:
    assert np.array_equal(parse_idx(Path("some-idx3-ubyte"), pack(idx(array))), array)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"\bnothing\b.*\b000008\b"),
        (b"\0\0\x0d\x03" + bytes(40), r"\b00000d03\b.*\b000008\b"),  # floats
        (b"\0\0\x08\x05" + bytes(40), r"\b00000805\b"),
        (b"\0\0\x08\x03", r"\b4 bytes\b"),
        (idx(PIXELS)[:-1], r"\b33 bytes\b.*\b34\b.*\(2, 3, 3\)"),
        (idx(PIXELS) + b"x", r"\b35 bytes\b.*\b34\b.*\(2, 3, 3\)"),
        (b"\0\0\x08\x03" + b"\xff" * 12, r"\b16 bytes\b"),
        (gzip.compress(idx(PIXELS), mtime=0)[:-9], r"\bgzip\b"),
        (b"\x1f\x8bnot gzip", r"\bgzip\b"),
    ],
)
def test_the_error_for_a_damaged_file_names_it_and_states_its_content(content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=rf"^/x/some-idx3-ubyte: .*{reason}"):
        parse_idx(Path("/x/some-idx3-ubyte"), content)


def write_test_split(folder: Path, gray: int = 0) -> Path:
    """Writes the packed files of a test split, of which each image has one gray level; returns the folder."""
    folder.mkdir(exist_ok=True)
    grays = ((np.arange(COUNT) + gray) % 256).astype(np.uint8)
    images = np.broadcast_to(grays[:, None, None], (COUNT, 28, 28))
    for name, array in (("images-idx3", images), ("labels-idx1", grays % 10)):
        (folder / f"t10k-{name}-ubyte.gz").write_bytes(gzip.compress(idx(array), 1, mtime=0))
    return folder


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Returns a function that reads the test split from a folder; a folder that was read before stays in memory."""

    def load(folder: Path) -> ImageSet:
        monkeypatch.setenv("PATH_DATASETS", str(folder))
        return load_split(DataSettings(source="kmnist"), "test")

    return load


def grays(data: ImageSet) -> list[int]:
    """The gray levels of the first images."""
    return data.images[:3, 0, 0, 0].tolist()


def test_a_gzip_file_is_decompressed_once(
    tmp_path: Path, data_cache: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert grays(load(write_test_split(tmp_path / "a"))) == [0, 1, 2]
    assert len(list(data_cache.iterdir())) == 2, "images and labels"
    shutil.copytree(tmp_path / "a", tmp_path / "b")

    def decompress(packed: bytes) -> bytes:
        raise AssertionError("decompressed again")

    monkeypatch.setattr(gzip, "decompress", decompress)
    assert grays(load(tmp_path / "b")) == [0, 1, 2]


def test_files_of_equal_name_and_other_content_have_separate_copies(
    tmp_path: Path, data_cache: Path, load: Load
) -> None:
    assert grays(load(write_test_split(tmp_path / "a"))) == [0, 1, 2]
    assert grays(load(write_test_split(tmp_path / "b", gray=7))) == [7, 8, 9]
    assert len(list(data_cache.iterdir())) == 4


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: raw[:-1] + b"x", lambda raw: b""])
def test_a_damaged_copy_in_the_cache_is_replaced(
    tmp_path: Path, data_cache: Path, damage: Callable[[bytes], bytes], load: Load
) -> None:
    load(write_test_split(tmp_path / "a"))
    copies = sorted(data_cache.iterdir())
    intact = [copy.read_bytes() for copy in copies]
    for copy, content in zip(copies, intact, strict=True):
        copy.write_bytes(damage(content))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert grays(load(tmp_path / "b")) == [0, 1, 2]
    assert [copy.read_bytes() for copy in copies] == intact


def test_packed_files_are_read_without_a_usable_cache_folder(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert grays(load(write_test_split(tmp_path / "a"))) == [0, 1, 2]
