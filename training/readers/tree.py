"""Listing of a data set's folders, on the disk or in an archive: each once, without files of operating systems.

Names that begin with a dot are ignored. Any other entry that cannot be opened is recorded as bad, with the reason.
"""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from PIL import Image

from ganctl.common.text import nfc
from ganctl.training.errors import DataError
from ganctl.training.readers.containers import Container, FileStamp
from ganctl.training.readers.file_kinds import ARRAY_FILE_ERRORS, file_kind, list_names
from ganctl.training.readers.system_files import system_name

TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt", ".xml", ".mat", ".npy", ".npz")  # may hold labels
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
_SPLIT_NAMES: dict[Split, set[str]] = {
    "train": {"train", "training"},
    "val": {"val", "valid", "validation", "dev"},
    "test": {"test", "testing"},
}
_ARCHIVE_SUFFIXES = re.compile(r"(\.(zip|tar|gz|tgz|bz2|tbz2|xz|txz))+$", re.IGNORECASE)
_UNREADABLE_FORMATS = ("BUFR", "GRIB", "HDF5", "MPEG")  # Pillow recognizes them, but cannot decode them


@dataclass
class FolderContent:
    """Content of one folder, sorted by name; a link counts as its target."""

    folders: list[Path] = field(default_factory=list)
    files: dict[Path, FileStamp] = field(default_factory=dict)
    bad: dict[Path, str] = field(default_factory=dict)  # entries that cannot be opened, with the reason

    def count_images(self) -> int:
        """Counts the files that have the name of an image."""
        return sum(map(is_image_name, self.files))

    def count_candidates(self) -> int:
        """Counts the files that may be images, under any name."""
        return sum(map(may_be_image, self.files))


class Tree:
    """The folders of a container, each listed once; counts the files of operating systems that it leaves out."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self._contents: dict[Path, FolderContent] = {}
        self.system_files: Counter[str] = Counter()
        self.empty: set[Path] = set()

    def content(self, folder: Path) -> FolderContent:
        """Lists one folder; an entry that cannot be read is bad and raises no error."""
        if folder in self._contents:
            return self._contents[folder]
        content = self._contents[folder] = FolderContent()
        try:
            for path, entry in self.container.scan(folder):
                if (pattern := system_name(path.name)) is not None:
                    self.system_files[pattern] += 1
                elif path.name.startswith("."):
                    continue
                elif entry is None and _is_run(path):
                    self.system_files["folders of runs"] += 1
                elif entry is None:
                    content.folders.append(path)
                elif isinstance(entry, str):
                    content.bad[path] = entry
                else:
                    content.files[path] = entry
        except OSError as error:
            content.bad[folder] = f"a folder that cannot be listed ({error.strerror})"
        return content

    def file_kind(self, path: Path) -> str:
        """Describes a file by its content; see `file_kinds.file_kind`."""
        try:
            with self.container.open(path) as file:
                return file_kind(path, file)
        except (OSError, *ARRAY_FILE_ERRORS) as error:
            return f"a file that cannot be read ({error})"

    def read(self, path: Path) -> bytes:
        """Returns the content of a file, such as a table of labels.

        Raises:
            DataError: it is damaged in its archive.
            OSError: it cannot be read.
        """
        try:
            return self.container.read(path)
        except ValueError as error:
            raise DataError(f"{printable(path)}: {error}") from error

    def stamp(self) -> str:
        """Returns a digest, 32 hexadecimal digits, that changes with the container's path and with its content.

        Of a folder it hashes the name, size and modification time of each file; of an archive, those of the archive.
        """
        root = self.container.path
        digest = hashlib.sha256(os.fsencode(root.resolve()))  # another folder may have the same names, sizes and times
        for folder, content in self.walk(root):
            if not content.files and not content.bad:
                continue  # such as the folder of the runs
            lines = [f"{path.name}\0{stamp}" for path, stamp in content.files.items()]
            lines += [f"{path.name}\0{reason}" for path, reason in content.bad.items()]
            digest.update(os.fsencode("\0".join([nfc(os.path.relpath(folder, root)), *map(nfc, lines)])))
        return digest.hexdigest()[:32]

    def walk(self, folder: Path, *, exclude: Collection[Path] = ()) -> Iterator[tuple[Path, FolderContent]]:
        """Walks a folder and all folders below it, each real path once; `exclude` is left out."""
        stack, visited = [folder], {self.container.real_path(path) for path in exclude}
        while stack:
            folder = stack.pop()
            real_path = self.container.real_path(folder)
            if real_path not in visited:
                visited.add(real_path)
                content = self.content(folder)
                yield folder, content
                stack += reversed(content.folders)

    def subfolders(self, folder: Path) -> list[Path]:
        """Returns the subfolders that can be listed and hold a file at any depth."""
        kept = []
        for inner in self.content(folder).folders:
            if inner in self.content(inner).bad:
                self.content(folder).bad[inner] = self.content(inner).bad[inner]
            elif any(content.files or content.bad for _, content in self.walk(inner)):
                kept.append(inner)
            else:
                self.empty.add(inner)
        return kept

    def is_class(self, folder: Path) -> bool:
        """Returns whether a folder holds images itself, rather than folders of images."""
        content = self.content(folder)
        if any(inner.count_images() for _, inner in self.walk(folder)):
            return content.count_images() > 0
        return content.count_candidates() > 0

    def descend(self, folder: Path) -> list[Path]:
        """Follows single subfolders; returns the path from `folder` to the folder of the classes or splits.

        A single subfolder of images is a class, except in an archive of the same name: there it is the packed folder.
        """
        levels, visited = [folder], {self.container.real_path(folder)}
        while True:
            inner = self.subfolders(folder)
            if len(inner) != 1 or self.content(folder).count_images() or is_named_train(inner[0]):
                return levels
            [folder] = inner
            packed = self.container.kind.endswith("archive") and folder == self.container.path / self._archive_stem()
            if (self.is_class(folder) and not packed) or self.container.real_path(folder) in visited:
                return levels
            visited.add(self.container.real_path(folder))
            levels.append(folder)

    def places(self) -> list[Path]:
        """Returns the folders in which the files of a format may lie: `descend`, and a single folder of files below."""
        levels = self.descend(self.container.path)
        inner = self.subfolders(levels[-1])
        return [*levels, *inner] if len(inner) == 1 else levels

    def _archive_stem(self) -> str:
        return _ARCHIVE_SUFFIXES.sub("", self.container.path.name)


def _is_run(folder: Path) -> bool:
    """Returns whether a folder is that of a run: `train` may be started in the folder of the images."""
    return (folder / "checkpoints").is_dir() and (folder / "config.toml").is_file()


def is_image_name(path: Path) -> bool:
    """Returns whether the suffix of a file is that of a format that Pillow can read."""
    return _is_image_suffix(path.suffix.lower())


@cache
def _is_image_suffix(suffix: str) -> bool:
    Image.preinit()  # before all others: Pillow tries formats in this order, and some of them open every file
    image_format = Image.registered_extensions().get(suffix)
    return image_format in Image.OPEN and image_format not in _UNREADABLE_FORMATS


def may_be_image(path: Path) -> bool:
    """Returns whether a file must be opened to decide: true unless its suffix is that of a table."""
    return path.suffix.lower() not in TABLES


def companions(files: Collection[Path]) -> list[Path]:
    """Returns the files, such as captions, that share their name with an image and are not named like one."""
    images = {path for path in files if is_image_name(path)}
    no_images = [path for path in files if path.suffix and path not in images]
    stems = {path.with_suffix("") for path in images} if no_images else set()
    return [path for path in no_images if path.with_suffix("") in stems or path.with_suffix("") in images]


def split_of_name(name: str) -> Split | None:
    """Returns the split that a folder or file is named after: train, val or test, in their usual spellings."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((split for split, spellings in _SPLIT_NAMES.items() if not spellings.isdisjoint(words)), None)


def is_named_train(folder: Path) -> bool:
    """Returns whether a folder has the name of a training split, in any letter case."""
    return folder.name.lower() in ("train", "training")


def bad_file_lines(bad: Mapping[Path, str]) -> list[str]:
    """Formats one line `path: reason` for each bad file, sorted by path."""
    return [f"{printable(path)}: {bad[path]}" for path in sorted(bad)]


def bullet_list(items: list[str]) -> str:
    """Formats items as a list that can be appended to a message."""
    return "".join(f"\n  - {item}" for item in items)


def format_counts(counter: Counter[str]) -> str:
    """Formats names with their counts, the most frequent first."""
    return list_names([f"{printable(name) or 'no suffix'} ({n})" for name, n in counter.most_common()])


def printable(path: Path | str) -> str:
    """Escapes control characters and bytes that are not UTF-8, so that a path can be printed anywhere."""
    if (text := str(path)).isprintable():  # most are, and a data set has many
        return text
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(f"\\x{ord(letter):02x}" if unicodedata.category(letter) == "Cc" else letter for letter in text)
