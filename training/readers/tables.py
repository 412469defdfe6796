"""Images with a table of labels: labels.csv, as `ganctl sample` writes it, or Hugging Face's metadata.csv.

A table has one row for each image. The column of the file is called `file_name`, `file`, `filename`, `image` or `path`,
that of the label `label`, `class` or `target`; without such a column the images are unlabeled. Split folders have a
table each. Source: https://huggingface.co/docs/datasets/image_dataset#imagefolder
"""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ganctl.training.errors import DataError
from ganctl.training.readers.base import NO_SPLIT, FileImages, Reader, Source, index_labels
from ganctl.training.readers.file_kinds import list_names
from ganctl.training.readers.tree import SPLITS, Tree, is_image_name, printable, split_of_name

NAMES = ("labels.csv", "metadata.csv")
_FILE_COLUMNS = ("file_name", "file", "filename", "image", "path")
_LABEL_COLUMNS = ("label", "class", "target")


def _find(tree: Tree) -> list[Path]:
    """Returns the tables above the images, and in each split folder."""
    places = tree.places()
    splits = [folder for place in places for folder in tree.content(place).folders if split_of_name(folder.name)]
    folders = dict.fromkeys([*places, *splits])
    return [path for folder in folders for path in tree.content(folder).files if path.name in NAMES]


def _open(tree: Tree) -> Source:
    """Lists the files that the tables name.

    Raises:
        DataError: a table is damaged, has no column of files, names an absent file, or a file twice; or there are
            several tables of the same images.
    """
    tables = _find(tree)
    by_split = Counter(split_of_name(table.parent.name) for table in tables)
    if len(tables) > 1 and (None in by_split or max(by_split.values()) > 1):
        raise DataError(
            f"data.source: found {list_names([printable(table) for table in tables])}, expected one table, or one in"
            " each split folder. Move the others elsewhere"
        )
    paths: list[Path] = []
    names: list[str] = []
    splits: list[int] = []
    for table in tables:
        split = split_of_name(table.parent.name) if len(tables) > 1 else None
        rows = read_table(table, tree.read(table))
        listed = [table.parent / row[0] for row in rows]
        check_listed_files(tree, table, listed)
        paths += listed
        names += [row[1] for row in rows]
        splits += [NO_SPLIT if split is None else SPLITS.index(split)] * len(rows)
    labels, class_names = index_labels(names)
    return Source(
        format=f"images with {list_names(sorted({table.name for table in tables}))}",
        images=FileImages(tree, paths),
        names=[printable(path) for path in paths],
        labels=labels,
        class_names=() if class_names == ("",) else class_names,
        splits=np.array(splits, np.int8),
        notes=note_unlisted_images(tree, paths, "the table" if len(tables) == 1 else "the tables"),
    )


def note_unlisted_images(tree: Tree, listed: Sequence[Path], table: str) -> list[str]:
    """Returns a log line if images are not listed by the table of a data set, else none."""
    known = set(listed)
    files = [path for _, content in tree.walk(tree.container.path) for path in content.files]
    unlisted = [printable(path) for path in files if path not in known and is_image_name(path)]
    return [f"data.source: {len(unlisted)} images are ignored, which {table} does not name: {list_names(unlisted)}"] * (
        len(unlisted) > 0
    )


def read_table(path: Path, content: bytes) -> list[tuple[str, str]]:
    """Reads (file, label) of each row; the label is empty if there is no column of labels.

    Raises:
        DataError: the file is not such a table.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{printable(path)}: not a CSV table in UTF-8 ({error}). Save it again") from error
    columns = {(name or "").strip().lower(): name for name in (rows[0] if rows else {})}
    file_column = next((columns[name] for name in _FILE_COLUMNS if name in columns), None)
    label_column = next((columns[name] for name in _LABEL_COLUMNS if name in columns), None)
    if file_column is None:
        found = list_names([printable(str(name)) for name in columns.values()]) or "no rows"
        raise DataError(f"{printable(path)}: found {found}, expected a column {' or '.join(_FILE_COLUMNS)}. Rename one")
    result = [(row[file_column] or "", (row[label_column] or "").strip() if label_column else "") for row in rows]
    empty = [number for number, (_, label) in enumerate(result, 2) if not label]
    if label_column and empty and len(empty) < len(rows):
        raise DataError(f"{printable(path)}: found no {label_column} in row {empty[0]}, expected one in each. Add it")
    return result


def check_listed_files(tree: Tree, table: Path, paths: Sequence[Path]) -> None:
    """Checks that the files named by a table exist, below its folder, once each.

    Raises:
        DataError: a file is absent, outside the folder, or named twice.
    """
    files = {path for _, content in tree.walk(table.parent) for path in content.files}
    absent = [printable(path) for path in paths if path not in files]
    if absent:
        raise DataError(
            f"{printable(table)}: names {len(absent)} files that do not exist below {printable(table.parent)}, expected"
            f" files of this folder: {list_names(absent)}. Add them, or delete their rows"
        )
    twice, count = Counter(paths).most_common(1)[0] if paths else (table, 0)
    if count > 1:
        raise DataError(f"{printable(table)}: names {printable(twice.name)} twice, expected once. Delete a row")
    if not paths:
        raise DataError(f"{printable(table)}: names no images, expected one in each row. Add rows")


READER = Reader("labels.csv or metadata.csv", _find, _open)
