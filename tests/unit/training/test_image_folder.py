"""One's own images: class folders become tensors, once; what is kept of them follows every change."""

import logging
import os
import re
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


def test_an_image_of_the_wanted_size_is_kept_to_the_last_bit(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    with Image.open(root / "dog/3.png") as picture:
        expected = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())
    found = [read(root, split) for split in ("train", "val", "test")]
    pairs = [pair for part in found for pair in zip(part.images, part.labels.tolist(), strict=True)]
    assert [label for image, label in pairs if image.equal(expected)] == [1]


def test_grey_images_have_one_channel_unless_three_are_asked_for(tmp_path: Path) -> None:
    grey, colour = fill(tmp_path / "grey", mode="L"), fill(tmp_path / "colour")
    assert [read(grey).shape[0], read(colour).shape[0]] == [1, 3]
    assert [read(grey, channels=3).shape[0], read(colour, channels=1).shape[0]] == [3, 1]
    assert read(colour, size=64).shape == (3, 64, 64)


def test_the_files_are_read_once_and_kept_with_a_digest(tmp_path: Path, data_cache: Path) -> None:
    root = fill(tmp_path / "pets")
    first = read(root).images
    kept = sorted(path.suffix for path in data_cache.iterdir())
    assert kept == [".json", ".safetensors"]
    for path in root.rglob("*.png"):  # only the cache can know the pixels now: sizes and times stay
        facts = path.stat()
        path.write_bytes(bytes(facts.st_size))
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    image_folder.clear_memory_cache()
    assert torch.equal(read(root).images, first)


def test_a_folder_that_changed_is_read_anew(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    before, digest = len(read(root)), data_digest(of(root))
    for i in range(30):
        paint(root / "cat" / f"new {i}.png", seed=1000 + i)
    assert len(read(root)) == before + 24  # of 50 files a fifth goes to the other splits
    assert data_digest(of(root)) != digest


def edit(root: Path) -> None:
    """Other pixels in a file of the same size."""
    file = root / "cat/3.png"
    before = file.stat()
    paint(file, seed=77)
    assert file.stat().st_size == before.st_size, "noise is stored as it is"
    os.utime(file, (before.st_atime, before.st_mtime + 2))  # some file systems know no shorter times


CHANGES: dict[str, Callable[[Path], object]] = {
    "edited": edit,
    "deleted": lambda root: (root / "cat/3.png").unlink(),
    "renamed": lambda root: (root / "cat/3.png").rename(root / "cat/new.png"),
    "a class renamed": lambda root: (root / "cat").rename(root / "lion"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_of_a_folder_is_seen(change: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = fill(tmp_path / "pets", images=10)
    read(root)
    read(root)
    assert caplog.text.count("reading ") == 1
    CHANGES[change](root)
    seen = {image.numpy().tobytes() for split in ("train", "val", "test") for image in read(root, split).images}
    assert caplog.text.count("reading ") == 2
    assert seen == {decode(path, 28, gray=False).tobytes() for path in root.rglob("*.png")}


def test_folders_that_differ_in_pixels_alone_are_not_taken_for_one_another(tmp_path: Path) -> None:
    # noise in PNG files has the same size; a copy of a data set may keep the times
    first, second = fill(tmp_path / "a", images=5), tmp_path / "b"
    for number, path in enumerate(sorted(first.rglob("*.png"))):
        twin = second / path.relative_to(first)
        paint(twin, seed=500 + number)
        facts = path.stat()
        assert twin.stat().st_size == facts.st_size
        os.utime(twin, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert not torch.equal(read(first).images, read(second).images)


def test_the_scoring_classifier_of_a_folder_that_was_moved_is_kept(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    digest = data_digest(of(root))
    assert data_digest(of(root.rename(tmp_path / "animals"))) == digest
    assert data_digest(of(tmp_path / "animals", channels=1)) != digest


def test_a_damaged_cache_is_told_and_made_anew(
    tmp_path: Path, data_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill(tmp_path / "pets")
    first = read(root).images
    (file,) = data_cache.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    image_folder.clear_memory_cache()
    with caplog.at_level(logging.WARNING):
        assert torch.equal(read(root).images, first)
    assert "is damaged (found the SHA-256" in caplog.text


@posix
@pytest.mark.parametrize("failing", ["disk", "folder", "home"])
def test_a_cache_that_cannot_be_written_stops_nothing(
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
    reason = {"disk": "File too large", "folder": "Not a directory", "home": "no cache folder"}[failing]
    assert re.search(rf"{reason}.*; the images cannot be cached, and the next run reads them", caplog.text)
    assert failing != "disk" or not list(data_cache.rglob("*.safetensors*")), "something is left"


@posix
def test_reading_with_workers_takes_no_descriptor_for_an_image(tmp_path: Path) -> None:
    import resource

    root = fill(tmp_path / "pets", images=300)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 60, hard))
    try:
        assert len(read(root, num_workers=2)) == 480
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_worker_processes_read_the_same(tmp_path: Path, data_cache: Path) -> None:
    root = fill(tmp_path / "pets", images=50)
    alone = read(root).images
    for path in data_cache.iterdir():
        path.unlink()
    image_folder.clear_memory_cache()
    assert torch.equal(read(root, num_workers=2).images, alone)
