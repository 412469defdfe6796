"""Errors about data in an unknown or damaged format, or in two formats, name the file, its content and the remedy."""

import gzip
import logging
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ganctl.main import cli
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.datasets import load_split
from ganctl.training.errors import DataError
from tests.unit.training.folders import count, fill, fill_flat, posix, read

pytestmark = pytest.mark.usefixtures("data_cache")

DIGITS = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
LABELS = np.arange(20) % 10


def write_idx(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()
    )
    return path


def write_idx_set(folder: Path) -> Path:
    for part in ("train", "t10k"):
        write_idx(folder / f"{part}-images-idx3-ubyte", DIGITS)
        write_idx(folder / f"{part}-labels-idx1-ubyte", LABELS.astype(np.uint8))
    return folder


@pytest.mark.parametrize(
    "table", ["metadata.jsonl", "labels.json", "train.csv", "Labels.tsv", "train.txt", "annotations.xml", "y.npy"]
)
@pytest.mark.parametrize("labeled", [True, False])
def test_a_table_of_an_unknown_format_next_to_the_images_is_reported_as_ignored(
    labeled: bool, table: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill(tmp_path / "root/00000", images=5) if labeled else fill_flat(tmp_path / "root", images=10)
    (tmp_path / "root" / table).write_text("{}")
    (root / "README.txt").write_text("read me")
    assert read(tmp_path / "root").class_names == (("cat", "dog") if labeled else ())
    (note,) = [message for message in caplog.messages if table in message]
    assert note.startswith(f"{tmp_path / 'root'}: ")
    assert note.endswith(f": {table}"), "no other file is listed"


@pytest.mark.parametrize("table", ["dataset.json", "labels.csv", "metadata.csv"])
@pytest.mark.parametrize("below", ["", "00000"])
def test_a_table_of_a_known_format_next_to_class_folders_is_never_ignored(
    below: str, table: str, tmp_path: Path
) -> None:
    fill(tmp_path / "root" / below, images=3)
    (tmp_path / "root" / table).write_text("{}")
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "root" / table))):
        read(tmp_path / "root")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("labels.csv", "dataset.json"),
        ("metadata.csv", "set.npz"),
        ("0.png", "set.npz"),
        ("0.png", "train.parquet"),
        ("0.png", "train-images-idx3-ubyte"),
        ("set.npz", "train-images-idx3-ubyte"),
    ],
)
def test_two_formats_in_one_folder_are_an_error_that_names_both(first: str, second: str, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    for name in (first, second):
        (tmp_path / "root" / name).write_bytes(b"x")
    with pytest.raises(DataError, match=rf"data\.source: .*{tmp_path / 'root'}") as raised:
        read(tmp_path / "root")
    for name in (first, second):
        assert (name if name != "0.png" else "1 images") in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "kind", "remedy"),
    [
        ("set.7z", b"7z\xbc\xaf\x27\x1c", "7z", "Unpack"),
        ("set.rar", b"Rar!\x1a\x07\0", "RAR", "Unpack"),
        ("set.tar.zst", b"\x28\xb5\x2f\xfdrest", "Zstandard", "Unpack"),
        ("set.gz", gzip.compress(b"x", mtime=0), "gzip", "Unpack"),
        ("set.h5", b"\x89HDF\r\n\x1a\n", "HDF5", "PNG"),
        ("set.npy", b"\x93NUMPY\1\0", "npy", "PNG"),
        ("set.csv", b"label,pixel0", "another kind", "PNG"),
        ("empty", b"", "empty", "PNG"),
    ],
)
def test_the_error_for_a_file_of_an_unknown_format_names_its_kind_and_the_remedy(
    name: str, content: bytes, kind: str, remedy: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"data\.source: {tmp_path / name} .*\b{kind}\b.*\b{remedy}\b"):
        read(tmp_path / name)
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / name).rename(folder / name)
    with pytest.raises(DataError, match=rf"data\.source: {folder} .*\b{remedy}\b") as raised:
        read(folder)
    assert re.search(rf"- {name} .*\b{kind}\b", str(raised.value))


@pytest.mark.parametrize("name", ["set.zip", "set.tar", "set.tar.gz", "set.tgz", "set.npz", "set.parquet"])
def test_the_error_for_a_damaged_file_of_a_known_format_names_it(name: str, tmp_path: Path) -> None:
    if name == "set.parquet":
        pytest.importorskip("pyarrow")
    begin = {".zip": b"PK\x03\x04", ".npz": b"PK\x03\x04", ".tar": bytes(257) + b"ustar\x0000", ".parquet": b"PAR1"}
    (tmp_path / name).write_bytes(begin.get(Path(name).suffix, gzip.compress(b"x", mtime=0)) + b"rest")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / name}: ")):
        read(tmp_path / name)


@posix
@pytest.mark.parametrize("name", ["/dev/null", "Thumbs.db", ".hidden"])
def test_the_error_for_a_device_or_an_ignored_file_names_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if not path.exists():
        path.write_bytes(b"x")
    with pytest.raises(DataError, match=rf"data\.source: {path} "):
        read(path)


def test_an_archive_of_archives_is_an_error_that_names_them(tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "inner"), "zip", fill(tmp_path / "pets", images=3))
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        for name in ("a.zip", "b.zip", "c.zip", "d.zip"):
            archive.write(tmp_path / "inner.zip", name)
    with pytest.raises(DataError, match=rf"data\.source: {tmp_path / 'outer.zip'} .*\bUnpack\b") as raised:
        read(tmp_path / "outer.zip")
    assert re.search(r"- a\.zip .*\bZIP\b", str(raised.value))


def test_the_error_for_an_archive_of_damaged_files_names_them(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("a.bin", "b.bin", "c.bin"):
            archive.writestr(name, b"no image")
    content = (tmp_path / "set.zip").read_bytes()
    (tmp_path / "set.zip").write_bytes(content[:4] + content[4:].replace(b"PK\3\4", b"PK\3\5"))
    with pytest.raises(DataError, match=rf"data\.source: {tmp_path / 'set.zip'} ") as raised:
        read(tmp_path / "set.zip")
    assert re.search(r"- b\.bin .*\bcannot be read\b", str(raised.value))


def test_the_error_for_an_npz_file_of_other_arrays_lists_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", a=DIGITS, b=LABELS[:, None].astype(np.uint8))
    with pytest.raises(DataError, match=r"set\.npz: .*\ba uint8 \(20, 28, 28\), b uint8 \(20, 1\)"):
        read(tmp_path / "set.npz")


def test_the_error_for_an_image_instead_of_a_folder_names_its_format(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", images=3)
    with pytest.raises(DataError, match=r"data\.source: .*cat/0\.png .*\(PNG\)"):
        read(root / "cat/0.png")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
def test_the_error_for_a_named_set_of_another_size_names_both_sizes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH_DATASETS", str(write_idx_set(tmp_path / "idx")))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte: .*\b20 × 28 × 28\b.*\b60000 × 28 × 28\b"):
        load_split(DataSettings(source=name), "train")
    assert read(tmp_path / "idx").class_names == tuple("0123456789"), "its path is read as a set of any size"


@pytest.mark.parametrize(
    ("arrays", "found", "expected"),
    [
        ({"images": np.stack([DIGITS] * 2, 1)}, "images uint8 (20, 2, 28, 28)", "[N, C, H, W] with 1, 3 or 4 channels"),
        ({"images": (DIGITS / 255).astype(np.float32)}, "images float32 (20, 28, 28)", "uint8"),
        ({"images": DIGITS, "labels": LABELS.astype(np.uint8)}, "labels uint8 (20,)", "int64 (20,)"),
        ({"images": DIGITS, "labels": LABELS[:, None]}, "labels int64 (20, 1)", "int64 (20,)"),
        ({"x": DIGITS, "y": LABELS}, "x uint8 (20, 28, 28), y int64 (20,)", "`images` and `labels`"),
    ],
)
def test_the_error_for_arrays_that_cannot_be_scored_names_found_and_expected_arrays(
    arrays: dict[str, np.ndarray], found: str, expected: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "generated.npz", **arrays)  # type: ignore[arg-type]  # savez also has a bool parameter
    result = CliRunner().invoke(cli, ["evaluate", str(tmp_path / "generated.npz")])
    assert result.exit_code == 4
    assert re.search(rf"generated\.npz: .*{re.escape(found)}.*{re.escape(expected)}", result.stderr), result.stderr


@pytest.mark.parametrize("suffix", [".txt", ".json", ".caption", ".npz", ".xml", ".png.txt", ".HEIC"])
def test_caption_files_next_to_images_are_reported_in_one_line_and_can_be_skipped(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill(tmp_path / "pets")
    sizes = [len(read(root, split)) for split in ("train", "val", "test")]
    for path in sorted(root.rglob("*.png")):
        path.with_suffix(suffix).write_text("a photo")
    kind = suffix.rpartition(".")[2].lower()
    with pytest.raises(DataError, match=r"data\.source: .*\(40\).*\bdata\.skip_corrupt=true\b") as raised:
        read(root)
    (line,) = str(raised.value).splitlines()[1:]
    assert line.startswith("  - 40 files ")
    assert line.endswith(f" {root / 'cat/0'}{suffix}: .{kind} (40)")
    with caplog.at_level(logging.WARNING):
        assert [len(read(root, split, skip_corrupt=True)) for split in ("train", "val", "test")] == sizes
    assert caplog.text.count(line) == 1


def test_new_caption_files_are_reported_although_the_images_are_cached(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    assert count(root) == 40
    (root / "cat/0.txt").write_text("a photo")
    with pytest.raises(DataError, match=r"(?s)data\.source: .*\(1\).*cat/0\.txt"):
        read(root)
