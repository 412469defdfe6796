"""Folders of images are read once into a cached tensor, and again after each change; the pixels decide the splits."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganctl.training.data import cache
from ganctl.training.data.base import ImageSet
from ganctl.training.data.datasets import data_digest
from tests.unit.training.decoded import decode
from tests.unit.training.folders import fill, fill_flat, of, paint, posix, read, read_all

pytestmark = pytest.mark.usefixtures("data_cache")


def test_class_folders_are_split_by_a_fixed_shuffle_that_keeps_each_class_in_proportion(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    parts = {split: read(root, split) for split in ("train", "val", "test")}
    assert {split: torch.bincount(part.labels).tolist() for split, part in parts.items()} == {
        "train": [16, 16], "val": [2, 2], "test": [2, 2],
    }  # fmt: skip
    assert parts["train"].class_names == ("cat", "dog")
    assert parts["train"].shape == (3, 28, 28)
    everything = {image.numpy().tobytes() for part in parts.values() for image in part.images}
    assert len(everything) == 40


def test_a_folder_without_class_folders_is_an_unlabeled_set_and_is_split_as_well(tmp_path: Path) -> None:
    root = fill_flat(tmp_path / "pictures", images=40)
    parts = {split: read(root, split) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 32, "val": 4, "test": 4}
    assert [(part.class_names, part.num_classes, part.labels.any().item()) for part in parts.values()] == [
        ((), 1, False)
    ] * 3
    expected = {decode(path)[:3].tobytes() for path in root.iterdir()}
    assert {image.numpy().tobytes() for part in parts.values() for image in part.images} == expected


def test_names_of_files_and_their_order_do_not_change_the_splits(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    before = [read(root, split) for split in ("train", "val", "test")]
    for number, path in enumerate(sorted((root / "cat").iterdir(), reverse=True)):
        path.rename(path.with_name(f"z{number:02}.PNG"))
    for split, data in zip(("train", "val", "test"), before, strict=True):
        assert read(root, split).images.equal(data.images)
        assert read(root, split).labels.equal(data.labels)


@pytest.mark.parametrize("classes", [("cat", "dog"), ("cat",)])
def test_equal_images_are_in_one_split(classes: tuple[str, ...], tmp_path: Path) -> None:
    root = fill(tmp_path / "pets", classes=classes, images=30)
    for name in classes:
        for i in range(0, 30, 3):
            for copy in ("a", "b"):
                (root / name / f"{copy}{i}.png").write_bytes((root / name / f"{i}.png").read_bytes())
    parts = [read(root, split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [40 * len(classes), 5 * len(classes), 5 * len(classes)]
    assert_disjoint(parts)


def test_equal_images_are_in_one_split_although_each_occurs_twice_in_a_small_class(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets", images=3)
    for path in sorted(root.rglob("*.png")):
        path.with_name(f"copy of {path.name}").write_bytes(path.read_bytes())
    parts = [read(root, split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [4, 4, 4]
    assert_disjoint(parts)


def assert_disjoint(parts: list[ImageSet]) -> None:
    train, val, test = ({image.numpy().tobytes() for image in part.images} for part in parts)
    assert not train & val
    assert not train & test
    assert not val & test


def test_an_image_of_the_right_size_is_unchanged_to_the_last_bit(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    with Image.open(root / "dog/3.png") as image:
        expected = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
    data = read_all(root, size="auto")
    pairs = zip(data.images, data.labels.tolist(), strict=True)
    assert [label for pixels, label in pairs if pixels.equal(expected)] == [1]


@pytest.mark.parametrize(
    ("sides", "fit", "size"),
    [
        ([(64, 64)], "crop", 64),
        ([(48, 48)], "pad", 48),
        ([(50, 50)], "crop", 48),
        ([(200, 200)], "crop", 128),
        ([(9, 9)], "crop", 16),
        ([(40, 60), (30, 50), (90, 70)], "crop", 40),
        ([(40, 60), (30, 50), (90, 70)], "pad", 60),
        ([(17, 900)], "crop", 16),
    ],
)
def test_images_keep_their_size_or_get_the_nearest_allowed_one_below_their_median(
    sides: list[tuple[int, int]], fit: str, size: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(12):
        paint(tmp_path / "set" / f"{i}.png", size=sides[i % len(sides)], seed=i)
    assert read(tmp_path / "set", size="auto", fit=fit).shape == (3, size, size)
    lines = [message for message in caplog.messages if message.startswith("data.size = auto: ")]
    assert len(lines) == (sides != [(size, size)]), "told unless the images have this size"
    assert all(f"{size} × {size}" in line and f"data.fit = {fit}" in line for line in lines)


def test_grayscale_images_have_1_channel_unless_data_channels_is_3(tmp_path: Path) -> None:
    gray, color = fill(tmp_path / "gray", mode="L"), fill(tmp_path / "color")
    assert [read(gray).shape[0], read(color).shape[0]] == [1, 3]
    assert [read(gray, channels=3).shape[0], read(color, channels=1).shape[0]] == [3, 1]
    assert read(color, size=64).shape == (3, 64, 64)


def test_gray_pixels_in_color_files_have_1_channel(tmp_path: Path) -> None:
    for path in fill_flat(tmp_path / "set", mode="L").iterdir():
        with Image.open(path) as image:
            image.convert("RGB").save(path)
    assert read(tmp_path / "set").shape[0] == 1
    paint(tmp_path / "set/one.png", mode="RGB", seed=99)
    assert read(tmp_path / "set").shape[0] == 3


def test_color_images_become_gray_by_luma(tmp_path: Path) -> None:
    root = fill_flat(tmp_path / "set")
    expected = set()
    for path in root.iterdir():
        with Image.open(path) as image:
            expected.add(image.convert("L").tobytes())
    assert {image.numpy().tobytes() for image in read_all(root, channels=1).images} == expected


@pytest.mark.parametrize(("transparent", "channels"), [(0, 3), (1, 3), (2, 4), (40, 4)])
def test_a_set_has_4_channels_if_5_percent_of_its_images_are_transparent(
    transparent: int, channels: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill_flat(tmp_path / "set", images=40)
    for i in range(transparent):
        paint(root / f"{i:02}.png", mode="RGBA", seed=i)
    assert read(root).shape[0] == channels
    told = [message for message in caplog.messages if message.startswith("data.channels = 3: ")]
    assert len(told) == (transparent == 1), "lost transparency is told"
    if channels == 4:
        assert read(root, channels=3).shape[0] == 3, "the setting decides"


@pytest.mark.parametrize("channels", [3, 4])
def test_transparent_images_are_kept_with_colors_multiplied_by_alpha(channels: int, tmp_path: Path) -> None:
    root = fill_flat(tmp_path / "set", mode="RGBA")
    expected = set()
    for path in root.iterdir():
        with Image.open(path) as image:
            pixels = np.asarray(image).astype(np.float64)
        pixels[..., :3] *= pixels[..., 3:] / 255
        expected.add(pixels.round().astype(np.uint8)[..., :channels].transpose(2, 0, 1).tobytes())
    images = read_all(root, channels=channels).images.numpy()
    nearest = [min(expected, key=lambda each: distance(each, image)) for image in images]
    assert set(nearest) == expected
    assert max(distance(each, image) for each, image in zip(nearest, images, strict=True)) <= 1, "rounding"


def distance(content: bytes, image: np.ndarray) -> int:
    return int(np.abs(np.frombuffer(content, np.uint8).astype(int) - image.ravel()).max())


def test_the_files_are_read_once_and_cached_with_a_digest(tmp_path: Path, data_cache: Path) -> None:
    root = fill(tmp_path / "pets")
    first = read(root).images
    suffixes = sorted(path.suffix for path in data_cache.iterdir())
    assert suffixes == [".images", ".json"]
    for path in root.rglob("*.png"):  # only the cache still has the pixels: sizes and times stay
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    cache.clear_memory_cache()
    assert torch.equal(read(root).images, first)


def test_a_folder_with_new_files_is_read_again_and_has_another_digest(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    before, digest = len(read(root)), data_digest(of(root))
    for i in range(30):
        paint(root / "cat" / f"new {i}.png", seed=5000 + i)
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
    pixels = {image.numpy().tobytes() for image in read_all(root).images}
    assert count_reads() == 2
    assert pixels == {decode(path)[:3].tobytes() for path in root.rglob("*.png")}


def test_folders_that_differ_only_in_pixels_are_cached_separately(tmp_path: Path) -> None:
    # PNG files of noise have equal sizes, and a copy of a data set may keep the times
    first, second = fill(tmp_path / "a", images=5), tmp_path / "b"
    for number, path in enumerate(sorted(first.rglob("*.png"))):
        other = second / path.relative_to(first)
        paint(other, seed=5000 + number)
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
    (file,) = data_cache.glob("*.images")
    intact = file.read_bytes()
    file.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    cache.clear_memory_cache()
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
        assert not list(data_cache.rglob("*.images*")), "no partial file is left"


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
    cache.clear_memory_cache()
    assert torch.equal(read(root, num_workers=2).images, expected)
