"""Which folders are classes and which are splits; what is neither is told."""

import os
from pathlib import Path

import pytest

from ganctl.training.config.schema import DataSettings
from ganctl.training.data import image_folder
from ganctl.training.data.datasets import load_split
from ganctl.training.errors import ConfigError, DataError
from tests.unit.training.folders import count, fill, paint, posix, read

pytestmark = pytest.mark.usefixtures("data_cache")


def test_splits_that_have_folders_are_taken_as_they_are_and_validation_from_training(tmp_path: Path) -> None:
    fill(tmp_path / "pets/train", images=20)
    fill(tmp_path / "pets/test", images=5)
    sizes = {split: len(read(tmp_path / "pets", split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 36, "val": 4, "test": 10}
    fill(tmp_path / "pets/val", images=7)
    sizes = {split: len(read(tmp_path / "pets", split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 40, "val": 14, "test": 10}


def test_classes_that_are_numbers_come_in_their_order(tmp_path: Path) -> None:
    root = fill(tmp_path / "numbers", classes=("10", "9", "2"), images=3)
    assert read(root).class_names == ("2", "9", "10")


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets", images=5)
    fill(tmp_path / "disk", classes=("more", "fish"), images=3)
    (root / "cat/more").symlink_to(tmp_path / "disk/more")
    (root / "fish").symlink_to(tmp_path / "disk/fish")
    (root / "cat/up").symlink_to(root)
    (root / "dog/same").symlink_to(root / "dog")
    (tmp_path / "disk/more/back").symlink_to(root / "cat")
    assert count(root) == 5 + 3 + 5 + 3


@posix
def test_a_class_name_that_is_no_utf_8_must_be_changed(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets", classes=("cat", os.fsdecode(b"caf\xe9")))
    with pytest.raises(DataError, match=r"data.root: .*pets/caf\\udce9 is not UTF-8. Rename it"):
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
    assert f"pets has the folders {', '.join(sorted(names))}," in str(raised.value)
    assert "expected train with val, test or both (in lowercase, no other folders)" in str(raised.value)


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
        image_folder.clear_memory_cache()
        read(root)
        assert f"{(root / part)}: 2 images outside the class folders are ignored" in caplog.text


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
        ("absent", "does not exist"),
        ("empty", "has no class folders"),
        ("few", "has 2 images, expected 3 or more of each class"),
        ("unequal", ".*test has other classes than the other splits: fish"),
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


@pytest.mark.parametrize("layout", ["a class alone", "a split of one image"])
def test_splits_of_one_image_are_told(layout: str, tmp_path: Path, data_cache: Path) -> None:
    root = tmp_path / "pets"
    if layout == "a class alone":
        fill(root, classes=("cat",), images=3)
    else:
        fill(root / "train", classes=("cat",))
        fill(root / "val", classes=("cat",), images=1)
    with pytest.raises(
        DataError, match=r"data.root: .*pets has 1 (train|val) image in all, expected 2 or more. Add images"
    ):
        read(root)
    assert not data_cache.exists()


def test_a_folder_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.root is unset"):
        load_split(DataSettings(name="folder"), "train")
