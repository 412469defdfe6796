"""`train` and its `--dry-run` report the classes of the data set, with names in Unicode's composed form (NFC)."""

import re
import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner

from ganctl.main import cli
from ganctl.training.errors import DataError
from tests.conftest import SMALL, Ganctl, one_object
from tests.unit.training.folders import fill, fill_flat, read

pytestmark = pytest.mark.usefixtures("data_cache")

CAFE, UBUNG = "café", "Übung"


def decomposed(name: str) -> str:
    other = unicodedata.normalize("NFD", name)
    assert other != name
    return other


def dry_run(root: Path, *words: str) -> str:
    done = CliRunner().invoke(cli, ["train", str(root), "--dry-run", "--batch-size", "4", *words])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def classes_line(stdout: str) -> str:
    (line,) = [line for line in stdout.splitlines() if line.startswith("classes ")]
    return line


def test_a_dry_run_reports_class_names_and_numbers_of_images(tmp_path: Path) -> None:
    root = fill(tmp_path / "root/PetImages", images=30)
    assert classes_line(dry_run(tmp_path / "root")).endswith(" cat (24), dog (24)")
    (root / "cat/29.png").unlink()
    record = one_object(dry_run(tmp_path / "root", "--json"))
    assert record["classes"] == [{"name": "cat", "images": 25}, {"name": "dog", "images": 24}]
    assert record["training_images"] == 49


def test_a_dry_run_reports_that_there_are_no_classes(tmp_path: Path) -> None:
    root = fill_flat(tmp_path / "root", images=30)
    assert re.fullmatch(r"classes +no labels", classes_line(dry_run(root)))
    record = one_object(dry_run(root, "--json"))
    assert record["classes"] == []
    assert record["training_images"] == 24


def test_a_long_list_of_classes_is_shortened(tmp_path: Path) -> None:
    names = tuple(f"c{i:03}" for i in range(150))
    line = classes_line(dry_run(fill(tmp_path / "root", classes=names, images=3)))
    for part in ("150 classes", " c000 (1), c001 (1), ", " …, c149 (1)"):
        assert part in line
    assert len(line) < 200


def test_the_first_lines_of_training_name_the_classes(ganctl: Ganctl, tmp_path: Path) -> None:
    root = fill(tmp_path / "root", images=30)
    settings = (*SMALL, "data.size=28", "train.batch_size=16")
    done = ganctl("train", root, *(word for setting in settings for word in ("--set", setting)), "--max-steps", 2)
    assert done.returncode == 0, done.stderr
    first = done.stderr.splitlines()[:8]
    assert any("48 training images" in line and "2 classes: cat (24), dog (24)" in line for line in first), first


def test_decomposed_folder_names_of_macos_are_reported_composed(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", classes=(decomposed(CAFE), decomposed(UBUNG)))
    record = one_object(dry_run(root, "--json"))
    assert record["classes"] == [{"name": name, "images": 16} for name in (CAFE, UBUNG)]


def test_the_unicode_form_of_folder_names_does_not_change_the_splits(tmp_path: Path) -> None:
    composed = read(fill(tmp_path / "composed", classes=(CAFE, UBUNG)))
    other = read(fill(tmp_path / "decomposed", classes=(decomposed(CAFE), decomposed(UBUNG))))
    assert composed.class_names == other.class_names == (CAFE, UBUNG)
    assert composed.images.equal(other.images), "the same images are in the same split"


def test_splits_may_have_folder_names_in_different_unicode_forms(tmp_path: Path) -> None:
    fill(tmp_path / "root/train", classes=(CAFE, "b"), images=10)
    fill(tmp_path / "root/test", classes=(decomposed(CAFE), "b"), images=5, seed=100)
    assert read(tmp_path / "root", "test").class_names == ("b", CAFE)
    assert read(tmp_path / "root", "test").labels.bincount().tolist() == [5, 5]


def test_two_folders_with_the_same_composed_name_are_refused(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", classes=(CAFE, decomposed(CAFE)), images=3)
    if len(list(root.iterdir())) == 1:
        pytest.skip("this file system treats both forms as one name")
    with pytest.raises(DataError, match=rf"data\.source: .*{CAFE}") as raised:
        read(root)
    assert r"'cafe\u0301'" in str(raised.value)
    assert r"'caf\xe9'" in str(raised.value)
