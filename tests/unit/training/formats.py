"""Writes one and the same set of images in every format that `train` reads."""

import csv
import gzip
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@dataclass(frozen=True)
class Drawn:
    """Images with labels, before they are written."""

    pixels: np.ndarray  # uint8 [N, H, W] or [N, H, W, C]; colors are not multiplied with alpha
    labels: np.ndarray  # int64 [N]
    names: tuple[str, ...]  # of the classes, sorted; empty: unlabeled

    def __len__(self) -> int:
        return len(self.pixels)

    def png(self, index: int) -> bytes:
        """Returns an image as a PNG file."""
        buffer = io.BytesIO()
        Image.fromarray(self.pixels[index]).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def name(self, index: int) -> str:
        """Returns the name of the class of an image."""
        return self.names[int(self.labels[index])]

    def take(self, indices: np.ndarray) -> "Drawn":
        """Returns a part."""
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices])

    def shuffled(self, seed: int) -> "Drawn":
        """Returns the same images in another order."""
        return self.take(np.random.default_rng(seed).permutation(len(self)))


Writer = Callable[[Drawn, Path], Path]  # writes into an empty folder; returns the path for `ganctl train`
PartsWriter = Callable[[Mapping[str, Drawn], Path], Path]  # the same for splits


def draw(mode: str = "RGBA", *, count: int = 60, side: int = 20, seed: int = 0) -> Drawn:
    """Draws noise in three classes: the hidden colors of transparent pixels are noise as well."""
    rng = np.random.default_rng(seed)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = rng.integers(256, size=(count, side, side, *channels), dtype=np.uint8)
    if mode == "RGBA":
        pixels[:, : side // 4, :, 3] = 0
        pixels[:, -side // 4 :, :, 3] = 255
    return Drawn(pixels, np.arange(count) % 3, ("ape", "bee", "cat"))


def premultiplied(pixels: np.ndarray) -> np.ndarray:
    """Returns the images as a data set holds them: [N, C, H, W], colors multiplied with alpha and rounded."""
    if pixels.ndim == 3:
        return pixels[:, None]
    if pixels.shape[3] == 4:
        colors = np.rint(pixels[..., :3] * (pixels[..., 3:] / 255.0))
        pixels = np.concatenate([colors.astype(np.uint8), pixels[..., 3:]], axis=3)
    return pixels.transpose(0, 3, 1, 2)


# --- image files in folders ---


def class_folders(drawn: Drawn, root: Path) -> Path:
    for i in range(len(drawn)):
        write(root / drawn.name(i) / f"{i:05}.png", drawn.png(i))
    return root


def flat(drawn: Drawn, root: Path) -> Path:
    for i in range(len(drawn)):
        write(root / f"{i:05}.png", drawn.png(i))
    return root


def labels_csv(drawn: Drawn, root: Path) -> Path:
    rows = [(f"{i:05}.png", drawn.name(i)) for i in range(len(drawn))]
    return write_table(flat(drawn, root) / "labels.csv", ("file", "label"), rows)


def metadata_csv(drawn: Drawn, root: Path) -> Path:
    rows = [(f"{i:05}.png", f"a picture, number {i}", drawn.name(i)) for i in range(len(drawn))]
    return write_table(flat(drawn, root) / "metadata.csv", ("file_name", "text", "label"), rows)


def dataset_json(drawn: Drawn, root: Path) -> Path:
    """Numbers the images in folders of 10, as StyleGAN's dataset_tool.py does in folders of 1,000."""
    rows = []
    for i in range(len(drawn)):
        name = f"{i // 10:05}/img{i:08}.png"
        write(root / name, drawn.png(i))
        rows.append([name, int(drawn.labels[i])])
    write(root / "dataset.json", json.dumps({"labels": rows if drawn.names else None}).encode())
    return root


FOLDERS: dict[str, Writer] = {
    "class folders": class_folders,
    "labels.csv": labels_csv,
    "metadata.csv": metadata_csv,
    "dataset.json": dataset_json,
}


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_table(path: Path, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    return path.parent


# --- archives of a folder ---


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(folder))
    return path


def open_tar(path: Path) -> tarfile.TarFile:
    """Opens a new tar archive; its suffix gives the compression."""
    mode = {".tar": "w", ".gz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}[path.suffix]
    return tarfile.open(path, mode)  # type: ignore[call-overload, no-any-return]  # its stub wants a literal mode


def tarred(folder: Path, path: Path) -> Path:
    """Packs the folder itself, as `tar c FOLDER` does."""
    with open_tar(path) as archive:
        archive.add(folder, arcname=folder.name)
    return path


PACKERS: dict[str, Callable[[Path, Path], Path]] = {
    "zip": zipped,
    "tar": tarred,
    "tar.gz": tarred,
    "tar.xz": tarred,
    "tar.bz2": tarred,
}


def pack(folder: Path, suffix: str) -> Path:
    """Packs a folder into an archive beside it, and deletes the folder."""
    archive = PACKERS[suffix](folder, folder.with_name(f"{folder.name}.{suffix}"))
    shutil.rmtree(folder)
    return archive


# --- arrays ---


def channels_first(pixels: np.ndarray) -> np.ndarray:
    return pixels.transpose(0, 3, 1, 2) if pixels.ndim == 4 else pixels[:, None]


def npz(images: str, labels: str, convert: Callable[[np.ndarray], np.ndarray] = lambda pixels: pixels) -> Writer:
    """Returns a writer of an .npz file with arrays of these names."""

    def write_npz(drawn: Drawn, root: Path) -> Path:
        arrays = {images: convert(drawn.pixels)} | ({labels: drawn.labels} if drawn.names else {})
        root.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(root / "set.npz", **arrays)  # type: ignore[arg-type]  # its stub takes further arrays for `allow_pickle`
        return root / "set.npz"

    return write_npz


ARRAYS: dict[str, Writer] = {
    "npz of ganctl sample": npz(
        "images", "labels", lambda pixels: channels_first(pixels) if pixels.ndim == 4 else pixels
    ),
    "npz, channels last": npz("images", "labels"),
    "npz of MedMNIST": npz("train_images", "train_labels"),
    "npz of Keras": npz("x_train", "y_train"),
    "npz, channels first": npz("images", "labels", channels_first),
    "npz, floats from 0 to 1": npz("images", "labels", lambda pixels: (pixels / 255).astype(np.float32)),
    "npz, floats from -1 to 1": npz("images", "labels", lambda pixels: pixels / 127.5 - 1),
    "npz, floats from 0 to 255": npz("images", "labels", lambda pixels: pixels.astype(np.float64)),
    "npz, int64": npz("images", "labels", lambda pixels: pixels.astype(np.int64)),
}


def idx_file(path: Path, array: np.ndarray) -> Path:
    """Writes an IDX file of unsigned bytes; in gzip if the path ends with .gz."""
    content = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()
    return write(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def idx(prefix: str = "", suffix: str = "") -> Writer:
    """Returns a writer of two IDX files."""

    def write_idx(drawn: Drawn, root: Path) -> Path:
        idx_file(root / f"{prefix}images-idx3-ubyte{suffix}", drawn.pixels)
        if drawn.names:
            idx_file(root / f"{prefix}labels-idx1-ubyte{suffix}", drawn.labels.astype(np.uint8))
        return root

    return write_idx


IDX: dict[str, Writer] = {
    "IDX": idx(),
    "IDX in gzip, with a prefix": idx("emnist-letters-train-", ".gz"),
}


def parquet_file(path: Path, drawn: Drawn, *, plain: bool = False) -> Path:
    """Writes a Parquet file as Hugging Face's datasets does; with `plain`, columns of bytes and text."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    files = [drawn.png(i) for i in range(len(drawn))]
    if plain:
        columns = {"img": pa.array(files, pa.binary())}
        columns |= {"label": pa.array([drawn.name(i) for i in range(len(drawn))])} if drawn.names else {}
        table = pa.table(columns)
    else:
        struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        rows = [{"bytes": content, "path": f"{i}.png"} for i, content in enumerate(files)]
        columns = {"image": pa.array(rows, struct)}
        columns |= {"label": pa.array(drawn.labels, pa.int64())} if drawn.names else {}
        features: dict[str, object] = {"image": {"_type": "Image"}}
        features |= {"label": {"names": list(drawn.names), "_type": "ClassLabel"}} if drawn.names else {}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = pa.table(columns).replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=25)
    return path


def parquet_shards(drawn: Drawn, root: Path) -> Path:
    half = len(drawn) // 2
    for number, part in enumerate((np.arange(half), np.arange(half, len(drawn)))):
        parquet_file(root / f"data/train-0000{number}-of-00002.parquet", drawn.take(part))
    return root


PARQUET: dict[str, Writer] = {
    "Parquet": lambda drawn, root: parquet_file(root / "set.parquet", drawn),
    "Parquet, bytes and names": lambda drawn, root: parquet_file(root / "set.parquet", drawn, plain=True),
    "Parquet in two files": parquet_shards,
}


# --- splits ---


def split_folders(writer: Writer) -> PartsWriter:
    """Returns a writer of one folder for each split."""

    def write_folders(parts: Mapping[str, Drawn], root: Path) -> Path:
        for split, drawn in parts.items():
            writer(drawn, root / split)
        return root

    return write_folders


def split_npz(images: str, labels: str) -> PartsWriter:
    """Returns a writer of one .npz file; `images` and `labels` are templates of the arrays' names."""

    def write_npz(parts: Mapping[str, Drawn], root: Path) -> Path:
        arrays = {images.format(split): drawn.pixels for split, drawn in parts.items()}
        arrays |= {labels.format(split): drawn.labels[:, None] for split, drawn in parts.items() if drawn.names}
        root.mkdir(parents=True)
        np.savez(root / "set.npz", **arrays)  # type: ignore[arg-type]  # its stub takes further arrays for `allow_pickle`
        return root / "set.npz"

    return write_npz


def split_idx(parts: Mapping[str, Drawn], root: Path) -> Path:
    for split, drawn in parts.items():
        idx({"train": "train-", "test": "t10k-"}[split])(drawn, root)
    return root


def split_parquet(template: str) -> PartsWriter:
    """Returns a writer of one Parquet file for each split."""

    def write_parquet(parts: Mapping[str, Drawn], root: Path) -> Path:
        for split, drawn in parts.items():
            parquet_file(root / template.format(split), drawn)
        return root

    return write_parquet


SPLITS: dict[str, PartsWriter] = {
    "class folders": split_folders(class_folders),
    "labels.csv": split_folders(labels_csv),
    "metadata.csv": split_folders(metadata_csv),
    "npz of MedMNIST": split_npz("{}_images", "{}_labels"),
    "npz of Keras": split_npz("x_{}", "y_{}"),
    "Parquet by name": split_parquet("data/{}-00000-of-00001.parquet"),
    "Parquet by folder": split_parquet("default/{}/0000.parquet"),
}
