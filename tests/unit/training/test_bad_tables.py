"""Bad tables of labels (CSV, JSON, Parquet): one message that names the path, and exit code 4."""

import csv
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ganctl.main import cli
from tests.conftest import Ganctl
from tests.unit.training.bad_data import Build, assert_refused, cases, cut, entries
from tests.unit.training.formats import draw, flat, labels_csv, parquet_file, write, write_table


def table_with(*rows: tuple[str, ...], head: tuple[str, ...] = ("file", "label"), name: str = "labels.csv") -> Build:
    """Returns a function that writes 60 images, and a table of them and of these rows."""

    def build(folder: Path) -> Path:
        drawn = draw("L")
        flat(drawn, folder / "set")
        all_rows = [(f"{i:05}.png", drawn.name(i)) for i in range(60)]
        with (folder / "set" / name).open("w", newline="") as file:
            csv.writer(file).writerows([head, *all_rows, *rows])
        return folder / "set"

    return build


def json_with(labels: object) -> Build:
    def build(folder: Path) -> Path:
        flat(draw("L"), folder / "set")
        (folder / "set/dataset.json").write_text(json.dumps({"labels": labels}))
        return folder / "set"

    return build


def raw_table(content: bytes, name: str = "labels.csv") -> Build:
    return lambda folder: write(flat(draw("L"), folder / "set") / name, content).parent


def half_labeled_csv(folder: Path) -> Path:
    labels_csv(draw("L"), folder / "set/train")
    test = flat(draw("L", count=15), folder / "set/test")
    return write_table(test / "labels.csv", ("file", "text"), [(f"{i:05}.png", "x") for i in range(15)]).parent


ALL = [(f"{i:05}.png", i % 3) for i in range(60)]
TABLES: list[tuple[str, Build, str]] = [
    ("an absent file", table_with(("absent.png", "ape")), "absent.png"),
    ("a file outside", table_with(("../outside.png", "ape")), "outside.png"),
    ("a file from the root", table_with(("/etc/passwd", "ape")), "/etc/passwd"),
    ("a file twice", table_with(("00007.png", "bee")), "00007.png"),
    ("no file name", table_with(("", "bee")), "labels.csv"),
    ("no label in one row", table_with(("00007.png", "")), "row 62"),
    ("no column of files", table_with(head=("photo", "label")), "photo"),
    ("no rows", raw_table(b"file,label\r\n"), "labels.csv"),
    ("an empty table", raw_table(b""), "labels.csv"),
    ("not UTF-8", raw_table("file,label\r\n00000.png,b\xe4r\r\n".encode("latin-1")), "UTF-8"),
    ("no column of labels in one split", half_labeled_csv, "15 images"),
    ("absent file in metadata.csv", table_with(("absent.png", "ape"), name="metadata.csv"), "metadata.csv"),
    ("absent file in dataset.json", json_with([*ALL, ("absent.png", 1)]), "absent.png"),
    ("a file twice in dataset.json", json_with([*ALL, ("00003.png", 0)]), "00003.png"),
    ("names as labels in dataset.json", json_with([[name, "ape"] for name, _ in ALL]), "ape"),
    ("vectors as labels in dataset.json", json_with([[name, [0.0, 1.0]] for name, _ in ALL]), "[0.0, 1.0]"),
    ("a map as labels in dataset.json", json_with(dict(ALL)), "dataset.json"),
    ("no labels in dataset.json", raw_table(b'{"other": 1}', "dataset.json"), "dataset.json"),
    ("no JSON in dataset.json", raw_table(b'{"labels": [', "dataset.json"), "dataset.json"),
]  # fmt: skip


@cases(TABLES)
def test_tables(build: Build, message: str, ganctl: Ganctl, tmp_path: Path) -> None:
    assert_refused(ganctl, tmp_path, build(tmp_path), message)


@cases([TABLES[0]])
def test_inspect_refuses_tables(build: Build, message: str, ganctl: Ganctl, tmp_path: Path) -> None:
    assert_refused(ganctl, tmp_path, build(tmp_path), message, command="inspect")


def parquet_with(**columns: list[object]) -> Build:
    def build(folder: Path) -> Path:
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.table(columns), folder / "set.parquet")
        return folder / "set.parquet"

    return build


def images_as_bytes() -> list[object]:
    return [draw("L").png(i) for i in range(60)]


PARQUET: list[tuple[str, Build, str]] = [
    ("no images", parquet_with(text=["a", "b"], label=[0, 1]), "text"),
    ("paths in place of images", parquet_with(image=["1.png", "2.png"], label=[0, 1]), "image"),
    ("an absent image", parquet_with(image=[*images_as_bytes()[:9], None], label=[0, 1] * 5), "row 9"),
    ("an absent label", parquet_with(image=images_as_bytes(), label=[*range(59), None]), "label"),
    ("float labels", parquet_with(image=images_as_bytes(), label=[0.5] * 60), "0.5"),
    ("two columns of images", parquet_with(left=images_as_bytes(), right=images_as_bytes()), "left"),
    ("no rows", parquet_with(image=images_as_bytes()[:0], label=[]), "set.parquet"),
    ("a truncated file", cut(lambda folder: parquet_file(folder / "set.parquet", draw("L")), 0.5), "set.parquet"),
    ("a damaged image", parquet_with(image=[*images_as_bytes()[:59], b"x"], label=[0] * 60), "row 59"),
]


@cases(PARQUET)
def test_parquet(build: Build, message: str, ganctl: Ganctl, tmp_path: Path) -> None:
    assert_refused(ganctl, tmp_path, build(tmp_path), message)


def test_parquet_without_pyarrow_names_the_package_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "set.parquet", b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = CliRunner().invoke(cli, ["train", str(path)])
    assert result.exit_code == 4
    assert f"{path}: " in result.stderr
    assert "pip install 'ganctl[parquet]'" in result.stderr
    assert entries(tmp_path) == ["set.parquet"]
