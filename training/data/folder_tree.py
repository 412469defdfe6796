"""Folder listing for image data sets: lists each folder once, without files of operating systems; opens no image.

Links are followed. Names that begin with a dot are ignored. Any other entry that cannot be opened is recorded as bad,
with the reason.
"""

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ganctl.training.data.file_kinds import list_names
from ganctl.training.data.system_files import system_name

TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt", ".xml", ".mat", ".npy", ".npz")  # may hold labels
_UNREADABLE_FORMATS = ("BUFR", "GRIB", "HDF5", "MPEG")  # Pillow recognizes them, but cannot decode them


@dataclass
class FolderContent:
    """Content of one folder, sorted by name; a link counts as its target."""

    folders: list[Path] = field(default_factory=list)
    files: dict[Path, os.stat_result] = field(default_factory=dict)
    bad: dict[Path, str] = field(default_factory=dict)  # entries that cannot be opened, with the reason

    def count_images(self) -> int:
        """Counts the files that have the name of an image."""
        return sum(map(is_image_name, self.files))

    def count_candidates(self) -> int:
        """Counts the files that may be images, under any name."""
        return sum(map(may_be_image, self.files))


class FolderTree:
    """Cache of folder listings; counts the files of operating systems that it leaves out."""

    def __init__(self) -> None:
        self._contents: dict[Path, FolderContent] = {}
        self.system_files: Counter[str] = Counter()
        self.empty: set[Path] = set()

    def content(self, folder: Path) -> FolderContent:
        """Lists one folder; an entry that cannot be read is bad and raises no error."""
        if folder in self._contents:
            return self._contents[folder]
        content = self._contents[folder] = FolderContent()
        try:
            paths = sorted(folder.iterdir())
        except OSError as error:
            content.bad[folder] = f"a folder that cannot be listed ({error.strerror})"
            return content
        for path in paths:
            if (pattern := system_name(path.name)) is not None:
                self.system_files[pattern] += 1
            elif not path.name.startswith("."):
                _add(path, content)
        return content

    def walk(self, folder: Path, *, exclude: Collection[Path] = ()) -> Iterator[tuple[Path, FolderContent]]:
        """Walks a folder and all folders below it, each real path once; `exclude` is left out."""
        stack, visited = [folder], {os.path.realpath(path) for path in exclude}
        while stack:
            folder = stack.pop()
            real_path = os.path.realpath(folder)
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
        """Follows single subfolders; returns the path from `folder` to the folder of the classes or splits."""
        levels, visited = [folder], {os.path.realpath(folder)}
        while True:
            inner = self.subfolders(folder)
            if len(inner) != 1 or self.content(folder).count_images() or is_named_train(inner[0]):
                return levels
            [folder] = inner
            if self.is_class(folder) or os.path.realpath(folder) in visited:
                return levels
            visited.add(os.path.realpath(folder))
            levels.append(folder)


def _add(path: Path, content: FolderContent) -> None:
    """Adds one entry of a folder to the folder's content."""
    try:
        status = path.stat()
    except OSError as error:
        kind = "a broken link" if path.is_symlink() else "a path that cannot be accessed"
        content.bad[path] = f"{kind} ({error.strerror})"
        return
    if stat.S_ISDIR(status.st_mode):
        content.folders.append(path)
    elif stat.S_ISREG(status.st_mode):
        content.files[path] = status
    else:
        content.bad[path] = "neither a file nor a folder"


def is_image_name(path: Path) -> bool:
    """Returns whether the suffix of a file is that of a format that Pillow can read."""
    image_format = Image.registered_extensions().get(path.suffix.lower())
    return image_format in Image.OPEN and image_format not in _UNREADABLE_FORMATS


def may_be_image(path: Path) -> bool:
    """Returns whether a file must be opened to decide: true unless its suffix is that of a table."""
    return path.suffix.lower() not in TABLES


def companions(files: Collection[Path]) -> list[Path]:
    """Returns the files, such as captions, that share their name with an image and are not named like one."""
    images = {path for path in files if is_image_name(path)}
    stems = {path.with_suffix("") for path in images}
    no_images = (path for path in files if path.suffix and path not in images)
    return [path for path in no_images if path.with_suffix("") in stems or path.with_suffix("") in images]


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
    text = str(path).encode("utf-8", "backslashreplace").decode()
    return "".join(f"\\x{ord(letter):02x}" if unicodedata.category(letter) == "Cc" else letter for letter in text)
