"""Errors about data in an unsupported format name the file, its content and the remedy."""

import gzip
import json
import logging
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ganctl.main import cli
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.datasets import load_split
from ganctl.training.errors import DataError
from tests.unit.training.folders import count, fill, read

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
    "table", ["dataset.json", "labels.csv", "metadata.csv", "metadata.jsonl", "train.txt", "annotations.xml", "y.npy"]
)
def test_a_table_of_labels_next_to_the_class_folders_is_reported_as_ignored(
    table: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill(tmp_path / "root/00000")
    (tmp_path / "root" / table).write_text("{}")
    (root / "README.txt").write_text("read me")
    read(tmp_path / "root")
    (note,) = [message for message in caplog.messages if table in message]
    assert note.startswith(f"{tmp_path / 'root'}: ")
    assert note.endswith(f": {table}"), "no other file is listed"


@pytest.mark.parametrize(
    ("name", "content", "kind", "remedy"),
    [
        ("set.zip", b"PK\x03\x04rest", "ZIP", "Unpack"),
        ("set.tar", bytes(257) + b"ustar\x0000", "tar", "Unpack"),
        ("set.tar.gz", gzip.compress(b"x", mtime=0), "gzip", "Unpack"),
        ("set.7z", b"7z\xbc\xaf\x27\x1c", "7z", "Unpack"),
        ("train.parquet", b"PAR1rest", "Parquet", "PNG"),
        ("set.h5", b"\x89HDF\r\n\x1a\n", "HDF5", "PNG"),
        ("set.csv", b"label,pixel0", "another kind", "PNG"),
        ("empty", b"", "empty", "PNG"),
    ],
)
def test_the_error_for_a_file_instead_of_a_folder_names_its_kind_and_the_remedy(
    name: str, content: bytes, kind: str, remedy: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"data\.root: {tmp_path / name} .*\b{kind}\b.*\b{remedy}\b"):
        read(tmp_path / name)
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / name).rename(folder / name)
    with pytest.raises(DataError, match=rf"data\.root: {folder} .*\b{remedy}\b") as raised:
        read(folder)
    assert re.search(rf"- {name} .*\b{kind}\b", str(raised.value))


def test_the_error_for_an_npz_file_lists_its_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", train_images=DIGITS, train_labels=LABELS[:, None].astype(np.uint8))
    arrays = r"train_images uint8 \(20, 28, 28\), train_labels uint8 \(20, 1\)"
    for name in ("folder", "mnist"):
        with pytest.raises(DataError, match=rf"data\.root: .*set\.npz .*{arrays}"):
            load_split(DataSettings.model_validate({"name": name, "root": tmp_path / "set.npz"}), "train")
    (tmp_path / "set.npz").write_bytes((tmp_path / "set.npz").read_bytes()[:200])
    with pytest.raises(DataError, match=r"data\.root: .*set\.npz .*\bdamaged\b"):
        read(tmp_path / "set.npz")


def test_the_error_for_an_image_instead_of_a_folder_names_its_format(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", images=3)
    with pytest.raises(DataError, match=r"data\.root: .*cat/0\.png .*\(PNG\)"):
        read(root / "cat/0.png")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
def test_the_error_for_idx_files_of_another_size_names_both_sizes(name: str, tmp_path: Path) -> None:
    root = write_idx_set(tmp_path / "idx")
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte: .*\b20 × 28 × 28\b.*\b60000 × 28 × 28\b"):
        load_split(DataSettings.model_validate({"name": name, "root": root}), "train")


def test_the_error_for_idx_files_instead_of_class_folders_names_their_size_and_data_name(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"(?s)data\.root: .*train-images-idx3-ubyte .*IDX .*\b20 × 28 × 28\b"
    ) as raised:
        read(write_idx_set(tmp_path / "idx"))
    assert "data.name=mnist, fashion-mnist or kmnist" in str(raised.value)


@pytest.mark.parametrize("below", ["", "PetImages"])
def test_the_error_for_images_instead_of_mnist_names_them_and_suggests_data_name_folder(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "images"
    fill(root / below)
    (root / "Thumbs.db").write_bytes(b"x")
    before = sorted(root.rglob("*"))
    with pytest.raises(DataError, match=rf"data\.root: {root} .*\bmnist\b.* {root / below / 'cat'};") as raised:
        load_split(DataSettings.model_validate({"root": root}), "train")
    assert "--set data.name=folder" in str(raised.value)
    assert sorted(root.rglob("*")) == before, "nothing was downloaded"


def test_the_train_command_suggests_data_name_folder_for_a_folder_of_images(tmp_path: Path) -> None:
    root = fill(tmp_path / "images")
    result = CliRunner().invoke(cli, ["train", "--dry-run", "--set", f"data.root={root}"])
    assert result.exit_code == 4
    assert f"data.root: {root} " in result.stderr
    assert "data.name=folder" in result.stderr


@pytest.mark.parametrize(
    ("arrays", "found", "expected"),
    [
        ({"images": DIGITS[:, None]}, "images uint8 (20, 1, 28, 28)", "images.transpose(0, 2, 3, 1)"),
        ({"images": np.stack([DIGITS] * 3, 1)}, "images uint8 (20, 3, 28, 28)", "images.transpose(0, 2, 3, 1)"),
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
    with pytest.raises(DataError, match=r"data\.root: .*\(40\).*\bdata\.skip_corrupt=true\b") as raised:
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
    with pytest.raises(DataError, match=r"(?s)data\.root: .*\(1\).*cat/0\.txt"):
        read(root)


def test_the_error_for_a_stylegan_archive_names_a_zip_archive(tmp_path: Path) -> None:
    root = fill(tmp_path / "images", images=3)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("dataset.json", json.dumps({"labels": [["cat/0.png", 0]]}))
        archive.write(root / "cat/0.png", "cat/0.png")
    with pytest.raises(DataError, match=r"data\.root: .*set\.zip .*\bZIP\b"):
        read(tmp_path / "set.zip")
