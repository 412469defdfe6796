"""NumPy archives (.npz) of images and labels.

Three families of array names are known: `images` and `labels` (`ganctl sample --out FILE.npz`), `train_images`,
`train_labels`, `val_images` … (MedMNIST), and `x_train`, `y_train`, `x_test` … (Keras).
"""

import errno
import io
from pathlib import Path
from zipfile import ZipFile

import numpy as np

from ganctl.training.errors import DataError
from ganctl.training.readers.arrays import check_equal_sizes, to_label_names, to_pixels
from ganctl.training.readers.base import NO_SPLIT, ArrayImages, Reader, Source, index_labels
from ganctl.training.readers.containers import check_unpacked_size
from ganctl.training.readers.file_kinds import ARRAY_FILE_ERRORS
from ganctl.training.readers.tree import SPLITS, Split, Tree, printable

_NAMES: tuple[tuple[str, str, Split | None], ...] = (
    ("images", "labels", None),
    *((f"{split}_images", f"{split}_labels", split) for split in SPLITS),
    *((f"x_{split}", f"y_{split}", split) for split in SPLITS),
)


def _find(tree: Tree) -> list[Path]:
    """Returns the .npz files."""
    return [path for place in tree.places() for path in tree.content(place).files if path.suffix.lower() == ".npz"]


def _open(tree: Tree) -> Source:
    """Reads the arrays of the file.

    Raises:
        DataError: the file is damaged, holds pickled objects, or has other arrays.
    """
    paths = _find(tree)
    path = paths[0]
    if len(paths) > 1:
        raise DataError(
            f"{printable(path.parent)}: found {len(paths)} .npz files, expected one. Give the path of a file"
        )
    images, names, splits = [], list[str](), list[int]()
    try:
        with tree.container.open(path) as file:
            unpacked = sum(info.file_size for info in ZipFile(file).infolist())
            check_unpacked_size(path, unpacked, file.seek(0, io.SEEK_END))
        with tree.container.open(path) as file, np.load(file, allow_pickle=False) as arrays:
            for image_name, label_name, split in _NAMES:
                if image_name not in arrays:
                    continue
                pixels = to_pixels(arrays[image_name], image_name)
                images.append(pixels)
                labels = arrays.get(label_name)
                names += [""] * len(pixels) if labels is None else to_label_names(labels, len(pixels), label_name)
                splits += [NO_SPLIT if split is None else SPLITS.index(split)] * len(pixels)
        if not images:
            raise ValueError(
                f"found {tree.file_kind(path)}, expected the arrays images and labels, train_images and train_labels,"
                " or x_train and y_train. Rename them"
            )
        check_equal_sizes(images, "images")
        if "" in names and set(names) != {""}:
            raise ValueError("found labels for some splits only, expected labels for all of them or none")
    except DataError:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise  # not about the content; EINVAL: a damaged offset
        raise DataError(f"{printable(path)}: a damaged .npz file ({error}). Replace it") from error
    except (*ARRAY_FILE_ERRORS, TypeError, KeyError) as error:
        raise DataError(f"{printable(path)}: {error}") from error
    labels_, class_names = index_labels(names)
    count, name = len(labels_), printable(path)
    return Source(
        format=".npz file",
        images=ArrayImages(images),
        names=[f"{name}, image {i}" for i in range(count)],
        labels=labels_,
        class_names=() if class_names == ("",) else class_names,
        splits=np.array(splits, np.int8),
    )


READER = Reader(".npz file", _find, _open)
