"""Recognizes the format of a data set and opens it: the table of all readers."""

from pathlib import Path

import numpy as np

from ganctl.training.errors import DataError
from ganctl.training.readers import class_folders, dataset_json, idx, npz, parquet, tables
from ganctl.training.readers.base import Reader, Source
from ganctl.training.readers.containers import FolderContainer, open_container
from ganctl.training.readers.file_kinds import conversion_hint, list_names
from ganctl.training.readers.tree import Tree, printable

READERS: tuple[Reader, ...] = (  # by files of a certain name; a folder or an archive may hold one of them
    tables.READER,
    dataset_json.READER,
    npz.READER,
    idx.READER,
    parquet.READER,
)
_EXPECTED = "expected a folder or an archive of images, or a file of one of the formats in docs/data.md"


def open_tree(path: Path) -> Tree:
    """Opens a folder, an archive or a file.

    Raises:
        DataError: it does not exist, or is a damaged archive.
    """
    if not path.exists():
        raise DataError(f"data.source: {printable(path)} does not exist, {_EXPECTED}. Check the path")
    return Tree(open_container(path))


def open_source(tree: Tree) -> Source:
    """Lists the images of a data set.

    Raises:
        DataError: the format is unknown, ambiguous or damaged.
    """
    root = tree.container.path
    found = {reader: files for reader in READERS if (files := reader.find(tree))}
    if len(found) > 1:
        listed = ", ".join(f"{printable(files[0])} ({reader.name})" for reader, files in found.items())
        raise DataError(
            f"data.source: found two formats, {listed}, expected one. Move the files of one of them elsewhere"
        )
    if found:
        [(reader, files)] = found.items()
        images = sum(content.count_images() for _, content in tree.walk(root))
        if reader in (npz.READER, idx.READER, parquet.READER) and images:
            raise DataError(
                f"data.source: {printable(root)} holds {printable(files[0].name)} ({reader.name}) and {images} images,"
                " expected one of them. Give the path of the file, or move it elsewhere"
            )
        source = reader.open(tree)
        if "" in source.class_names:
            bare = [
                printable(source.names[i])
                for i in np.flatnonzero(source.labels == source.class_names.index("")).tolist()
            ]
            raise DataError(
                f"data.source: {printable(root)} has {len(bare)} images without a label, expected a label for each"
                f" image or for none: {list_names(bare)}. Add the labels"
            )
        return source
    if not isinstance(tree.container, FolderContainer) or tree.container.kind == "folder":
        return class_folders.READER.open(tree)
    [(file, entry)] = tree.container.scan(root)  # the tree leaves out devices and files of operating systems
    kind = entry if isinstance(entry, str) else tree.file_kind(file)
    raise DataError(f"data.source: {printable(file)} is {kind}, {_EXPECTED}. {conversion_hint(kind)}")
