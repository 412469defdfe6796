"""Data in a form that is not read is named, with the content that was found and the way to give it."""

import gzip
import json
import logging
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
def test_a_table_beside_the_class_folders_is_told(table: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = fill(tmp_path / "root/00000")
    (tmp_path / "root" / table).write_text("{}")
    (root / "README.txt").write_text("read me")
    read(tmp_path / "root")
    (line,) = [message for message in caplog.messages if "not read" in message]
    assert line == f"{tmp_path / 'root'}: labels come from the class folders alone; not read: {table}"


@pytest.mark.parametrize(
    ("name", "content", "kind", "way"),
    [
        ("set.zip", b"PK\x03\x04rest", "a ZIP archive", "Unpack it"),
        ("set.tar", bytes(257) + b"ustar\x0000", "a tar archive", "Unpack it"),
        ("set.tar.gz", gzip.compress(b"x", mtime=0), "a gzip archive", "Unpack it"),
        ("set.7z", b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it"),
        ("train.parquet", b"PAR1rest", "a Parquet file", "into one folder for each class"),
        ("set.h5", b"\x89HDF\r\n\x1a\n", "an HDF5 file", "into one folder for each class"),
        ("set.csv", b"label,pixel0", "a file of another kind", "into one folder for each class"),
        ("empty", b"", "an empty file", "into one folder for each class"),
    ],
)
def test_a_file_in_the_place_of_the_folder_is_named(
    name: str, content: bytes, kind: str, way: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        DataError, match=f"data.root: {tmp_path / name} is {kind}, expected a folder with one"
    ) as raised:
        read(tmp_path / name)
    assert way in str(raised.value)
    (tmp_path / "alone").mkdir()
    (tmp_path / name).rename(tmp_path / "alone" / name)
    with pytest.raises(DataError, match="has no class folders") as raised:
        read(tmp_path / "alone")
    assert f"{name} is {kind}" in str(raised.value)
    assert way in str(raised.value)


def test_an_npz_file_is_named_with_its_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", train_images=DIGITS, train_labels=LABELS[:, None].astype(np.uint8))
    described = r"an .npz file with train_images uint8 \(20, 28, 28\), train_labels uint8 \(20, 1\)"
    for name in ("folder", "mnist"):
        with pytest.raises(DataError, match=f"is {described}, expected"):
            load_split(DataSettings.model_validate({"name": name, "root": tmp_path / "set.npz"}), "train")
    (tmp_path / "set.npz").write_bytes((tmp_path / "set.npz").read_bytes()[:200])
    with pytest.raises(DataError, match=r"is a damaged .npz file"):
        read(tmp_path / "set.npz")


def test_one_image_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", images=3)
    with pytest.raises(DataError, match=r"is one image \(PNG\).*Give the folder that holds the class"):
        read(root / "cat/0.png")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
def test_idx_files_of_another_size_are_told_with_both_sizes(name: str, tmp_path: Path) -> None:
    root = write_idx_set(tmp_path / "idx")
    with pytest.raises(DataError, match="train-images-idx3-ubyte: found 20 × 28 × 28 bytes, expected 60000 × 28 × 28"):
        load_split(DataSettings.model_validate({"name": name, "root": root}), "train")


def test_idx_files_in_the_place_of_class_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte is an IDX file of 20 × 28 × 28 bytes") as raised:
        read(write_idx_set(tmp_path / "idx"))
    assert "Give data.name=mnist, fashion-mnist or kmnist" in str(raised.value)


@pytest.mark.parametrize("below", ["", "PetImages"])
def test_images_where_mnist_is_expected_suggest_the_setting_that_reads_them(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "pictures"
    fill(root / below)
    (root / "Thumbs.db").write_bytes(b"x")
    before = sorted(root.rglob("*"))
    with pytest.raises(
        DataError, match=f"{root} has no files of mnist, but images in {root / below / 'cat'}"
    ) as raised:
        load_split(DataSettings.model_validate({"root": root}), "train")
    assert "--set data.name=folder" in str(raised.value)
    assert sorted(root.rglob("*")) == before, "nothing was downloaded there"


def test_the_command_suggests_it_too(tmp_path: Path) -> None:
    root = fill(tmp_path / "pictures")
    done = CliRunner().invoke(cli, ["train", "--dry-run", "--set", f"data.root={root}"])
    assert done.exit_code == 4
    assert "add data.name=folder" in done.stderr


@pytest.mark.parametrize(
    ("arrays", "fault"),
    [
        ({"images": DIGITS[:, None]}, "found images uint8 (20, 1, 28, 28) with channels first, expected"),
        ({"images": np.stack([DIGITS] * 3, 1)}, "found images uint8 (20, 3, 28, 28) with channels first"),
        ({"images": (DIGITS / 255).astype(np.float32)}, "found images float32 (20, 28, 28), expected uint8"),
        ({"images": DIGITS, "labels": LABELS.astype(np.uint8)}, "found labels uint8 (20,), expected int64 (20,)."),
        ({"images": DIGITS, "labels": LABELS[:, None]}, "found labels int64 (20, 1), expected int64 (20,). Convert"),
        (
            {"x": DIGITS, "y": LABELS},
            "found an .npz file with x uint8 (20, 28, 28), y int64 (20,); expected `images` and `labels`",
        ),
    ],
)
def test_arrays_that_cannot_be_scored_are_named_with_their_shapes(
    arrays: dict[str, np.ndarray], fault: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "drawn.npz", **arrays)  # type: ignore[arg-type]  # NumPy's own option is a bool
    done = CliRunner().invoke(cli, ["evaluate", str(tmp_path / "drawn.npz")])
    assert done.exit_code == 4
    assert f"drawn.npz: {fault}" in done.stderr


@pytest.mark.parametrize("suffix", [".txt", ".json", ".caption", ".npz", ".xml", ".png.txt", ".HEIC"])
def test_captions_beside_images_are_told_once_and_can_be_left_out(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill(tmp_path / "pets")
    sizes = [len(read(root, split)) for split in ("train", "val", "test")]
    for path in sorted(root.rglob("*.png")):
        path.with_suffix(suffix).write_text("a photo")
    kind = suffix.rpartition(".")[2].lower()
    listed = f"40 files with the name of an image, such as {root / 'cat/0'}{suffix}: .{kind} (40)"
    with pytest.raises(DataError, match=r"cannot be read as images \(40\)\. .* data.skip_corrupt=true") as raised:
        read(root)
    assert str(raised.value).splitlines()[1:] == [f"  - {listed}"]
    with caplog.at_level(logging.WARNING):
        assert [len(read(root, split, skip_corrupt=True)) for split in ("train", "val", "test")] == sizes
    assert caplog.text.count(listed) == 1


def test_captions_that_come_later_are_told_although_the_images_are_in_the_cache(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets")
    assert count(root) == 40
    (root / "cat/0.txt").write_text("a photo")
    with pytest.raises(DataError, match=r"cannot be read as images \(1\)"):
        read(root)


def test_a_stylegan_archive_is_told(tmp_path: Path) -> None:
    root = fill(tmp_path / "images", images=3)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("dataset.json", json.dumps({"labels": [["cat/0.png", 0]]}))
        archive.write(root / "cat/0.png", "cat/0.png")
    with pytest.raises(DataError, match=r"set.zip is a ZIP archive, expected a folder with one folder of images"):
        read(tmp_path / "set.zip")
