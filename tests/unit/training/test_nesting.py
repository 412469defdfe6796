"""Folders between the root and the classes are seen through; where it is uncertain, the paths to give are told."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from ganctl.training.errors import DataError
from tests.unit.training.folders import count, fill, paint, read

pytestmark = pytest.mark.usefixtures("data_cache")


@pytest.mark.parametrize("above", ["PetImages", "archive/PetImages", "a/b/c/d", "test", "images"])
def test_single_folders_above_the_classes_are_seen_through(
    above: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path / "root" / above)
    (tmp_path / "root/readme.txt").write_text("read me")
    found = read(tmp_path / "root")
    assert found.class_names == ("cat", "dog")
    assert f"uses the class folders of {tmp_path / 'root' / above}" in caplog.text
    assert found.images.equal(read(tmp_path / "root" / above).images), "the same images are in the same split"


def test_splits_below_a_single_folder_are_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        fill(tmp_path / "root/dataset" / split, images=10)
    assert [len(read(tmp_path / "root", split)) for split in ("train", "val", "test")] == [18, 2, 20]
    assert read(tmp_path / "root").class_names == ("cat", "dog")


def test_single_folders_within_each_split_are_seen_through(tmp_path: Path) -> None:
    for split in ("train", "test"):
        fill(tmp_path / "root" / split / "images", images=10)
    assert read(tmp_path / "root").class_names == ("cat", "dog")


def test_one_class_alone_stays_one_class(tmp_path: Path) -> None:
    assert read(fill(tmp_path / "root", classes=("leaf",))).class_names == ("leaf",)


def test_a_class_whose_images_lie_one_folder_deeper_is_that_class(tmp_path: Path) -> None:
    fill(tmp_path / "root/cat", classes=("cat",), images=5)
    fill(tmp_path / "root/dog", classes=("pictures",), images=5)
    assert read(tmp_path / "root").class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("tops", "ways"),
    [
        (("animals", "vehicles"), ["animals", "vehicles"]),
        (("test", "valid"), ["test", "valid"]),
        (("seg_train/seg_train", "seg_test/seg_test"), ["seg_train/seg_train", "seg_test/seg_test"]),
        (("training_set", "test_set"), ["training_set", "test_set"]),
    ],
)
def test_several_folders_of_folders_are_told_with_the_paths_to_give(
    tops: Sequence[str], ways: Sequence[str], tmp_path: Path
) -> None:
    for top in tops:
        fill(tmp_path / "root" / top, images=4)
    with pytest.raises(DataError, match="which hold folders of images instead of images") as raised:
        read(tmp_path / "root")
    for way in ways:
        assert f"data.root={tmp_path / 'root' / way}" in str(raised.value)
        assert read(tmp_path / "root" / way).class_names == ("cat", "dog")


def test_a_training_split_alone_is_told_with_the_path_to_give(tmp_path: Path) -> None:
    fill(tmp_path / "root/train", images=4)
    with pytest.raises(DataError, match=f"give data.root={tmp_path / 'root/train'} "):
        read(tmp_path / "root")
    assert read(tmp_path / "root/train").class_names == ("cat", "dog")


def test_folders_of_images_beside_folders_of_notes_are_told_with_the_path_to_give(tmp_path: Path) -> None:
    fill(tmp_path / "root/101_ObjectCategories", images=4)
    for name in ("cat", "dog"):
        (tmp_path / "root/Annotations" / name).mkdir(parents=True)
        (tmp_path / "root/Annotations" / name / "0.mat").write_bytes(b"MATLAB")
    with pytest.raises(DataError, match=f"Give data.root={tmp_path / 'root/101_ObjectCategories'};"):
        read(tmp_path / "root")


def test_a_folder_of_labels_beside_a_folder_of_images_is_told(tmp_path: Path) -> None:
    fill(tmp_path / "root", classes=("images",), images=6)
    (tmp_path / "root/labels").mkdir()
    for i in range(6):
        (tmp_path / f"root/labels/{i}.txt").write_text("0 0.5 0.5 1 1")
    with pytest.raises(DataError, match=r"labels has 0 images and .txt \(6\), expected 3 or more of each class"):
        read(tmp_path / "root")


@pytest.mark.parametrize("suffix", ["", ".img"])
def test_images_of_other_names_are_images_too(suffix: str, tmp_path: Path) -> None:
    root = fill(tmp_path / "root/PetImages", images=5)
    for path in sorted(root.rglob("*.png")):
        path.rename(path.with_suffix(suffix))
    assert read(tmp_path / "root").class_names == ("cat", "dog")
    fill(tmp_path / "root/More/deep", images=1)
    with pytest.raises(DataError, match="which hold folders of images instead of images"):
        read(tmp_path / "root")


def test_images_below_a_class_folder_count_as_its_own_and_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill(tmp_path / "pets", images=10)
    for i in range(5):
        paint(root / "dog/puppies" / f"{i}.png", seed=900 + i)
    assert count(root) == 25
    assert "images in subfolders of a class folder count as images of that class (5): dog/puppies (5)" in caplog.text


def test_images_without_any_folder_are_told_with_the_way_to_give_them(tmp_path: Path) -> None:
    for i in range(6):
        paint(tmp_path / "root" / f"{i}.png", seed=i)
    with pytest.raises(DataError, match="root has 6 images and no class folders") as raised:
        read(tmp_path / "root")
    assert f"move them into a subfolder such as {tmp_path / 'root/images'}" in str(raised.value)


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "root/a").mkdir(parents=True)
    (tmp_path / "root/a/b").symlink_to(tmp_path / "root")
    with pytest.raises(DataError, match="has no class folders with files"):
        read(tmp_path / "root")
