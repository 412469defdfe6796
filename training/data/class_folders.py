"""Finds the class folders below a root, and their image files with classes and splits; no image is opened here.

Links are followed. Names that begin with a dot and files and folders of operating systems are passed over, and so are
empty folders. A chain of single folders (an unpacked archive) is followed down to the folder that holds the classes.
Where it is uncertain which folders are the classes, the error names the paths that can be given instead.

Class names are kept in Unicode's composed form (NFC); on a disk from macOS the folder's own name is decomposed.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ganctl.common.text import nfc
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import Split
from ganctl.training.data.file_kinds import advice_for_file, file_kind, list_names
from ganctl.training.data.folder_tree import (
    TABLES,
    Content,
    Tree,
    companions,
    counts,
    is_image_name,
    is_train,
    lines,
    may_be_image,
    shown,
    told,
)
from ganctl.training.errors import ConfigError, DataError

_VERSION = 3  # of the decoding and of the cached files; a new number makes caches be computed again
SPLITS: tuple[Split, ...] = ("train", "val", "test")
_FEWEST = 3  # images of a class: one for each split
_SHOWN = 8  # files of which an error names the kind
_TEXTS = ("readme", "license", "licence", "copying", "notice", "changelog", "citation", "requirements")  # do not


@dataclass(frozen=True)
class File:
    """A file that may be an image."""

    path: Path
    name: str  # below the root, with slashes, in NFC
    label: int
    split: Split
    state: tuple[int, int]  # size and time of change


@dataclass(frozen=True)
class Listing:
    """The files below a root. Two listings are equal if their digests are."""

    digest: str
    root: Path = field(compare=False)  # the folder that holds the class folders, or the splits
    class_names: tuple[str, ...] = field(compare=False)
    files: tuple[File, ...] = field(compare=False)
    bad: dict[Path, str] = field(compare=False)  # entries that cannot be opened, with the reason
    companions: tuple[Path, ...] = field(compare=False)  # captions and the like, beside images of the same name
    notes: tuple[str, ...] = field(compare=False)  # what was passed over or seen through, a line each


def list_folder(settings: DataSettings) -> Listing:
    """Lists the files below `data.root` with their classes and splits.

    Raises:
        ConfigError: no `data.root` is given.
        DataError: it is no folder of class folders, or a class has too few files.
    """
    root = settings.root
    if root is None:
        raise ConfigError(["data.root: data.name = 'folder' needs it, a folder of class folders of images."])
    if not root.is_dir():
        raise DataError(_no_folder(root))
    tree = Tree()
    levels = tree.chain(root)
    base = levels[-1]
    parts = _parts(tree, base)
    chains = {part: tree.chain(folder) for part, folder in parts.items()}
    levels += [level for chain in chains.values() for level in chain if level not in levels]
    classes = _classes(tree, {part: chain[-1] for part, chain in chains.items()})
    bad = {path: reason for level in levels for path, reason in tree.content(level).bad.items()}
    files: list[File] = []
    nested: Counter[str] = Counter()
    beside: list[Path] = []
    for part, folders in classes.items():
        for label, folder in enumerate(folders.values()):
            found = _gather(tree, folder, above=levels)
            bad |= found.bad
            for path in companions(found.files):
                del found.files[path]
                beside.append(path)
            _check_count(folder, found, _FEWEST if part in ("all", "train") else 1)
            for inner, content in tree.below(folder, above=levels):
                if inner != folder and (images := content.candidates()):
                    nested[shown(inner.relative_to(base))] += images
            files += _assign(part, parts.keys(), base, found.files, label)
    names = tuple(next(iter(classes.values())))
    ends = [chain[-1] for chain in chains.values()]
    notes = _notes(tree, levels, nested, ends=[] if base == root and ends == [*parts.values()] else ends)
    digest = _digest(settings, base, names, files, [*told(bad), *map(shown, beside)])
    return Listing(digest, base, names, tuple(files), bad, tuple(beside), tuple(notes))


def _digest(
    settings: DataSettings, root: Path, class_names: tuple[str, ...], files: list[File], left_out: list[str]
) -> str:
    """Digest of all that the tensors depend on and that is known without reading the files; 32 letters."""
    what = [_VERSION, settings.size, settings.channels, settings.skip_corrupt, class_names]
    digest = hashlib.sha256(json.dumps(what).encode())
    digest.update(os.fsencode(root.resolve()))  # another folder may have the same names, sizes and times
    for file in files:
        digest.update(os.fsencode(f"\0{file.split}/{file.name}\0{file.state}"))
    for line in left_out:
        digest.update(f"\0{line}".encode())
    return digest.hexdigest()[:32]


def _parts(tree: Tree, root: Path) -> dict[str, Path]:
    """The folders with class folders in them: one for each split, or the root itself for all."""
    names = {folder.name for folder in tree.folders(root)}
    if "train" in names and len(names) > 1 and names <= set(SPLITS):
        return {split: root / split for split in SPLITS if split in names}
    for folder in tree.folders(root):
        within = tree.content(folder)
        if is_train(folder) and (len(names) > 1 or (tree.folders(folder) and not within.images())):
            raise DataError(  # else a class that is called so
                f"data.root: {shown(root)} has the folders {', '.join(shown(name) for name in sorted(names))};"
                " expected train beside val, test or both (in these letters) and nothing else, with one folder for"
                " each class in each of them; or the class folders alone, none of them called train. Rename the"
                f" folders, or give data.root={shown(folder)} to take its images for all splits"
            )
    return {"all": root}


def _classes(tree: Tree, parts: dict[str, Path]) -> dict[str, dict[str, Path]]:
    """The class folders of each part by their names, in the order of the labels: by number where all are numbers."""
    classes: dict[str, dict[str, Path]] = {}
    for part, folder in parts.items():
        inner = tree.folders(folder)
        if not inner:
            raise DataError(_no_classes(tree, folder))
        _check_depth(tree, folder, inner)
        named: dict[str, Path] = {}
        for path in inner:
            if not _is_utf_8(path.name):  # pictures, manifests and pages could not name it
                raise DataError(f"data.root: the name of the class folder {shown(path)} is not UTF-8; rename it")
            name = nfc(path.name)
            if name in named:
                raise DataError(
                    f"data.root: {shown(folder)} has two folders called {name}, {named[name].name!a} and"
                    f" {path.name!a} (two Unicode forms of one name); expected one folder for each class. Rename"
                    " one of them, or put their images together"
                )
            named[name] = path
        numbered = all(name.isascii() and name.isdigit() for name in named)
        order = sorted(named, key=lambda name: (int(name) if numbered else 0, name))
        classes[part] = {name: named[name] for name in order}
    wanted = next(iter(classes.values()))
    for part, found in classes.items():
        if differing := sorted(found.keys() ^ wanted.keys()):
            empty = sorted(shown(path) for path in tree.empty)
            raise DataError(
                f"data.root: the classes of {shown(parts[part])} are not those of the other splits:"
                f" {list_names(differing)}" + (f" (empty: {list_names(empty)})" if empty else "")
            )
    return classes


def _check_depth(tree: Tree, folder: Path, inner: list[Path]) -> None:
    """Refuses folders of which none holds images itself, and some hold several folders of images."""
    if any(map(tree.is_class, inner)):
        return
    deep = [path for path in inner if sum(content.candidates() > 0 for _, content in tree.below(path)) > 1]
    if deep:
        ways = " or ".join(f"data.root={shown(tree.chain(path)[-1])}" for path in deep[:3])
        raise DataError(
            f"data.root: {shown(folder)} has the folders {list_names([shown(path.name) for path in inner])}, which hold"
            f" folders of images instead of images; expected one folder of images for each class. Give {ways}"
            f"{' or another one' if len(deep) > 3 else ''}; or call them train, val and test, if they are splits; or"
            " move the images of each class into one folder"
        )


def _check_count(folder: Path, found: Content, fewest: int) -> None:
    if len(found.files) >= fewest and any(map(may_be_image, found.files)):
        return
    images = [path for path in found.files if is_image_name(path) or not path.suffix]
    others = Counter(path.suffix.lower() for path in found.files if path not in images)
    raise DataError(
        f"data.root: {shown(folder)} has {len(images)} images{f' and {counts(others)}' if others else ''}, expected"
        f" {fewest} or more of each class. Add images, or move the folder elsewhere{lines(told(found.bad))}"
    )


def _no_folder(root: Path) -> str:
    """The error for a root that is absent or a file."""
    expected = "expected one folder of images for each class in it"
    if not root.exists():
        return f"data.root: {shown(root)} is no folder; {expected}. Check the path"
    if not root.is_file():
        return f"data.root: {shown(root)} is no folder; {expected}"
    return f"data.root: {shown(root)} is no folder but {file_kind(root)}; {expected}. {advice_for_file(root)}"


def _no_classes(tree: Tree, folder: Path) -> str:
    """The error for a folder without class folders; names its content."""
    content = tree.content(folder)
    expected = "expected one for each class, with its images in it"
    if images := content.images():
        return (
            f"data.root: {shown(folder)} has {images} images and no class folders; {expected}. To take all of them as"
            f" one class, move them into a folder within, such as {shown(folder / 'images')}{lines(told(content.bad))}"
        )
    empty = " that hold anything" if content.folders else ""
    files = list(content.files)[:_SHOWN]
    held = [f"{shown(path.name)} is {file_kind(path)}" for path in files]
    advice = "".join(f". {text}" for text in dict.fromkeys(map(advice_for_file, files))).rstrip(".")
    return (
        f"data.root: {shown(folder)} has no class folders{empty}; {expected}{advice}{lines(told(content.bad) + held)}"
    )


def _notes(tree: Tree, levels: list[Path], nested: Mapping[str, int], *, ends: list[Path]) -> Iterator[str]:
    """One line for each kind of entry that was passed over or seen through."""
    if ends:
        yield f"data.root: the class folders are those of {' and '.join(map(shown, ends))}"
    if tree.system_files:
        yield (
            "data.root: files and folders of operating systems and programs are passed over"
            f" ({tree.system_files.total()}): {counts(tree.system_files)}"
        )
    if empty := sorted(shown(path) for path in tree.empty):
        yield f"data.root: empty folders are passed over ({len(empty)}): {list_names(empty)}"
    if nested:
        yield (
            f"data.root: images in folders below the class folders count as images of these classes"
            f" ({sum(nested.values())}): {counts(Counter(nested))}"
        )
    for level in levels:
        content = tree.content(level)
        if images := content.images():
            yield f"{shown(level)}: {images} images lie beside the class folders and are left out"
        tables = [shown(path.name) for path in content.files if _may_hold_labels(path)]
        if tables:
            yield f"{shown(level)}: labels are taken from the class folders alone; not read: {list_names(tables)}"


def _is_utf_8(name: str) -> bool:
    return os.fsencode(name).decode(errors="replace") == name


def _may_hold_labels(path: Path) -> bool:
    return path.suffix.lower() in TABLES and not path.name.lower().startswith(_TEXTS)


def _gather(tree: Tree, folder: Path, above: Collection[Path]) -> Content:
    """The files in a folder and in all folders below it."""
    gathered = Content()
    for _, content in tree.below(folder, above=above):
        gathered.files |= content.files
        gathered.bad |= content.bad
    return gathered


def _assign(
    part: str, parts: Collection[str], root: Path, found: dict[Path, os.stat_result], label: int
) -> Iterator[File]:
    """The files of one class folder, each with its split."""
    names = {path: nfc(path.relative_to(root).as_posix()) for path in sorted(found)}
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
