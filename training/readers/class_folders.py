"""Class folders: one folder of images for each class, perhaps below split folders; and folders without classes.

    cats/1.png  dogs/x/2.jpg …        train/cats/…  test/cats/…        1.png  2.png …        train/1.png  test/2.png …

Single nested folders, as in an unpacked archive, are followed down to the folder of the classes. If the class folders
are ambiguous, the error names the paths to choose from. Without class folders the data set is unlabeled.

Class names are in Unicode's composed form NFC; folder names on a macOS disk are decomposed.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ganctl.common.text import nfc
from ganctl.training.errors import DataError
from ganctl.training.readers.base import NO_SPLIT, FileImages, Reader, Source, sorted_class_names
from ganctl.training.readers.file_kinds import conversion_hint, list_names
from ganctl.training.readers.tree import (
    SPLITS,
    FolderContent,
    Split,
    Tree,
    bad_file_lines,
    bullet_list,
    companions,
    format_counts,
    is_image_name,
    is_named_train,
    may_be_image,
    printable,
)

_MIN_CLASS_IMAGES = 3  # one for each split
_MAX_FILES_SHOWN = 8  # files whose kind an error names
_EXPECTED = "expected images, or one folder of images for each class"
_TEXT_PREFIXES = ("readme", "license", "licence", "copying", "notice", "changelog", "citation", "requirements")


def _find(tree: Tree) -> list[Path]:
    """Returns the folder of the splits, the classes or the images."""
    return [tree.descend(tree.container.path)[-1]]


def _open(tree: Tree) -> Source:
    """Lists the files with their classes and splits.

    Raises:
        DataError: the folders are ambiguous, or a class has too few files.
    """
    root = tree.container.path
    levels = tree.descend(root)
    base = levels[-1]
    parts = _split_folders(tree, base)
    part_levels = {part: tree.descend(folder) for part, folder in parts.items()}
    levels += [level for part in part_levels.values() for level in part if level not in levels]
    ends = {part: folders[-1] for part, folders in part_levels.items()}
    labeled = any(tree.subfolders(folder) for folder in ends.values())
    classes = _class_folders(tree, ends) if labeled else {part: {"": folder} for part, folder in ends.items()}
    if not labeled and not any(_holds_image(tree, folder) for folder in ends.values()):
        raise DataError(_no_images(tree, base))
    bad = {path: reason for level in levels for path, reason in tree.content(level).bad.items()}
    paths: list[Path] = []
    labels: list[int] = []
    splits: list[int] = []
    nested: Counter[str] = Counter()
    all_companions: list[Path] = []
    for part, folders in classes.items():
        for label, folder in enumerate(folders.values()):
            content = FolderContent()
            for inner, inner_content in tree.walk(folder, exclude=levels if labeled else ()):
                content.files |= inner_content.files
                content.bad |= inner_content.bad
                if inner != folder and (images := inner_content.count_candidates()):
                    nested[printable(inner.relative_to(base))] += images
            bad |= content.bad
            for path in companions(content.files):
                del content.files[path]
                all_companions.append(path)
            if not labeled:  # beside class folders such files are ignored as well
                content.files = {path: stamp for path, stamp in content.files.items() if not _is_document(path)}
            _check_count(folder, content, _MIN_CLASS_IMAGES if part == "train" else 1, labeled=labeled)
            paths += sorted(content.files, key=lambda path: path.parts)
            labels += [label] * len(content.files)
            splits += [SPLITS.index(part) if len(parts) > 1 else NO_SPLIT] * len(content.files)
    outside = levels if labeled else [level for level in levels if level not in ends.values()]
    _check_strays(tree, outside, classes, len(paths))
    kind = "class folders" if labeled else "images without class folders"
    return Source(
        format=f"{kind} in split folders" if len(parts) > 1 else kind,
        images=FileImages(tree, paths),
        names=[printable(path) for path in paths],
        labels=np.array(labels, np.int64),
        class_names=tuple(next(iter(classes.values()))) if labeled else (),
        splits=np.array(splits, np.int8),
        bad={printable(path): reason for path, reason in sorted(bad.items())},
        companions=[printable(path) for path in all_companions],
        notes=list(
            _notes(
                tree,
                levels,
                nested,
                outside=outside,
                labeled=labeled,
                chosen=[] if ends == {"train": root} or (base == root and ends == parts) else [*ends.values()],
            )
        ),
    )


def _split_folders(tree: Tree, root: Path) -> dict[Split, Path]:
    """Maps split → folder that holds its class folders; without folders of splits, `root` is that of "train"."""
    names = {folder.name for folder in tree.subfolders(root)}
    if "train" in names and len(names) > 1 and names <= set(SPLITS):
        return {split: root / split for split in SPLITS if split in names}
    for folder in tree.subfolders(root):
        content = tree.content(folder)
        # a folder called train that holds images only is a class, if there are no other folders
        if is_named_train(folder) and (len(names) > 1 or (tree.subfolders(folder) and not content.count_images())):
            raise DataError(
                f"data.source: {printable(root)} has the folders {', '.join(map(printable, sorted(names)))}, expected"
                " train with val, test or both (in lowercase, no other folders), or class folders of other"
                f" names. Rename them, or give data.source={printable(folder)} to use its images for all splits"
            )
    return {"train": root}


def _class_folders(tree: Tree, parts: dict[Split, Path]) -> dict[Split, dict[str, Path]]:
    """Maps split → class name → folder, in the order of the labels: numeric if all names are numbers."""
    classes: dict[Split, dict[str, Path]] = {}
    for part, folder in parts.items():
        inner = tree.subfolders(folder)
        if not inner:
            raise DataError(
                f"data.source: {printable(folder)} has no class folders, which the other splits have, expected the same"
                " folders in each split. Add them"
            )
        _check_depth(tree, folder, inner)
        by_name: dict[str, Path] = {}
        for path in inner:
            # JSON, HTML and file names of samples cannot hold other names than UTF-8
            if path.name != path.name.encode("utf-8", "ignore").decode():
                raise DataError(f"data.source: the name of the class folder {printable(path)} is not UTF-8. Rename it")
            name = nfc(path.name)
            if name in by_name:
                raise DataError(
                    f"data.source: {printable(folder)} has two folders called {name}, {by_name[name].name!a} and"
                    f" {path.name!a} (two Unicode forms), expected one folder for each class. Rename or merge them"
                )
            by_name[name] = path
        classes[part] = {name: by_name[name] for name in sorted_class_names(by_name)}
    expected = next(iter(classes.values()))
    for part, folders in classes.items():
        if differing := sorted(folders.keys() ^ expected.keys()):
            empty = sorted(printable(path) for path in tree.empty)
            raise DataError(
                f"data.source: {printable(parts[part])} has other classes than the other splits:"
                f" {list_names(differing)}" + (f" (empty: {list_names(empty)})" if empty else "")
            )
    return classes


def _check_depth(tree: Tree, folder: Path, inner: list[Path]) -> None:
    """Raises a DataError if no folder holds images itself and some hold several folders of images."""
    if any(map(tree.is_class, inner)):
        return
    deep = [path for path in inner if sum(content.count_candidates() > 0 for _, content in tree.walk(path)) > 1]
    if deep:
        choices = " or ".join(f"data.source={printable(tree.descend(path)[-1])}" for path in deep[:3])
        raise DataError(
            f"data.source: {printable(folder)} has the folders {list_names([printable(path.name) for path in inner])},"
            f" which hold folders of images instead of images, {_EXPECTED}. Give {choices}; or, if they are splits,"
            " rename them train, val and test"
        )


def _holds_image(tree: Tree, folder: Path) -> bool:
    """Returns whether one of a folder's files is an image: by its name, else by its content."""
    content = tree.content(folder)
    candidates = (path for path in content.files if may_be_image(path))
    return content.count_images() > 0 or any(tree.file_kind(path).startswith("one image") for path in candidates)


def _check_strays(tree: Tree, outside: list[Path], classes: dict[Split, dict[str, Path]], count: int) -> None:
    """Raises a DataError if more images lie beside the class folders than in them."""
    for level in outside:
        strays = tree.content(level).count_images()
        if strays > count:
            names = list_names([printable(path.name) for folders in classes.values() for path in folders.values()])
            raise DataError(
                f"data.source: {printable(level)} has {strays} images, and {count} in the folders {names}, expected"
                " images, or class folders. Move the images into a folder of their own, or the folders elsewhere"
            )


def _check_count(folder: Path, content: FolderContent, minimum: int, *, labeled: bool) -> None:
    if len(content.files) >= minimum and any(map(may_be_image, content.files)):
        return
    images = [path for path in content.files if is_image_name(path) or not path.suffix]
    suffixes = Counter(path.suffix.lower() for path in content.files if path not in images)
    raise DataError(
        f"data.source: {printable(folder)} has {len(images)} images"
        f"{f' and {format_counts(suffixes)}' if suffixes else ''}, expected {minimum} or more"
        f"{' of each class. Add images, or move the folder elsewhere' if labeled else '. Add images'}"
        f"{bullet_list(bad_file_lines(content.bad))}"
    )


def _no_images(tree: Tree, folder: Path) -> str:
    """Message about a folder without images; names its content."""
    content = tree.content(folder)
    found = "no folders with files" if content.folders else "no images"
    kinds = {printable(path.name): tree.file_kind(path) for path in list(content.files)[:_MAX_FILES_SHOWN]}
    hints = "".join(f". {hint}" for hint in dict.fromkeys(map(conversion_hint, kinds.values()))).rstrip(".")
    shown = bullet_list([*bad_file_lines(content.bad), *(f"{name} is {kind}" for name, kind in kinds.items())])
    return f"data.source: {printable(folder)} has {found}, {_EXPECTED}{hints}{shown}"


def _notes(
    tree: Tree, levels: list[Path], nested: Counter[str], *, outside: list[Path], labeled: bool, chosen: list[Path]
) -> Iterator[str]:
    """Yields one log line for each kind of ignored entry, and one for folders chosen below the root."""
    if chosen:
        yield f"data.source: uses the folders {' and '.join(map(printable, chosen))}"
    if tree.system_files:
        yield (
            "data.source: files and folders of operating systems and programs are ignored"
            f" ({tree.system_files.total()}): {format_counts(tree.system_files)}"
        )
    if empty := sorted(printable(path) for path in tree.empty):
        yield f"data.source: empty folders are ignored ({len(empty)}): {list_names(empty)}"
    if nested:
        yield (
            f"data.source: images in subfolders of a class folder count as images of that class ({nested.total()}):"
            f" {format_counts(nested)}"
        )
    for level in levels:
        content = tree.content(level)
        if level in outside and (images := content.count_images()):
            folders = "class folders" if labeled else "split folders"
            yield f"{printable(level)}: {images} images outside the {folders} are ignored"
        tables = [printable(path.name) for path in content.files if _may_hold_labels(path)]
        if tables:
            origin = "labels come from the class folders alone" if labeled else "the images have no labels"
            yield f"{printable(level)}: {origin}; not read: {list_names(tables)}"


def _may_hold_labels(path: Path) -> bool:
    return not may_be_image(path) and not _is_text(path)


def _is_text(path: Path) -> bool:
    return path.name.lower().startswith(_TEXT_PREFIXES) and not is_image_name(path)


def _is_document(path: Path) -> bool:
    """Returns whether a file is a table or a text about the data set."""
    return not may_be_image(path) or _is_text(path)


READER = Reader("class folders", _find, _open)
