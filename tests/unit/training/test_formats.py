"""The same images give the same tensors in every format: pixels, labels, splits and their order."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet, Split
from ganctl.training.data.datasets import load_split
from tests.conftest import Ganctl
from tests.unit.training.formats import (
    ARRAYS,
    FOLDERS,
    IDX,
    PACKERS,
    PARQUET,
    SPLITS,
    Drawn,
    Writer,
    channels_first,
    class_folders,
    dataset_json,
    draw,
    flat,
    idx,
    idx_file,
    npz,
    pack,
    parquet_file,
    premultiplied,
    split_folders,
    split_idx,
    write_table,
)

PARTS: tuple[Split, ...] = ("train", "val", "test")


def read_parts(path: Path, **settings: object) -> dict[Split, ImageSet]:
    data = DataSettings.model_validate({"source": str(path), "num_workers": 0, **settings})
    return {split: load_split(data, split) for split in PARTS}


def digests(parts: Mapping[Split, ImageSet]) -> dict[str, str]:
    """Returns a digest of pixels and labels, in their order, of each split."""
    return {
        split: hashlib.sha256(part.images.numpy().tobytes() + part.labels.numpy().tobytes()).hexdigest()
        for split, part in parts.items()
    }


def names(parts: Mapping[Split, ImageSet]) -> tuple[str, ...]:
    """Returns the class names, which all splits share."""
    (class_names,) = {part.class_names for part in parts.values()}
    return class_names


def content(parts: Mapping[Split, ImageSet]) -> Counter[tuple[int, bytes]]:
    """Counts (label, pixels) over all splits."""
    pairs = [pair for part in parts.values() for pair in zip(part.labels.tolist(), part.images.numpy(), strict=True)]
    return Counter((label, pixels.tobytes()) for label, pixels in pairs)


def drawn_content(drawn: Drawn) -> Counter[tuple[int, bytes]]:
    pairs = zip(drawn.labels.tolist(), premultiplied(drawn.pixels), strict=True)
    return Counter((label, pixels.tobytes()) for label, pixels in pairs)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Digests of the drawn sets in class folders, by mode."""
    result = {}
    for mode in ("L", "RGB", "RGBA"):
        drawn = draw(mode)
        parts = read_parts(class_folders(drawn, tmp_path_factory.mktemp(mode) / "set"))
        assert content(parts) == drawn_content(drawn), "each image once, with its label, premultiplied"
        assert names(parts) == drawn.names
        assert {split: torch.bincount(part.labels).tolist() for split, part in parts.items()} == {
            "train": [16, 16, 16],
            "val": [2, 2, 2],
            "test": [2, 2, 2],
        }
        result[mode] = digests(parts)
    return result


@pytest.mark.parametrize("packed", ["folder", *PACKERS])
@pytest.mark.parametrize("name", FOLDERS)
def test_image_files_in_a_folder_or_an_archive(
    name: str, packed: str, expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    drawn = draw().shuffled(seed=1)
    path = FOLDERS[name](drawn, tmp_path / "emoji")
    parts = read_parts(path if packed == "folder" else pack(path, packed))
    assert digests(parts) == expected["RGBA"]
    assert names(parts) == (("0", "1", "2") if name == "dataset.json" else drawn.names)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_in_npz(name: str, mode: str, expected: dict[str, dict[str, str]], tmp_path: Path) -> None:
    parts = read_parts(ARRAYS[name](draw(mode).shuffled(seed=2), tmp_path))
    assert digests(parts) == expected[mode]
    assert names(parts) == ("0", "1", "2")


def test_gray_arrays_with_a_channel_at_the_end(expected: dict[str, dict[str, str]], tmp_path: Path) -> None:
    path = npz("images", "labels", lambda pixels: pixels[..., None])(draw("L"), tmp_path)
    assert digests(read_parts(path)) == expected["L"]


def test_labels_in_npz_may_be_names(expected: dict[str, dict[str, str]], tmp_path: Path) -> None:
    drawn = draw()
    np.savez(tmp_path / "set.npz", images=drawn.pixels, labels=np.array(drawn.names)[drawn.labels])
    parts = read_parts(tmp_path / "set.npz")
    assert digests(parts) == expected["RGBA"]
    assert names(parts) == drawn.names


@pytest.mark.parametrize("name", IDX)
def test_idx_files(name: str, expected: dict[str, dict[str, str]], tmp_path: Path) -> None:
    parts = read_parts(IDX[name](draw("L").shuffled(seed=3), tmp_path))
    assert digests(parts) == expected["L"]
    assert names(parts) == ("0", "1", "2")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("name", PARQUET)
def test_parquet(name: str, mode: str, expected: dict[str, dict[str, str]], tmp_path: Path) -> None:
    drawn = draw(mode).shuffled(seed=4)
    parts = read_parts(PARQUET[name](drawn, tmp_path))
    assert digests(parts) == expected[mode]
    assert names(parts) == drawn.names


@pytest.mark.parametrize("suffix", ["zip", "tar.xz"])
@pytest.mark.parametrize("writer", [npz("images", "labels"), idx("train-", ".gz"), PARQUET["Parquet"]])
def test_array_files_in_an_archive(
    writer: Writer, suffix: str, expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    writer(draw("L"), tmp_path / "set")
    assert digests(read_parts(pack(tmp_path / "set", suffix))) == expected["L"]


def given_splits(mode: str = "L") -> dict[str, Drawn]:
    drawn = draw(mode, count=75)
    return {"train": drawn.take(np.arange(60)), "test": drawn.take(np.arange(60, 75))}


@pytest.mark.parametrize("packed", ["folder", "zip", "tar.gz"])
@pytest.mark.parametrize("name", [*SPLITS, "IDX"])
def test_given_splits_are_kept_and_the_missing_one_comes_from_train(name: str, packed: str, tmp_path: Path) -> None:
    splits = given_splits()
    path = (SPLITS | {"IDX": split_idx})[name](splits, tmp_path / "set")
    path = path if packed == "folder" else pack(tmp_path / "set", packed)
    parts = read_parts(path)
    assert content({"test": parts["test"]}) == drawn_content(splits["test"])
    assert content({"train": parts["train"], "val": parts["val"]}) == drawn_content(splits["train"])
    assert torch.bincount(parts["val"].labels).tolist() == [2, 2, 2]
    assert digests(parts) == digests(read_parts(split_folders(class_folders)(splits, tmp_path / "reference")))


def test_all_three_splits_may_be_given(tmp_path: Path) -> None:
    splits = given_splits("RGBA") | {"val": draw(count=9, seed=1)}
    wanted = {split: drawn_content(drawn) for split, drawn in splits.items()}
    for name, writer in SPLITS.items():
        parts = read_parts(writer(splits, tmp_path / name / "set"))
        assert {split: content({split: part}) for split, part in parts.items()} == wanted, name


UNLABELED: dict[str, Writer] = {
    "flat folder": flat,
    "flat zip": lambda drawn, root: pack(flat(drawn, root / "set"), "zip"),
    "flat tar.xz": lambda drawn, root: pack(flat(drawn, root / "set"), "tar.xz"),
    "dataset.json": dataset_json,
    "metadata.csv": lambda drawn, root: write_table(
        flat(drawn, root) / "metadata.csv", ("file_name", "text"), [(f"{i:05}.png", "words") for i in range(len(drawn))]
    ),
    "npz": npz("images", "labels"),
    "npz, channels first": npz("x_train", "y_train", channels_first),
    "IDX": idx(),
    "Parquet": lambda drawn, root: parquet_file(root / "set.parquet", drawn),
}


@pytest.mark.parametrize("name", UNLABELED)
def test_images_without_labels(name: str, tmp_path: Path) -> None:
    drawn = draw("L")
    unlabeled = Drawn(drawn.pixels, np.zeros_like(drawn.labels), ())
    parts = read_parts(UNLABELED[name](unlabeled, tmp_path / "set"))
    assert content(parts) == drawn_content(unlabeled)
    assert names(parts) == ()
    assert {part.num_classes for part in parts.values()} == {1}
    assert digests(parts) == digests(read_parts(flat(unlabeled, tmp_path / "reference")))


def test_split_folders_without_labels(tmp_path: Path) -> None:
    splits = {
        split: Drawn(drawn.pixels, np.zeros_like(drawn.labels), ()) for split, drawn in given_splits("RGBA").items()
    }
    parts = read_parts(split_folders(flat)(splits, tmp_path / "set"))
    assert names(parts) == ()
    assert content({"test": parts["test"]}) == drawn_content(splits["test"])


def test_labels_that_are_numbers_are_classes_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    drawn = draw("L")
    idx_file(tmp_path / "set/images-idx3-ubyte", drawn.pixels)
    idx_file(tmp_path / "set/labels-idx1-ubyte", np.array([2, 10, 9], np.uint8)[drawn.labels])
    parts = read_parts(tmp_path / "set")
    assert names(parts) == ("2", "9", "10")
    assert content(parts) == drawn_content(Drawn(drawn.pixels, np.array([0, 2, 1])[drawn.labels], ()))


def test_images_of_another_file_format_with_equal_pixels(expected: dict[str, dict[str, str]], tmp_path: Path) -> None:
    drawn = draw()
    for suffix in ("webp", "tiff"):
        for i in range(len(drawn)):
            path = tmp_path / suffix / drawn.name(i) / f"{i}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            options = {"lossless": True, "exact": True, "method": 0} if suffix == "webp" else {}
            Image.fromarray(drawn.pixels[i]).save(path, **options)  # type: ignore[arg-type]
        assert digests(read_parts(tmp_path / suffix)) == expected["RGBA"]


def pack_folder(folder: Path, path: Path) -> Path:
    """Packs a folder with its own name, as `zip -r` and `tar c` do."""
    suffix = path.name.partition(".")[2]
    shutil.make_archive(str(path).removesuffix(f".{suffix}"), ARCHIVERS[suffix], folder.parent, folder.name)
    return path


ARCHIVERS = {"zip": "zip", "tar": "tar", "tar.xz": "xztar"}


@pytest.mark.parametrize("suffix", ARCHIVERS)
def test_a_single_folder_in_an_archive_is_a_class_unless_it_has_the_archives_name(suffix: str, tmp_path: Path) -> None:
    drawn = draw("L")
    one_class = Drawn(drawn.pixels, np.zeros_like(drawn.labels), ("cat",))
    root = class_folders(one_class, tmp_path / "animals")
    assert names(read_parts(pack_folder(root / "cat", tmp_path / f"animals.{suffix}"))) == ("cat",)
    assert names(read_parts(pack_folder(root / "cat", tmp_path / f"cat.{suffix}"))) == ()


def test_images_that_a_table_does_not_name_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    drawn = draw("L", count=33)
    for writer in (FOLDERS["labels.csv"], dataset_json):
        path = writer(drawn, tmp_path / writer.__name__)
        (path / "other.png").write_bytes(drawn.png(0))
        caplog.clear()
        assert sum(content(read_parts(path)).values()) == 33
        (note,) = [message for message in caplog.messages if "other.png" in message]
        assert "data.source" in note


def test_a_table_may_lie_above_or_beside_the_folder_of_the_images(
    expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    drawn = draw()
    rows = [(f"images/{i % 2}/{i:05}.png", drawn.name(i)) for i in range(60)]
    for i, (name, _) in enumerate(rows):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(drawn.png(i))
    write_table(tmp_path / "set/labels.csv", ("file", "label"), rows)
    assert digests(read_parts(tmp_path / "set")) == expected["RGBA"]
    FOLDERS["metadata.csv"](drawn, tmp_path / "outer/inner")
    assert digests(read_parts(tmp_path / "outer")) == expected["RGBA"]


# --- duplicates ---


def in_several(parts: Mapping[Split, ImageSet]) -> int:
    """Counts the images that are in more than one split."""
    found = Counter(pixels for part in parts.values() for pixels in {image.numpy().tobytes() for image in part.images})
    return sum(count > 1 for count in found.values())


def repeated(copies: list[int], *, classes: int = 1) -> Drawn:
    """Draws images of which the first occurs copies[0] times, and so on, in each of the classes the same."""
    different = draw("L", count=len(copies)).pixels
    pixels = np.tile(np.repeat(different, copies, axis=0), (classes, 1, 1))
    return Drawn(pixels, np.repeat(np.arange(classes), sum(copies)), tuple("abc"[:classes]))


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize(
    "copies",
    [
        [1] * 50 + [2] * 10,
        [5] * 8,  # each more often than a split needs images
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
        [40, 1, 1, 1, 1],
        [1, 1, 40, 3, 3],
    ],
)
def test_equal_images_are_never_in_two_splits(copies: list[int], classes: int, tmp_path: Path) -> None:
    """Neither copies within a class, nor the same images in several classes."""
    drawn = repeated(copies, classes=classes)
    for path in (
        class_folders(drawn, tmp_path / "set"),
        npz("images", "labels")(drawn.shuffled(seed=5), tmp_path / "npz"),
    ):
        parts = read_parts(path)
        assert content(parts) == drawn_content(drawn), "copies are kept"
        assert in_several(parts) == 0
        assert all(part.labels.unique().tolist() == [*range(classes)] for part in parts.values())


def test_equal_images_with_other_hidden_colors_are_never_in_two_splits(tmp_path: Path) -> None:
    drawn = draw(count=30)
    hidden = drawn.pixels.copy()
    hidden[hidden[..., 3] == 0] = (1, 2, 3, 0)
    both = Drawn(np.concatenate([drawn.pixels, hidden]), np.zeros(60, np.int64), ())
    parts = read_parts(flat(both, tmp_path / "set"))
    assert set(content(parts).values()) == {2}
    assert in_several(parts) == 0


def test_images_that_differ_in_lost_transparency_alone_are_never_in_two_splits(tmp_path: Path) -> None:
    """On black, the alpha of black pixels makes no difference."""
    black = draw(count=30)
    black.pixels[:, :10, :, :3], black.pixels[:, 10:, :, 3] = 0, 255
    other = black.pixels.copy()
    other[:, :10, :, 3] = 255 - other[:, :10, :, 3]
    both = Drawn(np.concatenate([black.pixels, other]), np.zeros(60, np.int64), ())
    path = flat(both, tmp_path / "set")
    assert len(content(read_parts(path))) == 60
    parts = read_parts(path, channels=3)
    assert set(content(parts).values()) == {2}
    assert in_several(parts) == 0


# --- what `sample` writes ---


@pytest.mark.parametrize("out", ["digits.npz", "digits"])
def test_train_reads_what_sample_writes(out: str, ganctl: Ganctl, tmp_path: Path) -> None:
    done = ganctl("sample", "pretrained", "--per-class", 4, "--out", out)
    assert done.returncode == 0, done.stderr
    done = ganctl("train", out, "--dry-run", "--json", "--batch-size", 16)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["training_images"] == 20
    assert facts["classes"] == [{"name": str(digit), "images": 2} for digit in range(10)]
