"""IDX files, the format of MNIST, of any count and size, plain or in gzip: EMNIST, KMNIST, Fashion-MNIST and others.

Images lie in files called `…images-idx3-ubyte`, labels in `…labels-idx1-ubyte` beside them. The name tells the split:
`train-…`, or `t10k-…` or `test-…`. Without such a file the data set is found by the path of its training images.
Format: two zero bytes, the type 0x08, the number of axes, the length of each axis as a big-endian 32-bit integer, then
the bytes (Y. LeCun's MNIST page).
"""

import gzip
import math
import re
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ganctl.training.errors import DataError
from ganctl.training.readers.arrays import check_equal_sizes, to_label_names
from ganctl.training.readers.base import NO_SPLIT, ArrayImages, Reader, Source, index_labels
from ganctl.training.readers.file_kinds import list_names
from ganctl.training.readers.tree import SPLITS, Split, Tree, printable

_IMAGES = re.compile(r"(?P<set>.*?)(?P<part>train|t10k|test)?[-_.]?images[-.]idx(?P<axes>\d)[-.]ubyte(\.gz)?")
_PARTS: dict[str | None, Split | None] = {"train": "train", "t10k": "test", "test": "test", None: None}
_UNSIGNED_BYTES = b"\0\0\x08"


def _find(tree: Tree) -> list[Path]:
    """Returns the files of images."""
    return [path for place in tree.places() for path in tree.content(place).files if _IMAGES.fullmatch(path.name)]


def _open(tree: Tree) -> Source:
    """Reads the files.

    Raises:
        DataError: a file is damaged, of another format or absent, or there are several data sets.
    """
    paths = _find(tree)
    matches = {path: match for path in paths if (match := _IMAGES.fullmatch(path.name))}
    sets = sorted({match["set"] for match in matches.values()})
    if len(sets) > 1:
        listed = list_names([printable(each) for each in sets])
        raise DataError(
            f"{printable(paths[0].parent)}: found {len(sets)} data sets, {listed}, expected one."
            " Move its files into a folder of their own"
        )
    images, names, splits = [], list[str](), list[int]()
    for path, match in matches.items():
        split = _PARTS[match["part"]] if len(paths) > 1 else None
        content = parse_idx(path, tree.read(path))
        if content.ndim != 3:
            raise DataError(f"{printable(path)}: found {content.ndim} axes, expected 3 (images, rows, columns)")
        labels_path = _labels_path(path, tree.content(path.parent).files)
        if tree.container.kind == "file" and (beside := _labels_path(path, sorted(path.parent.iterdir()))):
            raise DataError(
                f"data.source: {printable(path)} has its labels in {printable(beside.name)}, expected the folder of"
                f" both files. Give data.source={printable(path.parent)}, or move the images elsewhere"
            )
        labels = parse_idx(labels_path, tree.read(labels_path)) if labels_path else None
        try:
            names += to_label_names(labels, len(content), "labels") if labels is not None else [""] * len(content)
        except ValueError as error:
            raise DataError(f"{labels_path}: {error}") from error
        images.append(content)
        splits += [NO_SPLIT if split is None else SPLITS.index(split)] * len(content)
    try:
        check_equal_sizes(images, printable(paths[0].parent))
    except ValueError as error:
        raise DataError(str(error)) from error
    indices, class_names = index_labels(names)
    return Source(
        format="IDX files",
        images=ArrayImages(images),
        names=[
            f"{name}, image {i}"
            for name, part in zip(map(printable, matches), images, strict=True)
            for i in range(len(part))
        ],
        labels=indices,
        class_names=() if class_names == ("",) else class_names,
        splits=np.array(splits, np.int8),
    )


def _labels_path(images: Path, siblings: Iterable[Path]) -> Path | None:
    """Returns the file of the labels among the files of the folder; None without one."""
    stem = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    return next((path for path in siblings if path.name.removesuffix(".gz") == stem), None)


def parse_idx(path: Path, content: bytes) -> NDArray[np.uint8]:
    """Parses an IDX file of unsigned bytes, plain or gzip; returns an array of its shape.

    Args:
        path: its name, for the error.
        content: of the file.

    Raises:
        DataError: the file is truncated, damaged or has another format.
    """
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path}: not a complete gzip file ({error}). Download it again") from error
    axes = content[3] if len(content) > 3 else 0
    header = 4 + 4 * axes
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4))
    if not content.startswith(_UNSIGNED_BYTES) or not 1 <= axes <= 4:
        begin = content[:4].hex() or "nothing"
        raise DataError(f"{path}: begins with {begin}, expected 000008 and 01 to 04 (an IDX file of unsigned bytes)")
    if len(content) != header + math.prod(shape):
        raise DataError(
            f"{path}: found {len(content):,} bytes, expected {header + math.prod(shape):,} for {shape}; the file is"
            " truncated or damaged. Replace it"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


READER = Reader("IDX files", _find, _open)
