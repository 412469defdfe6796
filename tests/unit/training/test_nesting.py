"""Folders between the root and the class folders are skipped; errors about ambiguous ones name the paths to use."""

import re
import shutil
from pathlib import Path

import pytest

from ganctl.training.errors import DataError
from tests.unit.training.folders import count, fill, fill_flat, paint, read

pytestmark = pytest.mark.usefixtures("data_cache")


@pytest.mark.parametrize("above", ["PetImages", "archive/PetImages", "a/b/c/d", "test", "images"])
def test_single_folders_above_the_class_folders_are_skipped_and_the_path_is_reported(
    above: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path / "root" / above)
    (tmp_path / "root/readme.txt").write_text("read me")
    data = read(tmp_path / "root")
    assert data.class_names == ("cat", "dog")
    (note,) = [message for message in caplog.messages if message.startswith("data.source: ")]
    assert note.endswith(f" {tmp_path / 'root' / above}")
    assert data.images.equal(read(tmp_path / "root" / above).images), "the same images are in the same split"


def test_folders_of_splits_below_a_single_folder_are_used(tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "test")):
        fill(tmp_path / "root/dataset" / split, images=10, seed=100 * seed)
    assert [len(read(tmp_path / "root", split)) for split in ("train", "val", "test")] == [18, 2, 20]
    assert read(tmp_path / "root").class_names == ("cat", "dog")


def test_single_folders_within_each_split_are_skipped(tmp_path: Path) -> None:
    for split in ("train", "test"):
        fill(tmp_path / "root" / split / "images", images=10)
    assert read(tmp_path / "root").class_names == ("cat", "dog")


def test_a_single_class_folder_is_a_data_set_of_one_class(tmp_path: Path) -> None:
    assert read(fill(tmp_path / "root", classes=("leaf",))).class_names == ("leaf",)


def test_images_one_folder_below_a_class_folder_belong_to_that_class(tmp_path: Path) -> None:
    fill(tmp_path / "root/cat", classes=("cat",), images=5)
    fill(tmp_path / "root/dog", classes=("pictures",), images=5)
    assert read(tmp_path / "root").class_names == ("cat", "dog")


@pytest.mark.parametrize(
    "folders",
    [
        ("animals", "vehicles"),
        ("test", "valid"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("training_set", "test_set"),
    ],
)
def test_the_error_for_several_folders_of_class_folders_names_the_paths_to_use(
    folders: tuple[str, str], tmp_path: Path
) -> None:
    for folder in folders:
        fill(tmp_path / "root" / folder, images=4)
    with pytest.raises(DataError, match=rf"data\.source: {tmp_path / 'root'} ") as raised:
        read(tmp_path / "root")
    for folder in folders:
        assert re.search(rf"data\.source={tmp_path / 'root' / folder}\b", str(raised.value))
        assert read(tmp_path / "root" / folder).class_names == ("cat", "dog")


def test_the_error_for_a_folder_train_without_other_splits_names_the_path_to_use(tmp_path: Path) -> None:
    fill(tmp_path / "root/train", images=4)
    with pytest.raises(DataError, match=rf"data\.source={tmp_path / 'root/train'}\b"):
        read(tmp_path / "root")
    assert read(tmp_path / "root/train").class_names == ("cat", "dog")


def test_the_error_for_class_folders_next_to_annotations_names_the_path_to_use(tmp_path: Path) -> None:
    fill(tmp_path / "root/101_ObjectCategories", images=4)
    for name in ("cat", "dog"):
        (tmp_path / "root/Annotations" / name).mkdir(parents=True)
        (tmp_path / "root/Annotations" / name / "0.mat").write_bytes(b"MATLAB")
    with pytest.raises(DataError, match=rf"data\.source={tmp_path / 'root/101_ObjectCategories'};"):
        read(tmp_path / "root")


def test_the_error_for_a_folder_of_label_files_names_folder_and_content(tmp_path: Path) -> None:
    fill(tmp_path / "root", classes=("images",), images=6)
    (tmp_path / "root/labels").mkdir()
    for i in range(6):
        (tmp_path / f"root/labels/{i}.txt").write_text("0 0.5 0.5 1 1")
    with pytest.raises(DataError, match=r"data\.source: .*root/labels .*\b0 images .*\.txt \(6\).*\b3\b"):
        read(tmp_path / "root")


@pytest.mark.parametrize("suffix", ["", ".img"])
def test_files_without_an_image_suffix_are_recognized_as_images(suffix: str, tmp_path: Path) -> None:
    root = fill(tmp_path / "root/PetImages", images=5)
    for path in sorted(root.rglob("*.png")):
        path.rename(path.with_suffix(suffix))
    assert read(tmp_path / "root").class_names == ("cat", "dog")
    fill(tmp_path / "root/More/deep", images=1)
    with pytest.raises(DataError, match=rf"data\.source={root}\b"):
        read(tmp_path / "root")


def test_images_in_subfolders_of_a_class_folder_belong_to_that_class_and_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill(tmp_path / "pets", images=10)
    for i in range(5):
        paint(root / "dog/puppies" / f"{i}.png", seed=5000 + i)
    assert count(root) == 25
    assert any(note.startswith("data.source: ") and note.endswith(": dog/puppies (5)") for note in caplog.messages)


def test_images_without_class_folders_below_single_folders_are_one_class(tmp_path: Path) -> None:
    fill_flat(tmp_path / "root/archive/leaf", images=20)
    assert read(tmp_path / "root").class_names == ("leaf",)
    assert read(tmp_path / "root/archive/leaf").class_names == ()


@pytest.mark.parametrize("form", ["zip", "gztar"])
def test_an_archive_of_one_folder_of_its_name_holds_images_without_class_folders(form: str, tmp_path: Path) -> None:
    fill_flat(tmp_path / "root/leaf", images=20)
    packed = Path(shutil.make_archive(str(tmp_path / "leaf"), form, tmp_path / "root"))
    assert read(packed).class_names == ()
    renamed = packed.rename(packed.with_name(packed.name.replace("leaf", "plants")))
    assert read(renamed).class_names == ("leaf",)


@pytest.mark.parametrize("suffix", ["", ".img"])
def test_images_without_class_folders_may_lack_an_image_suffix(suffix: str, tmp_path: Path) -> None:
    for path in sorted(fill_flat(tmp_path / "root", images=20).iterdir()):
        path.rename(path.with_suffix(suffix))
    assert count(tmp_path / "root") == 20
    assert read(tmp_path / "root").class_names == ()


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "root/a").mkdir(parents=True)
    (tmp_path / "root/a/b").symlink_to(tmp_path / "root")
    with pytest.raises(DataError, match=rf"data\.source: {tmp_path / 'root'} .*\bno folders\b"):
        read(tmp_path / "root")
