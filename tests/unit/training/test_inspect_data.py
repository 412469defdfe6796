"""`ganctl inspect DATA` tells what a data set holds and what `train` would make of it, and draws a contact sheet."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ganctl.main import cli
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.datasets import load_split
from tests.conftest import Ganctl, one_object
from tests.unit.training.formats import (
    ARRAYS,
    FOLDERS,
    IDX,
    PACKERS,
    PARQUET,
    SPLITS,
    Drawn,
    class_folders,
    draw,
    flat,
    idx,
    labels_csv,
    npz,
    pack,
    premultiplied,
    split_folders,
    write,
)

ENLARGEMENT = 2  # of a contact sheet


def inspect(path: Path, *words: str, sheet: Path | None = None) -> Result:
    sheet = sheet or path.parent / "sheet.png"
    return CliRunner().invoke(cli, ["inspect", str(path), "--set", "data.num_workers=0", "--out", str(sheet), *words])


def facts_of(path: Path, *words: str) -> dict[str, object]:
    result = inspect(path, "--json", *words)
    assert result.exit_code == 0, result.stderr
    return one_object(result.stdout)


def tiles(sheet: Path, side: int) -> np.ndarray:
    """Returns the images of a contact sheet: [rows, columns, side, side, 4]."""
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGBA"))[::ENLARGEMENT, ::ENLARGEMENT]
    height, width = pixels.shape[:2]
    return pixels.reshape(height // side, side, width // side, side, 4).swapaxes(1, 2)


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    drawn = draw("RGB")
    facts = facts_of(class_folders(drawn, tmp_path / "set"))
    assert facts["kind"] == "data"
    assert facts["path"] == str(tmp_path / "set")
    assert facts["format"] == "class folders"
    assert (facts["images"], facts["labeled"]) == (60, True)
    assert facts["splits"] == {"train": 48, "val": 6, "test": 6}
    assert facts["splits_given"] is False
    assert facts["classes"] == [
        {"name": name, "images": 20, "train": 16, "val": 2, "test": 2} for name in ("ape", "bee", "cat")
    ]
    assert facts["sizes"] == {"20 × 20": 60}
    assert facts["modes"] == {"RGB": 60}
    assert (facts["transparent"], facts["duplicates"], facts["unreadable"]) == (0, 0, {})
    assert (facts["size"], facts["channels"]) == (20, 3)
    assert facts["contact_sheet"] == str(tmp_path / "sheet.png")


@pytest.mark.parametrize(
    ("path", "format_name"),
    [
        *((lambda folder, name=name: FOLDERS[name](draw(), folder), name) for name in FOLDERS),
        *((lambda folder, s=suffix: pack(class_folders(draw(), folder), s), "class folders") for suffix in PACKERS),
        *((lambda folder, name=name: ARRAYS[name](draw(), folder), ".npz") for name in ARRAYS),
        *((lambda folder, name=name: IDX[name](draw("L"), folder), "IDX") for name in IDX),
        *((lambda folder, name=name: PARQUET[name](draw(), folder), "Parquet") for name in PARQUET),
    ],
)  # fmt: skip
def test_the_format_is_named(path: object, format_name: str, tmp_path: Path) -> None:
    facts = facts_of(path(tmp_path / "set"))  # type: ignore[operator]
    assert format_name in str(facts["format"])
    assert (facts["images"], facts["size"]) == (60, 20)
    assert facts["channels"] == (1 if format_name == "IDX" else 4)


@pytest.mark.parametrize("name", SPLITS)
def test_given_splits_and_images_that_are_in_two_of_them(name: str, tmp_path: Path) -> None:
    train = draw("L")
    test = draw("L", count=15, seed=1)
    test.pixels[:3] = train.pixels[:3]
    facts = facts_of(SPLITS[name]({"train": train, "test": test}, tmp_path / "set"))
    assert facts["splits_given"] is True
    assert facts["splits"] == {"train": 54, "val": 6, "test": 15}
    assert (facts["duplicates"], facts["duplicates_across_splits"], facts["duplicates_across_classes"]) == (3, 3, 0)
    assert re.search(r"\b3 of 15 test images are training images\b", str(facts["notes"]))


def test_copies_and_images_of_two_classes_are_counted(tmp_path: Path) -> None:
    drawn = draw("L")
    copies = np.concatenate([np.arange(60), [0, 0, 1, 3]])  # two more of the first, one of two others
    labels = drawn.labels[copies].copy()
    labels[62] = 2  # the copy of image 1 has another label
    facts = facts_of(labels_csv(Drawn(drawn.pixels[copies], labels, drawn.names), tmp_path / "set"))
    assert (facts["images"], facts["duplicates"]) == (64, 4)
    assert (facts["duplicates_across_splits"], facts["duplicates_across_classes"]) == (0, 1)


def test_sizes_modes_and_transparency_of_mixed_files(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    modes = {"L": 3, "RGB": 4, "RGBA": 5, "P": 2, "I;16": 1}
    for mode, count in modes.items():
        for i in range(count):
            size = (30, 40) if mode == "RGB" else (36, 36)
            noise = np.random.default_rng(i).integers(1, 255, size=(size[1], size[0], 4), dtype=np.uint8)
            image = Image.fromarray(noise)
            if mode == "I;16":
                image = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
            elif mode != "RGBA":
                image = image.convert("RGB").convert(mode)
            folder.mkdir(exist_ok=True)
            image.save(folder / f"{mode[0]}{len(mode)}{i}.png")
    facts = facts_of(folder)
    assert facts["format"] == "images without class folders"
    assert facts["sizes"] == {"36 × 36": 11, "30 × 40": 4}
    assert facts["modes"] == {"RGBA": 5, "RGB": 4, "L": 3, "P": 2, "16-bit integers": 1}
    assert facts["transparent"] == 5
    assert (facts["labeled"], facts["classes"]) == (False, [])
    assert (facts["size"], facts["channels"]) == (36, 4)
    assert "36 × 36" in str(facts["size_reason"])
    assert any("16-bit integers" in str(note) for note in facts["notes"])  # type: ignore[attr-defined]


def test_unreadable_files_and_captions_are_told_and_the_others_described(tmp_path: Path) -> None:
    folder = class_folders(draw("L"), tmp_path / "set")
    write(folder / "ape/broken.png", b"\x89PNG\r\n\x1a\nno image")
    write(folder / "bee/00001.txt", b"a caption")
    facts = facts_of(folder)
    assert facts["images"] == 60
    assert [*facts["unreadable"]] == [str(folder / "ape/broken.png")]  # type: ignore[misc]
    assert facts["other_files"] == 1
    result = inspect(folder)
    assert result.exit_code == 0
    assert str(folder / "ape/broken.png") in result.stdout


def test_a_set_of_unreadable_files_is_described_without_a_contact_sheet(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"set/{i}.png", b"no image")
    facts = facts_of(tmp_path / "set")
    assert facts["images"] == 0
    assert len(facts["unreadable"]) == 3  # type: ignore[arg-type]
    assert "contact_sheet" not in facts
    assert not (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize(
    ("mode", "side", "words", "size", "channels"),
    [
        ("L", 20, (), 20, 1),
        ("RGB", 20, (), 20, 3),
        ("RGBA", 20, (), 20, 4),
        ("RGBA", 20, ("--set", "data.channels=1"), 20, 1),
        ("L", 20, ("--set", "data.channels=4"), 20, 4),
        ("L", 20, ("--set", "data.size=32"), 32, 1),
        ("L", 23, (), 20, 1),
        ("L", 150, (), 128, 1),
        ("L", 7, (), 16, 1),
    ],
)
def test_size_and_channels_are_those_that_train_takes(
    mode: str, side: int, words: tuple[str, ...], size: int, channels: int, tmp_path: Path
) -> None:
    path = npz("images", "labels")(draw(mode, side=side, count=30), tmp_path / "set")
    facts = facts_of(path, *words)
    assert (facts["size"], facts["channels"]) == (size, channels)
    if "--set" in words:
        assert f"data.{words[1].split('=')[0][5:]}" in str(facts["size_reason"]) + str(facts["channels_reason"])
    elif side != size:
        assert str(side) in str(facts["size_reason"])
    settings = dict(word.removeprefix("data.").split("=") for word in words if word != "--set")
    data = DataSettings.model_validate(
        {"source": str(path), "num_workers": 0} | {key: int(value) for key, value in settings.items()}
    )
    assert load_split(data, "train").shape == (channels, size, size)


@pytest.mark.parametrize("writer", [class_folders, labels_csv, flat, npz("images", "labels")])
@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_counts_of_splits_are_those_of_train(writer: object, mode: str, tmp_path: Path) -> None:
    drawn = draw(mode, count=61)
    drawn.pixels[40:50] = drawn.pixels[10:20]
    if writer is flat:
        drawn = Drawn(drawn.pixels, np.zeros(61, np.int64), ())
    path = writer(drawn, tmp_path / "set")  # type: ignore[operator]
    data = DataSettings.model_validate({"source": str(path), "num_workers": 0})
    assert facts_of(path)["splits"] == {
        "train": len(load_split(data, "train")),
        "val": len(load_split(data, "val")),
        "test": len(load_split(data, "test")),
    }


# --- the contact sheet ---


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_each_row_of_the_contact_sheet_shows_images_of_one_class(mode: str, tmp_path: Path) -> None:
    drawn = draw(mode, count=90)
    facts_of(class_folders(drawn, tmp_path / "set"))
    rows = tiles(tmp_path / "sheet.png", 20)
    assert rows.shape[:2] == (3, 12)
    for label, row in enumerate(rows):
        members = {image.tobytes() for image in premultiplied(rgba(drawn.pixels[drawn.labels == label]))}
        shown = {image.tobytes() for image in premultiplied(row)}
        assert shown <= members
        assert len(shown) == 12, "different images"


def rgba(pixels: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(image).convert("RGBA")) for image in pixels])


def test_a_class_of_few_images_fills_its_row_by_repeating_them(tmp_path: Path) -> None:
    drawn = draw("L", count=40)
    labels = np.array([0] * 3 + [1] * 37)
    facts_of(labels_csv(Drawn(drawn.pixels, labels, ("ape", "bee")), tmp_path / "set"))
    first, second = tiles(tmp_path / "sheet.png", 20)
    rare = {image.tobytes() for image in rgba(drawn.pixels[:3])}
    assert {image.tobytes() for image in first} == rare
    assert not {image.tobytes() for image in second} & rare


def test_the_contact_sheet_of_unlabeled_images_shows_each_once(tmp_path: Path) -> None:
    drawn = draw("RGB", count=30)
    facts_of(flat(drawn, tmp_path / "set"))
    rows = tiles(tmp_path / "sheet.png", 20)
    assert rows.shape[:2] == (3, 12)
    shown = [image.tobytes() for image in rows.reshape(36, 20, 20, 4)]
    assert sorted(shown[:30]) == sorted(image.tobytes() for image in rgba(drawn.pixels))


def test_the_contact_sheet_is_named_after_the_data_set(ganctl: Ganctl, tmp_path: Path) -> None:
    pack(class_folders(draw(), tmp_path / "my emoji"), "tar.gz")
    done = ganctl("inspect", "my emoji.tar.gz", "--json")
    assert done.returncode == 0, done.stderr
    assert one_object(done.stdout)["contact_sheet"] == str(tmp_path / "contact-my-emoji.png")
    assert tiles(tmp_path / "contact-my-emoji.png", 20).shape[:2] == (3, 12)


# --- the command ---


def test_the_text_names_the_same_facts(tmp_path: Path) -> None:
    folder = split_folders(class_folders)({"train": draw(), "test": draw(count=15, seed=1)}, tmp_path / "set")
    result = inspect(folder)
    assert result.exit_code == 0, result.stderr
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if line.split()[0] != "class")
    assert lines["path"] == str(folder)
    assert lines["images"] == "75"
    assert lines["splits"] == "train: 54, val: 6, test: 15"
    assert lines["sizes"] == "20 × 20: 75"
    assert lines["channels"] == "4"
    assert [line.split()[1:3] for line in result.stdout.splitlines() if line.split()[0] == "class"] == [
        ["ape:", "25"],
        ["bee:", "25"],
        ["cat:", "25"],
    ]


def test_a_named_data_set_is_described_as_well(ganctl: Ganctl, tmp_path: Path) -> None:
    done = ganctl("inspect", "mnist", "--json")
    facts = one_object(done.stdout)
    assert (facts["images"], facts["size"], facts["channels"]) == (70_000, 28, 1)
    assert facts["splits"] == {"train": 55_000, "val": 5_000, "test": 10_000}
    assert [each["name"] for each in facts["classes"]] == [*"0123456789"]  # type: ignore[attr-defined]
    assert tiles(tmp_path / "contact-mnist.png", 28).shape[:2] == (10, 12)


FUNCTION = """
import torch
from ganctl.training.data.base import ImageSet

def few(settings, split):
    labels = torch.tensor([0, 0, 1, 1, 1, 1, 1])
    shades = 100 * labels + torch.arange(7)
    return ImageSet(shades.to(torch.uint8)[:, None, None, None].expand(7, 1, 16, 16).clone(), labels, ("dark", "light"))
"""


def test_a_function_is_described_as_well(ganctl: Ganctl, tmp_path: Path) -> None:
    (tmp_path / "my_shades.py").write_text(FUNCTION)
    done = ganctl("inspect", "my_shades:few", "--json", "--out", "sheet.png")
    assert done.returncode == 0, done.stderr
    assert one_object(done.stdout)["splits"] == {"train": 7, "val": 7, "test": 7}
    dark, light = tiles(tmp_path / "sheet.png", 16)
    assert dark.max(axis=(1, 2))[:, 0].max() < 100 <= light.min(axis=(1, 2))[:, 0].min()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("absent/folder",), 4, "absent/folder"),
        (("absent",), 4, "absent"),
        (("set", "--set", "data.size=30"), 3, "data.size"),
        (("set", "--set", "data.chanels=3"), 3, "data.chanels"),
        (("set", "--out", "set"), 2, "--out"),
        (("set", "--out", "/proc/sheet.png"), 1, "/proc/sheet.png"),
        ((), 2, "PATH"),
    ],
)
def test_exit_codes(words: tuple[str, ...], code: int, message: str, ganctl: Ganctl, tmp_path: Path) -> None:
    idx()(draw("L"), tmp_path / "set")
    done = ganctl("inspect", *words, "--json")
    assert done.returncode == code, done.stderr
    record = json.loads(done.stdout)
    assert record["exit_code"] == code
    assert message in record["error"] or message in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
