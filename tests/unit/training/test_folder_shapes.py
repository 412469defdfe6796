"""Folders are recognized as classes or splits; other layouts are errors that name the folder."""

import os
import re
from pathlib import Path

import pytest

from ganctl.training.data import cache
from ganctl.training.errors import DataError
from tests.unit.training.folders import count, fill, fill_flat, paint, posix, read

pytestmark = pytest.mark.usefixtures("data_cache")


def test_folders_of_splits_are_used_and_an_absent_val_is_split_from_train(tmp_path: Path) -> None:
    fill(tmp_path / "pets/train", images=20)
    fill(tmp_path / "pets/test", images=5, seed=100)
    sizes = {split: len(read(tmp_path / "pets", split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 36, "val": 4, "test": 10}
    fill(tmp_path / "pets/val", images=7, seed=200)
    sizes = {split: len(read(tmp_path / "pets", split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 40, "val": 14, "test": 10}


def test_folders_of_splits_may_hold_images_without_class_folders(tmp_path: Path) -> None:
    fill(tmp_path / "pets", classes=("train", "test"), images=20)
    parts = [read(tmp_path / "pets", split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [18, 2, 20]
    assert [part.class_names for part in parts] == [()] * 3


def test_a_split_without_class_folders_beside_one_that_has_them_is_an_error_that_names_it(tmp_path: Path) -> None:
    fill(tmp_path / "pets/train")
    fill_flat(tmp_path / "pets/test", images=5)
    with pytest.raises(DataError, match=rf"data\.source: {tmp_path / 'pets/test'} .*\bclass folders\b"):
        read(tmp_path / "pets")


def test_class_names_that_are_numbers_are_sorted_by_value(tmp_path: Path) -> None:
    root = fill(tmp_path / "numbers", classes=("10", "9", "2"), images=3)
    assert read(root).class_names == ("2", "9", "10")


def test_links_to_folders_are_followed_and_loops_of_links_end(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets", images=5)
    fill(tmp_path / "disk", classes=("more", "fish"), images=3, seed=500)
    (root / "cat/more").symlink_to(tmp_path / "disk/more")
    (root / "fish").symlink_to(tmp_path / "disk/fish")
    (root / "cat/up").symlink_to(root)
    (root / "dog/same").symlink_to(root / "dog")
    (tmp_path / "disk/more/back").symlink_to(root / "cat")
    assert count(root) == 5 + 3 + 5 + 3


@posix
def test_a_class_name_that_is_not_utf_8_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets", classes=("cat", os.fsdecode(b"caf\xe9")))
    with pytest.raises(DataError, match=r"data\.source: .*pets/caf\\udce9 .*UTF-8"):
        read(root)


def test_only_class_names_of_ascii_digits_are_sorted_by_value(tmp_path: Path) -> None:
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
def test_misnamed_folders_of_splits_are_an_error_and_not_classes(names: tuple[str, ...], tmp_path: Path) -> None:
    root = tmp_path / "pets"
    for name in names:
        fill(root / name, images=4)
    if "train" in names:
        (root / "train/README.txt").write_text("read me")
    with pytest.raises(DataError, match=rf"data\.source: {root} .*{', '.join(sorted(names))}") as raised:
        read(root)
    assert re.search(r"expected .*\btrain\b.*\bval\b.*\btest\b", str(raised.value))
    assert re.search(rf"data\.source={root}/[tT]rain", str(raised.value)), "the path to use"


def test_a_single_class_may_be_called_train(tmp_path: Path) -> None:
    assert read(fill(tmp_path / "vehicles", classes=("train",), images=20)).class_names == ("train",)


@pytest.mark.parametrize("part", ["", "train/"])
def test_images_outside_the_class_folders_are_reported_at_every_start(
    part: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "pets"
    fill(root / part)
    if part:
        fill(root / "test")
    for name in ("a.png", "b.JPG", "labels.xml"):
        (root / part / name).write_bytes(b"x")
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        cache.clear_memory_cache()
        read(root)
        assert f"{root / part}: 2 images" in caplog.text


def test_a_folder_of_images_with_a_smaller_folder_beside_them_is_an_error_and_not_one_class(tmp_path: Path) -> None:
    root = fill_flat(tmp_path / "pictures", images=30)
    fill(root, classes=("more",), images=20, seed=100)
    with pytest.raises(DataError, match=rf"data\.source: {root} .*\b30 images\b.*\bmore\b"):
        read(root)


def test_files_and_folders_of_operating_systems_are_no_images(tmp_path: Path) -> None:
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
        ("absent", r"pets .*\bexist\b"),
        ("empty", r"pets .*\bno images\b"),
        ("few", r"pets/cat .*\b2 images\b.*\b3\b"),
        ("unequal", r"pets/test .*: fish$"),
    ],
)
def test_the_error_for_a_folder_without_enough_images_or_classes_names_folder_and_content(
    shape: str, message: str, tmp_path: Path
) -> None:
    root = tmp_path / "pets"
    if shape == "empty":
        root.mkdir()
    if shape == "few":
        fill(root, images=2)
    if shape == "unequal":
        fill(root / "train")
        fill(root / "test", classes=("cat", "dog", "fish"))
    with pytest.raises(DataError, match=rf"data\.source: .*{message}"):
        read(root)


@pytest.mark.parametrize("layout", ["one class of 3 images", "a split of one image"])
def test_a_split_of_one_image_is_an_error_and_nothing_is_cached(layout: str, tmp_path: Path, data_cache: Path) -> None:
    root = tmp_path / "pets"
    if layout == "one class of 3 images":
        fill(root, classes=("cat",), images=3)
    else:
        fill(root / "train", classes=("cat",))
        fill(root / "val", classes=("cat",), images=1)
    with pytest.raises(DataError, match=r"data\.source: .*\b1 (train|val) images?\b.*\b2\b"):
        read(root)
    assert not list(data_cache.glob("*"))


@pytest.mark.parametrize(("images", "enough"), [(1, False), (2, False), (5, False), (6, True)])
def test_an_unlabeled_set_needs_two_images_in_each_split(images: int, enough: bool, tmp_path: Path) -> None:
    root = fill_flat(tmp_path / "pictures", images=images)
    if enough:
        assert [len(read(root, split)) for split in ("train", "val", "test")] == [2, 2, 2]
        return
    with pytest.raises(DataError, match=rf"data\.source: .*\b{images}\b"):
        read(root)
