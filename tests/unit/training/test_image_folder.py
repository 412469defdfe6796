"""Class folders of images are read once into a cached tensor, and again after each change."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganctl.training.data import image_folder
from ganctl.training.data.datasets import data_digest
from tests.unit.training.decoded import decode
from tests.unit.training.folders import fill, of, paint, posix, read

pytestmark = pytest.mark.usefixtures("data_cache")


def test_class_folders_are_split_by_a_shuffle_that_keeps_each_class_in_proportion(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    parts = {split: read(root, split) for split in ("train", "val", "test")}
    assert {split: torch.bincount(part.labels).tolist() for split, part in parts.items()} == {
        "train": [16, 16], "val": [2, 2], "test": [2, 2],
    }  # fmt: skip
    assert parts["train"].class_names == ("cat", "dog")
    assert parts["train"].shape == (3, 28, 28)
    everything = {image.numpy().tobytes() for part in parts.values() for image in part.images}
    assert len(everything) == 40


def test_an_image_of_the_configured_size_is_unchanged_to_the_last_bit(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    with Image.open(root / "dog/3.png") as image:
        expected = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
    parts = [read(root, split) for split in ("train", "val", "test")]
    pairs = [pair for part in parts for pair in zip(part.images, part.labels.tolist(), strict=True)]
    assert [label for pixels, label in pairs if pixels.equal(expected)] == [1]


def test_grayscale_images_have_1_channel_unless_data_channels_is_3(tmp_path: Path) -> None:
    gray, color = fill(tmp_path / "gray", mode="L"), fill(tmp_path / "color")
    assert [read(gray).shape[0], read(color).shape[0]] == [1, 3]
    assert [read(gray, channels=3).shape[0], read(color, channels=1).shape[0]] == [3, 1]
    assert read(color, size=64).shape == (3, 64, 64)


def test_the_files_are_read_once_and_cached_with_a_digest(tmp_path: Path, data_cache: Path) -> None:
    root = fill(tmp_path / "pets")
    first = read(root).images
    suffixes = sorted(path.suffix for path in data_cache.iterdir())
    assert suffixes == [".json", ".safetensors"]
    for path in root.rglob("*.png"):  # only the cache still has the pixels: sizes and times stay
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    image_folder.clear_memory_cache()
    assert torch.equal(read(root).images, first)


def test_a_folder_with_new_files_is_read_again_and_has_another_digest(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    before, digest = len(read(root)), data_digest(of(root))
    for i in range(30):
        paint(root / "cat" / f"new {i}.png", seed=1000 + i)
    assert len(read(root)) == before + 24  # a fifth of 50 files is in the other splits
    assert data_digest(of(root)) != digest


def edit(root: Path) -> None:
    """Changes the pixels of a file, and not its size."""
    file = root / "cat/3.png"
    before = file.stat()
    paint(file, seed=77)
    assert file.stat().st_size == before.st_size, "PNG does not compress noise"
    os.utime(file, (before.st_atime, before.st_mtime + 2))  # some file systems store times in units of 2 s


CHANGES: dict[str, Callable[[Path], object]] = {
    "edited": edit,
    "deleted": lambda root: (root / "cat/3.png").unlink(),
    "renamed": lambda root: (root / "cat/3.png").rename(root / "cat/new.png"),
    "a class renamed": lambda root: (root / "cat").rename(root / "lion"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_is_read_again_after_each_kind_of_change(
    change: str, tmp_path: Path, data_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def count_reads() -> int:  # a read announces the file of the cache that it writes
        return sum(str(data_cache) in message for message in caplog.messages)

    root = fill(tmp_path / "pets", images=10)
    read(root)
    read(root)
    assert count_reads() == 1
    CHANGES[change](root)
    pixels = {image.numpy().tobytes() for split in ("train", "val", "test") for image in read(root, split).images}
    assert count_reads() == 2
    assert pixels == {decode(path, 28, gray=False).tobytes() for path in root.rglob("*.png")}


def test_folders_that_differ_only_in_pixels_are_cached_separately(tmp_path: Path) -> None:
    # PNG files of noise have equal sizes, and a copy of a data set may keep the times
    first, second = fill(tmp_path / "a", images=5), tmp_path / "b"
    for number, path in enumerate(sorted(first.rglob("*.png"))):
        other = second / path.relative_to(first)
        paint(other, seed=500 + number)
        status = path.stat()
        assert other.stat().st_size == status.st_size
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not torch.equal(read(first).images, read(second).images)


def test_a_moved_folder_keeps_the_digest_that_identifies_its_scoring_classifier(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    digest = data_digest(of(root))
    assert data_digest(of(root.rename(tmp_path / "animals"))) == digest
    assert data_digest(of(tmp_path / "animals", channels=1)) != digest


def test_a_damaged_cache_file_is_reported_and_replaced(
    tmp_path: Path, data_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill(tmp_path / "pets")
    first = read(root).images
    (file,) = data_cache.glob("*.safetensors")
    intact = file.read_bytes()
    file.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    image_folder.clear_memory_cache()
    with caplog.at_level(logging.WARNING):
        assert torch.equal(read(root).images, first)
    assert any(str(file) in message and "damaged" in message for message in caplog.messages)
    assert file.read_bytes() == intact


@posix
@pytest.mark.parametrize("failing", ["disk", "folder", "home"])
def test_images_are_read_without_a_writable_cache_and_the_reason_is_reported(
    failing: str, tmp_path: Path, data_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import resource

    root = fill(tmp_path / "pets")
    if failing == "folder":
        (tmp_path / "cache").write_text("a file")
    if failing == "home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", "")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if failing == "disk":  # files of 1,000 bytes fit
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        assert len(read(root)) == 32
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    reason = {"disk": "File too large", "folder": "Not a directory", "home": "XDG_CACHE_HOME"}[failing]
    assert reason in caplog.text
    if failing == "disk":
        assert not list(data_cache.rglob("*.safetensors*")), "no partial file is left"


@posix
def test_worker_processes_do_not_hold_one_file_descriptor_for_each_image(tmp_path: Path) -> None:
    import resource

    root = fill(tmp_path / "pets", images=300)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 60, hard))
    try:
        assert len(read(root, num_workers=2)) == 480
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_worker_processes_read_the_same_images(tmp_path: Path, data_cache: Path) -> None:
    root = fill(tmp_path / "pets", images=50)
    expected = read(root).images
    for path in data_cache.iterdir():
        path.unlink()
    image_folder.clear_memory_cache()
    assert torch.equal(read(root, num_workers=2).images, expected)
