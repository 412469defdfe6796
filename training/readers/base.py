"""A data source: the list of a data set's images with labels and splits, and access to the encoded or raw images."""

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ganctl.common.text import nfc
from ganctl.training.readers.tree import Tree

NO_SPLIT = -1  # of an image whose split is assigned later


class Images(Protocol):
    """Random access to the images of a source, also from worker processes."""

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """Returns the content of an image file, or the pixels [H, W] or [H, W, C]."""


@dataclass(frozen=True)
class Source:
    """A data set as it lies on the disk; no image is decoded yet."""

    format: str  # for messages, such as "class folders"
    images: Images
    names: Sequence[str]  # of the images, for messages
    labels: NDArray[np.int64]  # [N], indices into class_names; 0 without labels
    class_names: tuple[str, ...]  # empty without labels
    splits: NDArray[np.int8]  # [N], indices into SPLITS, or NO_SPLIT
    bad: Mapping[str, str] = field(default_factory=dict)  # entries that cannot be opened → reason
    companions: Sequence[str] = ()  # captions and the like, with the name of an image
    notes: Sequence[str] = ()  # log lines about ignored entries and chosen folders

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Reader:
    """A format of data sets.

    Attributes:
        name: for messages, such as "labels.csv".
        find: returns the files of a tree that mark the format; none if the tree has another format.
        open: lists the images of a tree that has the format.
    """

    name: str
    find: Callable[[Tree], Sequence[Path]]
    open: Callable[[Tree], Source]


class FileImages:
    """Image files of a folder or an archive."""

    def __init__(self, tree: Tree, paths: Sequence[Path]) -> None:
        self._container, self.paths = tree.container, paths

    def read(self, index: int) -> bytes:
        """Returns the content of a file."""
        return self._container.read(self.paths[index])


class ArrayImages:
    """Pixels in arrays, uint8 [N, H, W] or [N, H, W, C]."""

    def __init__(self, arrays: Sequence[NDArray[np.uint8]]) -> None:
        self._arrays = arrays
        self._starts = np.cumsum([0, *map(len, arrays)])

    def read(self, index: int) -> NDArray[np.uint8]:
        """Returns the pixels of an image."""
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        pixels: NDArray[np.uint8] = self._arrays[part][index - self._starts[part]]
        return pixels


class PackedImages:
    """Image files one after the other in a temporary file, which ends with the process; worker processes share it."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the object lives
        self._ends = [0]

    def append(self, content: bytes) -> None:
        """Adds an image file."""
        self._file.write(content)
        self._ends.append(self._ends[-1] + len(content))

    def read(self, index: int) -> bytes:
        """Returns the content of an image file."""
        self._file.flush()
        start, end = self._ends[index], self._ends[index + 1]
        return os.pread(self._file.fileno(), end - start, start)


def sorted_class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Sorts the distinct names of classes, in Unicode form NFC: as numbers if all are numbers."""
    distinct = {nfc(name) for name in names}
    numeric = all(name.isascii() and name.isdigit() for name in distinct)
    return tuple(sorted(distinct, key=lambda name: (int(name) if numeric else 0, name)))


def index_labels(names: Sequence[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Returns the label of each image, an index into the class names, and the sorted class names."""
    class_names = sorted_class_names(names)
    index = {name: label for label, name in enumerate(class_names)}
    return np.array([index[nfc(name)] for name in names], np.int64), class_names
