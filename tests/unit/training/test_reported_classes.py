"""The classes that were found stand in the first lines of `train` and in `--dry-run`, in Unicode's composed form."""

import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner

from ganctl.main import cli
from ganctl.training.errors import DataError
from tests.conftest import SMALL, Ganctl, one_object
from tests.unit.training.folders import fill, read

pytestmark = pytest.mark.usefixtures("data_cache")

CAFE, UBUNG = "café", "Übung"


def decomposed(name: str) -> str:
    other = unicodedata.normalize("NFD", name)
    assert other != name
    return other


def dry_run(root: Path, *words: str) -> str:
    settings = ("--set", "data.name=folder", "--set", f"data.root={root}", "--batch-size", "4")
    done = CliRunner().invoke(cli, ["train", "--dry-run", *settings, *words])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_a_dry_run_tells_names_and_numbers_of_images(tmp_path: Path) -> None:
    root = fill(tmp_path / "root/PetImages", images=30)
    assert "classes                  2 classes: cat (24), dog (24)\n" in dry_run(tmp_path / "root")
    (root / "cat/29.png").unlink()
    record = one_object(dry_run(tmp_path / "root", "--json"))
    assert record["classes"] == [{"name": "cat", "images": 25}, {"name": "dog", "images": 24}]
    assert record["training_images"] == 49


def test_many_classes_are_shortened(tmp_path: Path) -> None:
    names = tuple(f"c{i:03}" for i in range(150))
    root = fill(tmp_path / "root", classes=names, images=3)
    (line,) = [line for line in dry_run(root).splitlines() if line.startswith("classes ")]
    assert "150 classes: c000 (1), c001 (1), " in line
    assert line.endswith(", …, c149 (1), each with 1 image")
    assert len(line) < 200


def test_training_begins_with_the_classes(ganctl: Ganctl) -> None:
    done = ganctl("train", *(word for setting in SMALL for word in ("--set", setting)), "--max-steps", 2)
    assert done.returncode == 0, done.stderr
    first = done.stderr.splitlines()[:4]
    assert any(line.startswith("55,000 training images: 10 classes: 0 (5421), 1 (") for line in first), first


def test_class_folders_of_macos_have_composed_names(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", classes=(decomposed(CAFE), decomposed(UBUNG)))
    record = one_object(dry_run(root, "--json"))
    assert record["classes"] == [{"name": name, "images": 16} for name in (CAFE, UBUNG)]


def test_the_form_of_a_name_on_the_disk_changes_nothing(tmp_path: Path) -> None:
    composed = read(fill(tmp_path / "composed", classes=(CAFE, UBUNG)))
    other = read(fill(tmp_path / "decomposed", classes=(decomposed(CAFE), decomposed(UBUNG))))
    assert composed.class_names == other.class_names == (CAFE, UBUNG)
    assert composed.images.equal(other.images), "the same images are in the same split"


def test_splits_may_have_their_names_in_different_forms(tmp_path: Path) -> None:
    fill(tmp_path / "root/train", classes=(CAFE, "b"), images=10)
    fill(tmp_path / "root/test", classes=(decomposed(CAFE), "b"), images=5)
    assert read(tmp_path / "root", "test").class_names == ("b", CAFE)
    assert read(tmp_path / "root", "test").labels.bincount().tolist() == [5, 5]


def test_two_folders_of_one_name_are_told(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", classes=(CAFE, decomposed(CAFE)), images=3)
    if len(list(root.iterdir())) == 1:
        pytest.skip("this file system takes both forms for one name")
    with pytest.raises(DataError, match=f"has two folders called {CAFE}, ") as raised:
        read(root)
    assert r"'cafe\u0301'" in str(raised.value)
    assert r"'caf\xe9'" in str(raised.value)
