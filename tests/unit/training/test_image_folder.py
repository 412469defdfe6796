"""One's own images: class folders become tensors, once; what cannot be read is told, all of it."""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training import image_folder
from training.config import DataSettings
from training.data import ImageSet, data_digest, load_split
from training.errors import ConfigError, DataError
from training.image_folder import decode

posix = pytest.mark.skipif(
    sys.platform != "linux", reason="names that are no UTF-8, FIFOs, limits of open files: Linux"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache that is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image_folder._load.cache_clear()
    return tmp_path / "cache" / "ganctl" / "datasets"


def paint(path: Path, *, mode: str = "RGB", size: tuple[int, int] = (28, 28), seed: int = 0) -> None:
    """A picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], *channels), dtype=np.uint8)
    Image.fromarray(pixels, mode).save(path)


def fill(root: Path, *, classes: tuple[str, ...] = ("cat", "dog"), images: int = 20, mode: str = "RGB") -> Path:
    for label, name in enumerate(classes):
        for i in range(images):
            paint(root / name / f"{i}.png", mode=mode, seed=100 * label + i)
    return root


def of(root: Path, **settings: object) -> DataSettings:
    return DataSettings.model_validate({"name": "folder", "root": str(root), "num_workers": 0, **settings})


def read(root: Path, split: str = "train", **settings: object) -> ImageSet:
    return load_split(of(root, **settings), split)  # type: ignore[arg-type]


def count(root: Path, **settings: object) -> int:
    """The images of all splits."""
    return sum(len(read(root, split, **settings)) for split in ("train", "val", "test"))


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


def test_splits_that_have_folders_are_taken_as_they_are_and_validation_from_training(tmp_path: Path) -> None:
    fill(tmp_path / "pets/train", images=20)
    fill(tmp_path / "pets/test", images=5)
    sizes = {split: len(read(tmp_path / "pets", split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 36, "val": 4, "test": 10}
    fill(tmp_path / "pets/val", images=7)
    sizes = {split: len(read(tmp_path / "pets", split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 40, "val": 14, "test": 10}


def test_grey_images_have_one_channel_unless_three_are_asked_for(tmp_path: Path) -> None:
    grey, colour = fill(tmp_path / "grey", mode="L"), fill(tmp_path / "colour")
    assert [read(grey).shape[0], read(colour).shape[0]] == [1, 3]
    assert [read(grey, channels=3).shape[0], read(colour, channels=1).shape[0]] == [3, 1]
    assert read(colour, size=64).shape == (3, 64, 64)


def test_classes_that_are_numbers_come_in_their_order(tmp_path: Path) -> None:
    root = fill(tmp_path / "numbers", classes=("10", "9", "2"), images=3)
    assert read(root).class_names == ("2", "9", "10")


def test_the_files_are_read_once_and_kept_with_a_digest(tmp_path: Path, cache: Path) -> None:
    root = fill(tmp_path / "pets")
    first = read(root).images
    kept = sorted(path.suffix for path in cache.iterdir())
    assert kept == [".json", ".safetensors"]
    for path in root.rglob("*.png"):  # only the cache can know the pixels now: sizes and times stay
        facts = path.stat()
        path.write_bytes(bytes(facts.st_size))
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    image_folder._load.cache_clear()
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
    size = file.stat().st_size
    paint(file, seed=77)
    assert file.stat().st_size == size, "noise is stored as it is"


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
    assert seen == {decode(path, 28, grey=False).tobytes() for path in root.rglob("*.png")}


def test_what_was_read_with_bad_files_left_out_is_not_taken_where_they_are_refused(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    spoil(root)
    read(root, skip_bad=True)
    with pytest.raises(DataError, match="cannot be read as images"):
        read(root)


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


def test_a_damaged_cache_is_told_and_made_anew(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = fill(tmp_path / "pets")
    first = read(root).images
    (file,) = cache.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    image_folder._load.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert torch.equal(read(root).images, first)
    assert "is damaged (its SHA-256 is" in caplog.text


def spoil(root: Path) -> list[Path]:
    bad = [root / "cat/0.png", root / "dog/notes.txt", root / "dog/half.png"]
    bad[0].write_bytes(b"")
    bad[1].write_text("no picture")
    paint(bad[2], size=(64, 64), seed=5)
    bad[2].write_bytes(bad[2].read_bytes()[:2000])
    return bad


def test_all_files_that_cannot_be_read_are_named(tmp_path: Path, cache: Path) -> None:
    root = fill(tmp_path / "pets")
    bad = spoil(root)
    with pytest.raises(DataError, match=r"files that cannot be read as images \(3\).* data.skip_bad=true") as raised:
        read(root)
    for path in bad:
        assert f"\n  - {path}: " in str(raised.value)
    assert not cache.exists(), "a half-read folder was kept"


def test_files_that_cannot_be_read_may_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = fill(tmp_path / "pets")
    bad = spoil(root)
    with caplog.at_level(logging.WARNING):
        parts = [read(root, split, skip_bad=True) for split in ("train", "val", "test")]
    assert sum(len(part) for part in parts) == 39
    assert "leaves out what cannot be read as images (3)" in caplog.text
    assert str(bad[1]) in caplog.text


def test_every_bad_file_is_listed_by_name(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    bad = [root / "dog" / f"note {i:02}.txt" for i in range(30)]
    for path in bad:
        path.write_text("no picture")
    with pytest.raises(DataError) as raised:
        read(root)
    assert re.findall(r"\n  - (.*?): Unidentified", str(raised.value)) == [str(path) for path in bad]


@posix
def test_what_is_neither_a_file_nor_a_folder_is_a_bad_file(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    (root / "cat/absent.png").symlink_to(tmp_path / "absent")
    (root / "cat/device.png").symlink_to("/dev/null")
    (root / "cat/self.png").symlink_to("self.png")
    (root / "cow").symlink_to(tmp_path / "absent")  # a class on a disk that is not mounted
    os.mkfifo(root / "dog/pipe.png")
    with pytest.raises(DataError, match=r"files that cannot be read as images \(5\)") as raised:
        read(root)
    assert str(raised.value).splitlines()[1:] == [
        f"  - {root}/cat/absent.png: a broken link (No such file or directory)",
        f"  - {root}/cat/device.png: neither a file nor a folder",
        f"  - {root}/cat/self.png: a broken link (Too many levels of symbolic links)",
        f"  - {root}/cow: a broken link (No such file or directory)",
        f"  - {root}/dog/pipe.png: neither a file nor a folder",
    ]
    assert count(root, skip_bad=True) == 40


def test_a_folder_that_may_not_be_read_is_a_bad_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fill(tmp_path / "pets")
    paint(root / "cat/more/0.png")
    listed = Path.iterdir

    def refuse(folder: Path) -> Iterator[Path]:  # permissions do not stop the tests where root runs them
        if folder.name == "more":
            raise PermissionError(13, "Permission denied")
        return iter(listed(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"cat/more: a folder that cannot be listed \(Permission denied\)"):
        read(root)


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets", images=5)
    fill(tmp_path / "disk", classes=("more", "fish"), images=3)
    (root / "cat/more").symlink_to(tmp_path / "disk/more")
    (root / "fish").symlink_to(tmp_path / "disk/fish")
    (root / "cat/up").symlink_to(root)
    (root / "dog/same").symlink_to(root / "dog")
    (tmp_path / "disk/more/back").symlink_to(root / "cat")
    assert count(root) == 5 + 3 + 5 + 3


def test_what_was_left_out_is_told_whenever_the_images_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill(tmp_path / "pets")
    bad = spoil(root)
    for _ in range(2):
        caplog.clear()
        image_folder._load.cache_clear()
        read(root, skip_bad=True)
        told = [line for line in caplog.messages if "leaves out what cannot be read as images (3)" in line]
        assert len(told) == 1
        assert [line.split(": ")[0] for line in told[0].splitlines()[1:]] == [f"  - {path}" for path in sorted(bad)]
    assert "reading" not in caplog.text, "the second time is from the cache"


@posix
def test_names_that_are_no_utf_8_are_read(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    (root / "cat/3.png").rename(root / os.fsdecode(b"cat/caf\xe9.png"))
    (root / "cat" / os.fsdecode(b"\xff.png")).write_bytes(b"no picture")
    (root / "dog/1.png").rename(root / "dog/1².png")
    assert count(root, skip_bad=True) == 40
    assert len(data_digest(of(root, skip_bad=True))) > 16
    with pytest.raises(DataError, match=r"pets/cat/\\udcff.png: ") as raised:
        read(root)
    str(raised.value).encode()  # it can be written to a log


@posix
def test_a_class_name_that_is_no_utf_8_must_be_changed(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets", classes=("cat", os.fsdecode(b"caf\xe9")))
    with pytest.raises(DataError, match=r"data.root: .*pets/caf\\udce9 is not UTF-8; rename it"):
        read(root)


def test_classes_of_other_digits_than_ours_are_names(tmp_path: Path) -> None:
    assert read(fill(tmp_path / "powers", classes=("²", "10", "9"), images=3)).class_names == ("10", "9", "²")


@pytest.mark.parametrize(
    "names",
    [
        ("train", "valid"),
        ("train", "validation", "test"),
        ("train", "dev", "val"),
        ("Train", "Test"),
        ("train", "Test"),
        ("train",),
        ("Train",),
        ("training", "testing"),
        ("train", "plane", "car"),
    ],
)
def test_splits_of_other_names_are_not_taken_for_classes(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        fill(tmp_path / "pets" / name, images=4)
    (tmp_path / "pets/train/README.txt").write_text("read me") if "train" in names else None
    with pytest.raises(DataError) as raised:
        read(tmp_path / "pets")
    assert f"pets has the folders {', '.join(sorted(names))};" in str(raised.value)
    assert "expected train beside val, test or both (in these letters)" in str(raised.value)


def test_a_single_class_may_be_called_train(tmp_path: Path) -> None:
    assert read(fill(tmp_path / "vehicles", classes=("train",), images=20)).class_names == ("train",)


@pytest.mark.parametrize("part", ["", "train/"])
def test_images_outside_the_class_folders_are_told(part: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "pets"
    fill(root / part)
    if part:
        fill(root / "test")
    for name in ("a.png", "b.JPG", "labels.csv"):
        (root / part / name).write_bytes(b"x")
    for _ in range(2):  # from the cache, too
        caplog.clear()
        image_folder._load.cache_clear()
        read(root)
        assert f"{(root / part)}: 2 images lie beside the class folders and are left out" in caplog.text


def test_what_systems_leave_in_folders_is_no_image(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    for name in (".DS_Store", "Thumbs.db"):
        (root / "cat" / name).write_bytes(b"x")
    (root / ".git").mkdir()
    paint(root / "cat/.ipynb_checkpoints/0-checkpoint.png")
    paint(root / "cat/x/.thumbnails/large/0.png")
    assert read(root).class_names == ("cat", "dog")
    assert count(root) == 40


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("absent", "is no folder"),
        ("empty", "has no class folders"),
        ("few", "has 2 images, expected 3 or more of each class"),
        ("unequal", "the classes of .*test are not those of the other splits: fish"),
    ],
)
def test_a_folder_of_another_shape_is_told(shape: str, message: str, tmp_path: Path) -> None:
    root = tmp_path / "pets"
    if shape == "empty":
        root.mkdir()
    if shape == "few":
        fill(root, images=2)
    if shape == "unequal":
        fill(root / "train")
        fill(root / "test", classes=("cat", "dog", "fish"))
    with pytest.raises(DataError, match=f"data.root: .*{message}"):
        read(root)


def test_a_class_of_which_nothing_is_left_is_told(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets", images=3)
    for path in (root / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="class 1 has no sound image left among the train images"):
        read(root, skip_bad=True)


@pytest.mark.parametrize("layout", ["a class alone", "a split of one image"])
def test_splits_of_one_image_are_told(layout: str, tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "pets"
    if layout == "a class alone":
        fill(root, classes=("cat",), images=3)
    else:
        fill(root / "train", classes=("cat",))
        fill(root / "val", classes=("cat",), images=1)
    with pytest.raises(
        DataError, match=r"data.root: .*pets has 1 (train|val) image in all, expected 2 or more; add images"
    ):
        read(root)
    assert not cache.exists()


@pytest.mark.parametrize("failing", ["fsync", "second fsync", "folder"])
def test_a_cache_that_cannot_be_written_stops_nothing(
    failing: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill(tmp_path / "pets")
    if failing == "folder":
        (tmp_path / "cache").write_text("a file")
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if failing == "fsync" or len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert len(read(root)) == 32
    reason = "Not a directory" if failing == "folder" else "No space left on device"
    assert re.search(rf"\.safetensors: {reason}; the images cannot be kept, and the next run reads them", caplog.text)
    assert failing == "folder" or not list(cache.iterdir()), "something is left"


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


def test_a_folder_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.root: data.name = 'folder' needs it"):
        load_split(DataSettings(name="folder"), "train")


def test_worker_processes_read_the_same(tmp_path: Path, cache: Path) -> None:
    root = fill(tmp_path / "pets", images=50)
    alone = read(root).images
    for path in cache.iterdir():
        path.unlink()
    image_folder._load.cache_clear()
    assert torch.equal(read(root, num_workers=2).images, alone)
