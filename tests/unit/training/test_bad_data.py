"""Folders of several formats, few images, and damage anywhere: a message that names the path, and exit code 4."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ganctl.main import cli
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.datasets import load_split
from ganctl.training.errors import DataError
from tests.conftest import Ganctl
from tests.unit.training.bad_data import Build, assert_refused, cases, packed
from tests.unit.training.formats import (
    Drawn,
    class_folders,
    dataset_json,
    draw,
    flat,
    idx,
    labels_csv,
    metadata_csv,
    npz,
    pack,
    parquet_file,
    write,
)


def several(*writers: Callable[[Drawn, Path], Path]) -> Build:
    def build(folder: Path) -> Path:
        for writer in writers:
            writer(draw("L"), folder / "set")
        return folder / "set"

    return build


def two_npz(folder: Path) -> Path:
    npz("images", "labels")(draw("L"), folder / "set")
    (folder / "set/set.npz").rename(folder / "set/first.npz")
    return npz("images", "labels")(draw("L"), folder / "set").parent


def two_idx(folder: Path) -> Path:
    idx("letters-")(draw("L"), folder / "set")
    return idx("digits-")(draw("L"), folder / "set")


SEVERAL: list[tuple[str, Build, str]] = [
    ("labels.csv and dataset.json", several(labels_csv, dataset_json), "dataset.json"),
    ("labels.csv and metadata.csv", several(labels_csv, metadata_csv), "metadata.csv"),
    ("npz and class folders", several(npz("images", "labels"), class_folders), "set.npz"),
    ("npz and images", several(npz("images", "labels"), flat), "set.npz"),
    ("npz and IDX", several(npz("images", "labels"), idx()), "set.npz"),
    ("IDX and class folders", several(idx(), class_folders), "images-idx3-ubyte"),
    ("two .npz files", two_npz, "2 .npz"),
    ("two sets in IDX", two_idx, "letters"),
]


@cases(SEVERAL)
def test_two_formats_in_one_folder(build: Build, message: str, ganctl: Ganctl, tmp_path: Path) -> None:
    assert_refused(ganctl, tmp_path, build(tmp_path), message)


def picture(folder: Path) -> Path:
    return write(folder / "one.png", draw("L", count=1).png(0))


def classes_of(*counts: int) -> Build:
    """Returns a function that writes a labels.csv with so many images of each class."""

    def build(folder: Path) -> Path:
        labels = np.repeat(np.arange(len(counts)), counts)
        return labels_csv(Drawn(draw("L", count=sum(counts)).pixels, labels, ("ape", "bee", "cat")), folder / "set")

    return build


FEW: list[tuple[str, Build, str]] = [
    ("an image", picture, "one.png"),
    ("a folder of one image", lambda folder: picture(folder / "set").parent, "set"),
    ("a ZIP archive of one image", lambda folder: pack(picture(folder / "set").parent, "zip"), "set.zip"),
    ("an empty folder", lambda folder: write(folder / "set/.hidden", b"").parent, "set"),
    ("classes of one image", classes_of(1, 1, 1), "(ape)"),
    ("one class of one image", classes_of(9, 1, 9), "(bee)"),
    ("one class of two images", classes_of(9, 9, 2), "(cat)"),
    ("an absent path", lambda folder: folder / "absent", "absent"),
]


@cases(FEW)
def test_few_images(build: Build, message: str, ganctl: Ganctl, tmp_path: Path) -> None:
    assert_refused(ganctl, tmp_path, build(tmp_path), message)


def test_only_damaged_images_are_refused_even_if_they_may_be_skipped(ganctl: Ganctl, tmp_path: Path) -> None:
    for i in range(5):
        write(tmp_path / f"set/{i}.png", b"no image")
    assert_refused(ganctl, tmp_path, tmp_path / "set", "3.png", "--set", "data.skip_corrupt=true")


@pytest.mark.parametrize(("fit", "size"), [("crop", 16), ("pad", 128)])
def test_images_of_17_by_900_pixels_are_taken_and_told(fit: str, size: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(256, size=(20, 900, 17), dtype=np.uint8)
    path = flat(Drawn(noise, np.zeros(20, np.int64), ()), tmp_path / "set")
    words = ("--set", f"data.fit={fit}", "--set", "data.num_workers=0", "--out", str(tmp_path / "sheet.png"))
    result = CliRunner().invoke(cli, ["inspect", str(path), "--json", *words])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["images"], facts["size"]) == (20, size)
    assert f"{size} × {size}" in facts["size_reason"]
    assert f"data.fit = {fit}" in facts["size_reason"]


def packed_folder(writer: Callable[[Drawn, Path], Path]) -> Build:
    """Returns a function that writes a data set and a license into a ZIP archive."""

    def build(folder: Path) -> Path:
        writer(draw("L", count=15), folder / "set")
        write(folder / "set/LICENSE", b"CC0-1.0")
        return pack(folder / "set", "zip")

    return build


DAMAGED: dict[str, Build] = {
    "labels.csv in ZIP": packed_folder(labels_csv),
    "dataset.json in ZIP": packed_folder(dataset_json),
    "IDX in ZIP": packed_folder(idx()),
    "npz in ZIP": packed_folder(npz("images", "labels")),
    "Parquet in ZIP": packed_folder(lambda drawn, root: parquet_file(root / "set.parquet", drawn)),
    "npz": lambda folder: npz("images", "labels")(draw("L", count=15), folder / "set"),
    "Parquet": lambda folder: parquet_file(folder / "set.parquet", draw("L", count=15)),
    "tar.gz": packed("tar.gz"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_anywhere_is_refused_in_words_or_harmless(name: str, tmp_path: Path) -> None:
    path = DAMAGED[name](tmp_path)
    content = path.read_bytes()
    rng, messages = np.random.default_rng(0), list[str]()
    for number in range(60):
        damaged = bytearray(content)
        for at in rng.integers(len(content), size=1 + number % 3):
            if number % 2:  # the ends of archives list their content
                at = len(content) - 1 - at % 300
            damaged[at : at + 1 + number % 4] = rng.bytes(number % 5)
        path.write_bytes(damaged)
        settings = DataSettings.model_validate({"source": str(path), "num_workers": 0})
        try:
            load_split(settings, "train")
        except DataError as error:
            messages.append(str(error))
    assert [message for message in messages if str(path) not in message] == []
    assert len(messages) > 30


@cases([SEVERAL[0], FEW[0], FEW[-1]])
def test_inspect_refuses_what_cannot_be_listed(build: Build, message: str, ganctl: Ganctl, tmp_path: Path) -> None:
    assert_refused(ganctl, tmp_path, build(tmp_path), message, command="inspect")
