"""What lies below the folder of one's own images: its files with their classes and splits; nothing is opened here.

Links are followed. What begins with a dot is passed over; all else that is no file to open is listed with the reason.
"""

import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from training.config import DataSettings
from training.data import Split
from training.errors import ConfigError, DataError

_VERSION = 2  # of what is made of an image and how it is kept; another one makes the cache anew
SPLITS: tuple[Split, ...] = ("train", "val", "test")
_IGNORED = {"thumbs.db", "desktop.ini"}  # and whatever begins with a dot
_FEWEST = 3  # images of a class: one for each split


@dataclass(frozen=True)
class File:
    """A file that may be an image."""

    path: Path
    name: str  # below the root, with slashes
    label: int
    split: Split
    state: tuple[int, int]  # size and time of change


@dataclass(frozen=True)
class Listing:
    """All that lies below a root. Two are equal if their digests are."""

    digest: str
    root: Path = field(compare=False)
    class_names: tuple[str, ...] = field(compare=False)
    files: tuple[File, ...] = field(compare=False)
    bad: dict[Path, str] = field(compare=False)  # what is no file to open, and why
    loose: dict[Path, int] = field(compare=False)  # images beside class folders, by the folder


@dataclass
class _Content:
    """What lies in a folder, by name; where a link leads is what counts."""

    folders: list[Path] = field(default_factory=list)
    files: dict[Path, os.stat_result] = field(default_factory=dict)
    bad: dict[Path, str] = field(default_factory=dict)

    def images(self) -> int:
        """How many files are called like images."""
        return sum(path.suffix.lower() in Image.registered_extensions() for path in self.files)


def list_folder(settings: DataSettings) -> Listing:
    """What lies below `data.root`.

    Raises:
        ConfigError: no `data.root` is given.
        DataError: it is no folder of class folders, or a class has too few files.
    """
    root = settings.root
    if root is None:
        raise ConfigError(["data.root: data.name = 'folder' needs it, a folder of class folders of images."])
    if not root.is_dir():
        raise DataError(f"data.root: {shown(root)} is no folder; expected one folder of images for each class in it")
    top = _content(root)
    parts = _parts(root, top)
    contents = {root: top} | {folder: _content(folder) for folder in parts.values() if folder != root}
    bad = {path: reason for content in contents.values() for path, reason in content.bad.items()}
    loose = {folder: images for folder, content in contents.items() if (images := content.images())}
    class_names = _class_names({folder: contents[folder] for folder in parts.values()})
    files: list[File] = []
    for part, folder in parts.items():
        for label, name in enumerate(class_names):
            found = _gather(folder / name, above={root, folder})
            bad |= found.bad
            if len(found.files) < (_FEWEST if part in ("all", "train") else 1):
                raise DataError(
                    f"data.root: {shown(folder / name)} has {len(found.files)} images, expected {_FEWEST} or more of"
                    f" each class{lines(told(found.bad))}"
                )
            files += _assign(part, parts.keys(), root, found.files, label)
    return Listing(_digest(settings, root, class_names, files, bad), root, tuple(class_names), tuple(files), bad, loose)


def _digest(settings: DataSettings, root: Path, class_names: list[str], files: list[File], bad: dict[Path, str]) -> str:
    """Of what the tensors depend on, as far as it can be known without reading the files. 32 letters."""
    what = [_VERSION, settings.size, settings.channels, settings.skip_bad, class_names]
    digest = hashlib.sha256(json.dumps(what).encode())
    digest.update(os.fsencode(root.resolve()))  # another folder may have the same names, sizes and times
    for file in files:
        digest.update(os.fsencode(f"\0{file.split}/{file.name}\0{file.state}"))
    for line in told(bad):
        digest.update(f"\0{line}".encode())
    return digest.hexdigest()[:32]


def _parts(root: Path, top: _Content) -> dict[str, Path]:
    """The folders with class folders in them: one for each split, or the root itself for all."""
    names = {folder.name for folder in top.folders}
    if "train" in names and len(names) > 1 and names <= set(SPLITS):
        return {split: root / split for split in SPLITS if split in names}
    for folder in top.folders:
        if folder.name.lower() not in ("train", "training"):
            continue
        within = _content(folder)
        if len(names) > 1 or (within.folders and not within.images()):  # else a class that is called so
            raise DataError(
                f"data.root: {shown(root)} has the folders {', '.join(shown(name) for name in sorted(names))};"
                " expected train beside val, test or both (in these letters) and nothing else, with one folder for"
                " each class in each of them; or the class folders alone, none of them called train"
            )
    return {"all": root}


def _class_names(contents: dict[Path, _Content]) -> list[str]:
    """The names of the class folders, the same in all splits, by number where all are numbers, else by name."""
    names: dict[Path, list[str]] = {}
    for folder, content in contents.items():
        names[folder] = [path.name for path in content.folders]
        if not names[folder]:
            raise DataError(
                f"data.root: {shown(folder)} has no class folders; expected one for each class, with its images in it"
                + lines(told(content.bad))
            )
        for path in content.folders:
            if shown(path.name) != path.name:  # pictures, manifests and pages could not name it
                raise DataError(f"data.root: the name of the class folder {shown(path)} is not UTF-8; rename it")
    wanted = next(iter(names.values()))
    for folder, found in names.items():
        if found != wanted:
            differing = ", ".join(sorted(set(found) ^ set(wanted)))
            raise DataError(f"data.root: the classes of {shown(folder)} are not those of the other splits: {differing}")
    numbered = all(name.isascii() and name.isdigit() for name in wanted)
    return sorted(wanted, key=lambda name: (int(name) if numbered else 0, name))


def _content(folder: Path) -> _Content:
    """One folder's; what may not be read is bad, never an error of its own."""
    found = _Content()
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        found.bad[folder] = f"a folder that cannot be listed ({error.strerror})"
        return found
    for path in paths:
        if path.name.startswith(".") or path.name.lower() in _IGNORED:
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


def _gather(folder: Path, above: Collection[Path]) -> _Content:
    """All that lies in a folder and those below it, links to folders followed."""
    gathered = _Content()
    waiting, seen = [folder], {os.path.realpath(path) for path in above}
    while waiting:
        folder = waiting.pop()
        place = os.path.realpath(folder)
        if place in seen:  # a link in a loop, or a second one: nothing new is there
            continue
        seen.add(place)
        content = _content(folder)
        gathered.files |= content.files
        gathered.bad |= content.bad
        waiting += reversed(content.folders)
    return gathered


def _assign(
    part: str, parts: Collection[str], root: Path, found: dict[Path, os.stat_result], label: int
) -> Iterator[File]:
    """The files of one class folder, each with its split."""
    names = {path: path.relative_to(root).as_posix() for path in sorted(found)}
    order, val, test = list(names), 0, 0
    if part in ("all", "train"):
        # a shuffle that depends on the names alone; where a split has a folder of its own, nothing is taken for it
        order.sort(key=lambda path: hashlib.sha256(os.fsencode(names[path])).digest())
        tenth = max(1, len(order) // 10)
        val, test = (0 if split in parts else tenth for split in ("val", "test"))
    for i, path in enumerate(order):
        own: Split = "val" if part == "val" else "test" if part == "test" else "train"
        split: Split = "val" if i < val else "test" if i < val + test else own
        yield File(path, names[path], label, split, (found[path].st_size, found[path].st_mtime_ns))


def told(bad: dict[Path, str]) -> list[str]:
    """A line for each bad file, by name."""
    return [f"{shown(path)}: {bad[path]}" for path in sorted(bad)]


def lines(listed: list[str]) -> str:
    """The end of a message that lists something."""
    return "".join(f"\n  - {line}" for line in listed)


def shown(path: Path | str) -> str:
    """A path as text that can be written anywhere, even if its name is no UTF-8."""
    return str(path).encode("utf-8", "backslashreplace").decode()
