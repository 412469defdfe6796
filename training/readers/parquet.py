"""Parquet files of images, as Hugging Face's datasets writes them; needs the package pyarrow.

A column of structs {bytes, path}, or of bytes, holds the image files. The column `label` (or the only one that the
metadata call ClassLabel) holds the labels. Each file belongs to the split that it, or its folder, is named after.
Source: https://huggingface.co/docs/datasets/about_arrow, the schema metadata `huggingface`
"""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ganctl.training.errors import DataError
from ganctl.training.readers.base import NO_SPLIT, PackedImages, Reader, Source, index_labels
from ganctl.training.readers.file_kinds import ARRAY_FILE_ERRORS
from ganctl.training.readers.tree import SPLITS, Tree, printable, split_of_name

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "class", "target")
_ROWS = 1024  # read at a time
_MAX_ERROR = 400  # characters


def _find(tree: Tree) -> list[Path]:
    """Returns the .parquet files, also those in folders such as `data` or those of splits."""
    places = tree.places()
    folders = dict.fromkeys([*places, *(folder for place in places for folder in tree.content(place).folders)])
    return [path for folder in folders for path in tree.content(folder).files if path.suffix.lower() == ".parquet"]


def _open(tree: Tree) -> Source:
    """Lists the rows of the files; copies the image files into one temporary file.

    Raises:
        DataError: pyarrow is not installed, a file is damaged, or has no column of images.
    """
    paths, places = sorted(_find(tree)), tree.places()
    if importlib.util.find_spec("pyarrow") is None:
        raise DataError(
            f"{printable(paths[0])}: reading Parquet needs the package pyarrow: pip install 'ganctl[parquet]'"
        )
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    packed, names, labels, splits = PackedImages(), list[str](), list[str](), list[int]()
    for path in paths:
        split = None
        if len(paths) > 1:  # train-00000-of-00002.parquet, or train/0000.parquet
            folder = path.parent.name if path.parent not in places else ""
            split = split_of_name(re.split(r"-\d", path.name)[0]) or split_of_name(folder)
        try:
            with tree.container.open(path) as file:
                table = ParquetFile(file)
                image, label, class_names = _columns(path, table.schema_arrow)
                for batch in table.iter_batches(_ROWS, columns=[image, label] if label else [image]):
                    for row in batch.to_pylist():
                        packed.append(_content(path, row[image], len(names)))
                        names.append(f"{printable(path)}, row {len(names)}")
                        labels.append(_label_name(row[label], class_names) if label else "")
                        splits.append(NO_SPLIT if split is None else SPLITS.index(split))
        except (ArrowException, OSError, *ARRAY_FILE_ERRORS) as error:  # the last ones of an archive around the file
            raise DataError(f"{printable(path)}: {str(error)[:_MAX_ERROR]}") from error
    indices, found_names = index_labels(labels)
    return Source(
        format="Parquet",
        images=packed,
        names=names,
        labels=indices,
        class_names=() if found_names == ("",) else found_names,
        splits=np.array(splits, np.int8),
    )


def _columns(path: Path, schema: Any) -> tuple[str, str | None, list[str]]:
    """Returns the column of images, the column of labels (None without one) and the names of the classes."""
    features: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    for key in ("info", "features"):
        features = (features.get(key) if isinstance(features, dict) else None) or {}
    kinds = {name: str(schema.field(name).type) for name in schema.names}
    is_image = [
        name for name in schema.names if "bytes: binary" in kinds[name] or kinds[name] in ("binary", "large_binary")
    ]
    images = [name for name in is_image if name in _IMAGE_COLUMNS] or is_image
    if len(images) != 1:
        found = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise ValueError(f"found the columns {found[:300]}, expected one column of images. Write the images as bytes")
    is_class = [
        name for name, feature in features.items() if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    ]
    labels = [name for name in _LABEL_COLUMNS if name in kinds] or is_class
    if len(labels) > 1 and not set(labels[:1]) & set(_LABEL_COLUMNS):
        raise ValueError(f"found the columns of labels {', '.join(labels)}, expected one. Rename one to label")
    label = labels[0] if labels else None
    feature = features.get(label) if label else None
    names = (feature.get("names") if isinstance(feature, dict) else None) or []
    return images[0], label, [str(name) for name in names]


def _content(path: Path, value: Any, row: int) -> bytes:
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise ValueError(  # noqa: TRY004  # a fault of the file
            f"row {row} holds no bytes of an image, expected an image file in each row. Embed the images"
        )
    return content


def _label_name(value: Any, class_names: list[str]) -> str:
    if isinstance(value, int) and 0 <= value < len(class_names):
        return class_names[value]
    if value is None or isinstance(value, float | list | dict):
        raise ValueError(f"found the label {value!r}, expected a class index or a name in each row")
    return str(value)


READER = Reader("Parquet", _find, _open)
