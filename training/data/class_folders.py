"""Class folders below a root: lists their image files with classes and splits; opens no image.

Links are followed. Empty folders, files of operating systems and names that begin with a dot are ignored. Single nested
folders, as in an unpacked archive, are followed down to the folder of the classes. If the class folders are ambiguous,
the error names the paths to choose from.

Class names are in Unicode's composed form NFC; folder names on a macOS disk are decomposed.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path

from ganctl.common.text import nfc
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import Split
from ganctl.training.data.file_kinds import conversion_hint, file_kind, list_names
from ganctl.training.data.folder_tree import (
    FolderContent,
    FolderTree,
    bad_file_lines,
    bullet_list,
    companions,
    format_counts,
    is_image_name,
    is_named_train,
    may_be_image,
    printable,
)
from ganctl.training.errors import ConfigError, DataError

_VERSION = 4  # of decoding and cache files; a new number invalidates all caches
SPLITS: tuple[Split, ...] = ("train", "val", "test")
_MIN_CLASS_IMAGES = 3  # one for each split
_MAX_FILES_SHOWN = 8  # files whose kind an error names
_EXPECTED = "expected a folder with one folder of images for each class"
_TEXT_PREFIXES = ("readme", "license", "licence", "copying", "notice", "changelog", "citation", "requirements")


@dataclass(frozen=True)
class ListedFile:
    """File that may be an image."""

    path: Path
    label: int
    split: Split
    identity: str  # split, name below the root in NFC, size and modification time


@dataclass(frozen=True)
class Listing:
    """Files below a root. Two listings are equal if their digests are."""

    digest: str
    root: Path = field(compare=False)  # the folder that holds the class folders or the splits
    class_names: tuple[str, ...] = field(compare=False)
    files: tuple[ListedFile, ...] = field(compare=False)
    bad: dict[Path, str] = field(compare=False)  # entries that cannot be opened, with the reason
    companions: tuple[Path, ...] = field(compare=False)  # captions and the like, with the name of an image
    notes: tuple[str, ...] = field(compare=False)  # log lines about ignored entries and chosen folders


def list_folder(settings: DataSettings) -> Listing:
    """Lists the files below `data.root` with their classes and splits.

    Raises:
        ConfigError: `data.root` is unset.
        DataError: `data.root` has no class folders, or a class has too few files.
    """
    root = settings.root
    if root is None:
        raise ConfigError(["data.root is unset, expected a folder of class folders for data.name = 'folder'. Set it."])
    if not root.is_dir():
        kind = file_kind(root) if root.is_file() else "neither a file nor a folder"
        found, hint = (f"is {kind}", conversion_hint(kind)) if root.exists() else ("does not exist", "Check the path")
        raise DataError(f"data.root: {printable(root)} {found}, {_EXPECTED}. {hint}")
    tree = FolderTree()
    levels = tree.descend(root)
    base = levels[-1]
    parts = _split_folders(tree, base)
    part_levels = {part: tree.descend(folder) for part, folder in parts.items()}
    levels += [level for part in part_levels.values() for level in part if level not in levels]
    ends = {part: folders[-1] for part, folders in part_levels.items()}
    classes = _class_folders(tree, ends)
    bad = {path: reason for level in levels for path, reason in tree.content(level).bad.items()}
    files: list[ListedFile] = []
    nested: Counter[str] = Counter()
    all_companions: list[Path] = []
    for part, folders in classes.items():
        for label, folder in enumerate(folders.values()):
            content = FolderContent()
            for inner, inner_content in tree.walk(folder, exclude=levels):
                content.files |= inner_content.files
                content.bad |= inner_content.bad
                if inner != folder and (images := inner_content.count_candidates()):
                    nested[printable(inner.relative_to(base))] += images
            bad |= content.bad
            for path in companions(content.files):
                del content.files[path]
                all_companions.append(path)
            _check_count(folder, content, _MIN_CLASS_IMAGES if part == "train" else 1)
            files += _assign_splits(part, parts.keys(), base, content.files, label)
    names = tuple(next(iter(classes.values())))
    notes = _notes(tree, levels, nested, chosen=[] if base == root and ends == parts else [*ends.values()])
    digest = _digest(settings, base, names, files, [*bad_file_lines(bad), *map(printable, all_companions)])
    return Listing(digest, base, names, tuple(files), bad, tuple(all_companions), tuple(notes))


def _digest(
    settings: DataSettings, root: Path, class_names: tuple[str, ...], files: list[ListedFile], left_out: list[str]
) -> str:
    """Digest, 32 hexadecimal digits, of everything that determines the tensors and is known without reading files."""
    header = [_VERSION, settings.size, settings.channels, settings.skip_corrupt, class_names]
    digest = hashlib.sha256(json.dumps(header).encode())
    digest.update(os.fsencode(root.resolve()))  # another folder may have the same names, sizes and times
    for file in files:
        digest.update(os.fsencode(f"\0{file.identity}"))
    for line in left_out:
        digest.update(f"\0{line}".encode())
    return digest.hexdigest()[:32]


def _split_folders(tree: FolderTree, root: Path) -> dict[Split, Path]:
    """Maps split → folder that holds its class folders; without folders of splits, `root` is that of "train"."""
    names = {folder.name for folder in tree.subfolders(root)}
    if "train" in names and len(names) > 1 and names <= set(SPLITS):
        return {split: root / split for split in SPLITS if split in names}
    for folder in tree.subfolders(root):
        content = tree.content(folder)
        # a folder called train that holds images only is a class, if there are no other folders
        if is_named_train(folder) and (len(names) > 1 or (tree.subfolders(folder) and not content.count_images())):
            raise DataError(
                f"data.root: {printable(root)} has the folders {', '.join(printable(name) for name in sorted(names))},"
                " expected train with val, test or both (in lowercase, no other folders), or class folders of other"
                f" names. Rename them, or give data.root={printable(folder)} to use its images for all splits"
            )
    return {"train": root}


def _class_folders(tree: FolderTree, parts: dict[Split, Path]) -> dict[Split, dict[str, Path]]:
    """Maps split → class name → folder, in the order of the labels: numeric if all names are numbers."""
    classes: dict[Split, dict[str, Path]] = {}
    for part, folder in parts.items():
        inner = tree.subfolders(folder)
        if not inner:
            raise DataError(_no_class_folders(tree, folder))
        _check_depth(tree, folder, inner)
        by_name: dict[str, Path] = {}
        for path in inner:
            # JSON, HTML and file names of samples cannot hold other names than UTF-8
            if path.name != path.name.encode("utf-8", "ignore").decode():
                raise DataError(f"data.root: the name of the class folder {printable(path)} is not UTF-8. Rename it")
            name = nfc(path.name)
            if name in by_name:
                raise DataError(
                    f"data.root: {printable(folder)} has two folders called {name}, {by_name[name].name!a} and"
                    f" {path.name!a} (two Unicode forms), expected one folder for each class. Rename or merge them"
                )
            by_name[name] = path
        numeric = all(name.isascii() and name.isdigit() for name in by_name)
        order = sorted(by_name, key=lambda name: (int(name) if numeric else 0, name))
        classes[part] = {name: by_name[name] for name in order}
    expected = next(iter(classes.values()))
    for part, folders in classes.items():
        if differing := sorted(folders.keys() ^ expected.keys()):
            empty = sorted(printable(path) for path in tree.empty)
            raise DataError(
                f"data.root: {printable(parts[part])} has other classes than the other splits:"
                f" {list_names(differing)}" + (f" (empty: {list_names(empty)})" if empty else "")
            )
    return classes


def _check_depth(tree: FolderTree, folder: Path, inner: list[Path]) -> None:
    """Raises a DataError if no folder holds images itself and some hold several folders of images."""
    if any(map(tree.is_class, inner)):
        return
    deep = [path for path in inner if sum(content.count_candidates() > 0 for _, content in tree.walk(path)) > 1]
    if deep:
        choices = " or ".join(f"data.root={printable(tree.descend(path)[-1])}" for path in deep[:3])
        raise DataError(
            f"data.root: {printable(folder)} has the folders {list_names([printable(path.name) for path in inner])},"
            f" which hold folders of images instead of images, {_EXPECTED}. Give {choices}; or, if they are splits,"
            " rename them train, val and test"
        )


def _check_count(folder: Path, content: FolderContent, minimum: int) -> None:
    if len(content.files) >= minimum and any(map(may_be_image, content.files)):
        return
    images = [path for path in content.files if is_image_name(path) or not path.suffix]
    suffixes = Counter(path.suffix.lower() for path in content.files if path not in images)
    raise DataError(
        f"data.root: {printable(folder)} has {len(images)} images"
        f"{f' and {format_counts(suffixes)}' if suffixes else ''}, expected {minimum} or more of each class."
        f" Add images, or move the folder elsewhere{bullet_list(bad_file_lines(content.bad))}"
    )


def _no_class_folders(tree: FolderTree, folder: Path) -> str:
    """Message about a folder without class folders; names its content."""
    content = tree.content(folder)
    if images := content.count_images():
        return (
            f"data.root: {printable(folder)} has {images} images and no class folders, {_EXPECTED}. To use all of them"
            f" as one class, move them into a subfolder such as {printable(folder / 'images')}"
            f"{bullet_list(bad_file_lines(content.bad))}"
        )
    found = "no class folders with files" if content.folders else "no class folders"
    kinds = {printable(path.name): file_kind(path) for path in list(content.files)[:_MAX_FILES_SHOWN]}
    hints = "".join(f". {hint}" for hint in dict.fromkeys(map(conversion_hint, kinds.values()))).rstrip(".")
    shown = bullet_list([*bad_file_lines(content.bad), *(f"{name} is {kind}" for name, kind in kinds.items())])
    return f"data.root: {printable(folder)} has {found}, {_EXPECTED}{hints}{shown}"


def _notes(tree: FolderTree, levels: list[Path], nested: Counter[str], *, chosen: list[Path]) -> Iterator[str]:
    """Yields one log line for each kind of ignored entry, and one for folders chosen below the root."""
    if chosen:
        yield f"data.root: uses the class folders of {' and '.join(map(printable, chosen))}"
    if tree.system_files:
        yield (
            "data.root: files and folders of operating systems and programs are ignored"
            f" ({tree.system_files.total()}): {format_counts(tree.system_files)}"
        )
    if empty := sorted(printable(path) for path in tree.empty):
        yield f"data.root: empty folders are ignored ({len(empty)}): {list_names(empty)}"
    if nested:
        yield (
            f"data.root: images in subfolders of a class folder count as images of that class ({nested.total()}):"
            f" {format_counts(nested)}"
        )
    for level in levels:
        content = tree.content(level)
        if images := content.count_images():
            yield f"{printable(level)}: {images} images outside the class folders are ignored"
        tables = [printable(path.name) for path in content.files if _may_hold_labels(path)]
        if tables:
            yield f"{printable(level)}: labels come from the class folders alone; not read: {list_names(tables)}"


def _may_hold_labels(path: Path) -> bool:
    return not may_be_image(path) and not path.name.lower().startswith(_TEXT_PREFIXES)


def _assign_splits(
    part: Split, parts: Collection[str], root: Path, files: dict[Path, os.stat_result], label: int
) -> Iterator[ListedFile]:
    """Yields the files of one class folder with their splits.

    From the training images, a shuffle that depends on the names alone takes a tenth for each of val and test that has
    no folder.
    """
    names = {path: nfc(path.relative_to(root).as_posix()) for path in sorted(files)}
    order, held_out = list(names), list[Split]()
    if part == "train":
        order.sort(key=lambda path: hashlib.sha256(os.fsencode(names[path])).digest())
        tenth = max(1, len(order) // 10)
        held_out = [split for split in SPLITS[1:] if split not in parts for _ in range(tenth)]
    for path, split in zip(order, chain(held_out, repeat(part)), strict=False):
        identity = f"{split}/{names[path]}\0{(files[path].st_size, files[path].st_mtime_ns)}"
        yield ListedFile(path, label, split, identity)
