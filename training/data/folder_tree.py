"""Lists folders of images: each folder once, without what operating systems leave there; no image is opened.

Links are followed. Names that begin with a dot are passed over; all else that is no file to open is kept as bad, with
the reason.
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
_NO_PIXELS = ("BUFR", "GRIB", "HDF5", "MPEG")  # Pillow recognizes these formats, no more


@dataclass
class Content:
    """The content of one folder, sorted by name; links count as the file or folder that they lead to."""

    folders: list[Path] = field(default_factory=list)
    files: dict[Path, os.stat_result] = field(default_factory=dict)
    bad: dict[Path, str] = field(default_factory=dict)

    def images(self) -> int:
        """Number of files that are named like images."""
        return sum(map(is_image_name, self.files))

    def candidates(self) -> int:
        """Number of files that may be images, under any name."""
        return sum(map(may_be_image, self.files))


class Tree:
    """Folders, each listed once, without the files and folders of systems, which are counted."""

    def __init__(self) -> None:
        self._contents: dict[Path, Content] = {}
        self.system_files: Counter[str] = Counter()
        self.empty: set[Path] = set()

    def content(self, folder: Path) -> Content:
        """Lists one folder; entries that cannot be read are bad, and raise no error."""
        if folder not in self._contents:
            self._contents[folder] = self._list(folder)
        return self._contents[folder]

    def below(self, folder: Path, *, above: Collection[Path] = ()) -> Iterator[tuple[Path, Content]]:
        """Walks a folder and all folders below it, each place once, whatever links lead there; `above` is left out."""
        waiting, seen = [folder], {os.path.realpath(path) for path in above}
        while waiting:
            folder = waiting.pop()
            place = os.path.realpath(folder)
            if place not in seen:
                seen.add(place)
                content = self.content(folder)
                yield folder, content
                waiting += reversed(content.folders)

    def folders(self, folder: Path) -> list[Path]:
        """The folders within that can be listed and are not empty all the way down."""
        kept = []
        for inner in self.content(folder).folders:
            if inner in self.content(inner).bad:
                self.content(folder).bad[inner] = self.content(inner).bad[inner]
            elif any(content.files or content.bad for _, content in self.below(inner)):
                kept.append(inner)
            else:
                self.empty.add(inner)
        return kept

    def has_images(self, folder: Path) -> bool:
        """True if any file in a folder or below it is named like an image."""
        return any(content.images() for _, content in self.below(folder))

    def is_class(self, folder: Path) -> bool:
        """True if a folder holds images itself, rather than folders of images."""
        content = self.content(folder)
        if content.images() or any(map(self.has_images, content.folders)):
            return content.images() > 0
        return content.candidates() > 0

    def chain(self, folder: Path) -> list[Path]:
        """The folder, and the single folders within it, down to the one that holds the class folders or splits."""
        chain, places = [folder], {os.path.realpath(folder)}
        while True:
            inner = self.folders(folder)
            if len(inner) != 1 or self.content(folder).images() or is_train(inner[0]):
                return chain
            [folder] = inner
            if self.is_class(folder) or os.path.realpath(folder) in places:
                return chain
            places.add(os.path.realpath(folder))
            chain.append(folder)

    def _list(self, folder: Path) -> Content:
        found = Content()
        try:
            paths = sorted(folder.iterdir())
        except OSError as error:
            found.bad[folder] = f"a folder that cannot be listed ({error.strerror})"
            return found
        for path in paths:
            if (known := system_name(path.name)) is not None:
                self.system_files[known] += 1
                continue
            if path.name.startswith("."):
                continue
            try:
                facts = path.stat()
            except OSError as error:
                found.bad[path] = f"{'a broken link' if path.is_symlink() else 'out of reach'} ({error.strerror})"
                continue
            if stat.S_ISDIR(facts.st_mode):
                found.folders.append(path)
            elif stat.S_ISREG(facts.st_mode):
                found.files[path] = facts
            else:
                found.bad[path] = "neither a file nor a folder"
        return found


def is_image_name(path: Path) -> bool:
    """True if a file is named like an image that Pillow can read."""
    form = Image.registered_extensions().get(path.suffix.lower())
    return form in Image.OPEN and form not in _NO_PIXELS


def may_be_image(path: Path) -> bool:
    """True unless the name is that of a table: files of unknown or no suffix are opened as well."""
    return path.suffix.lower() not in TABLES


def companions(files: Collection[Path]) -> list[Path]:
    """Files that accompany an image of the same name, such as captions, and are not named like images."""
    images = {path for path in files if is_image_name(path)}
    stems = {path.with_suffix("") for path in images}
    others = (path for path in files if path.suffix and path not in images)
    return [path for path in others if path.with_suffix("") in stems or path.with_suffix("") in images]


def is_train(folder: Path) -> bool:
    """True if a folder is named like the training split of a data set."""
    return folder.name.lower() in ("train", "training")


def told(bad: Mapping[Path, str]) -> list[str]:
    """One line for each bad file, sorted by name."""
    return [f"{shown(path)}: {bad[path]}" for path in sorted(bad)]


def lines(listed: list[str]) -> str:
    """The end of a message that lists something."""
    return "".join(f"\n  - {line}" for line in listed)


def counts(counter: Counter[str]) -> str:
    """Names with their counts, the most frequent first."""
    return list_names([f"{shown(name) or 'no suffix'} ({n})" for name, n in counter.most_common()])


def shown(path: Path | str) -> str:
    """A path as text that can be written anywhere, even if its name is no UTF-8 or holds control characters."""
    text = str(path).encode("utf-8", "backslashreplace").decode()
    return "".join(f"\\x{ord(letter):02x}" if unicodedata.category(letter) == "Cc" else letter for letter in text)
