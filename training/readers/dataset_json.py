"""Images with dataset.json, as StyleGAN's dataset_tool.py writes it: {"labels": [["00000/img00000000.png", 6], …]}.

Labels are class indices, or null for unlabeled images. Source: https://github.com/NVlabs/stylegan3/blob/main/dataset_tool.py
"""

import json
from pathlib import Path

import numpy as np

from ganctl.training.errors import DataError
from ganctl.training.readers.base import NO_SPLIT, FileImages, Reader, Source, index_labels
from ganctl.training.readers.tables import check_listed_files, note_unlisted_images
from ganctl.training.readers.tree import Tree, is_image_name, printable

NAME = "dataset.json"
_EXPECTED = 'expected {"labels": [["file", class index], …]} or {"labels": null}'


def _find(tree: Tree) -> list[Path]:
    """Returns dataset.json."""
    return [path for place in tree.places() for path in tree.content(place).files if path.name == NAME]


def _open(tree: Tree) -> Source:
    """Lists the files that dataset.json names; all images if it has no labels.

    Raises:
        DataError: the file is damaged, or names an absent file.
    """
    table = _find(tree)[0]
    rows = _read(table, tree.read(table))
    if rows is None:
        files = (path for _, content in tree.walk(table.parent) for path in content.files)
        paths = sorted(path for path in files if is_image_name(path))
    else:
        paths = [table.parent / name for name, _ in rows]
    check_listed_files(tree, table, paths)
    labels, class_names = index_labels([str(label) for _, label in rows] if rows else [""] * len(paths))
    return Source(
        format=f"images with {NAME}",
        images=FileImages(tree, paths),
        names=[printable(path) for path in paths],
        labels=labels,
        class_names=class_names if rows else (),
        splits=np.full(len(paths), NO_SPLIT, np.int8),
        notes=note_unlisted_images(tree, paths, NAME),
    )


def _read(table: Path, content: bytes) -> list[tuple[str, int]] | None:
    """Returns (file, class index) of each image; None if there are no labels."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{printable(table)}: found no JSON ({error}), {_EXPECTED}. Write it again") from error
    if not isinstance(record, dict) or "labels" not in record:
        raise DataError(f"{printable(table)}: found no labels, {_EXPECTED}. Write it again")
    if record["labels"] is None:
        return None
    rows: list[tuple[str, int]] = []
    for row in record["labels"] if isinstance(record["labels"], list) else [record["labels"]]:
        match row:
            case [str(name), int(label)]:
                rows.append((name, int(label)))
            case _:
                found = printable(json.dumps(row, ensure_ascii=False)[:80])
                raise DataError(f"{printable(table)}: found {found} in labels, {_EXPECTED}. Give one class each")
    return rows


READER = Reader(NAME, _find, _open)
