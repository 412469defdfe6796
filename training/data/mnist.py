"""MNIST, Fashion-MNIST and KMNIST from IDX files: images uint8 [N, 1, 28, 28], labels int64 [N].

The package contains MNIST's four files; the others are downloaded. Each file is checked: magic number, sizes and, for
MNIST, digest. A fixed permutation splits the 60,000 training images into 55,000 / 5,000.
"""

import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ganctl.training.config.cache_dir import cache_path
from ganctl.training.config.schema import DataSettings, absolute_path
from ganctl.training.data.base import ImageSet, Split, fixed_permutation
from ganctl.training.data.file_kinds import conversion_hint, file_kind
from ganctl.training.data.folder_tree import FolderTree, printable
from ganctl.training.data.idx import read_idx
from ganctl.training.errors import ConfigError, DataError

_VALIDATION = 5_000  # images of the training file
EMBEDDED = Path(__file__).parents[1] / "datasets" / "mnist"

_COUNTS = {"train": 60_000, "t10k": 10_000}  # images by the prefix of the files
_TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
_SHA256 = {  # of the uncompressed files of MNIST
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
}
_CLASS_NAMES = {
    "mnist": tuple("0123456789"),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    "fashion-mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
}  # fmt: skip
NAMES = tuple(_CLASS_NAMES)
_SET_A_FOLDER = "Set data.root or PATH_DATASETS to a folder that holds the files or is writable."
_EXPECTED_FILES = f"expected {', '.join(_SHA256)} (plain or .gz)"


def load_mnist(settings: DataSettings, split: Split) -> ImageSet:
    """Reads one split of MNIST, Fashion-MNIST or KMNIST.

    Raises:
        DataError: a file is absent and cannot be downloaded, or is truncated, damaged or of another format.
    """
    setting, root = _configured_root(settings)
    try:
        folder = _folder(settings, setting, root)
    except OSError as error:
        raise DataError(f"{setting}: {error.filename}: {error.strerror}. {_SET_A_FOLDER}") from error
    return _load(settings.name, folder, split)


@lru_cache(maxsize=4)
def _load(name: str, folder: Path, split: Split) -> ImageSet:
    prefix = "t10k" if split == "test" else "train"
    images = _read(folder, f"{prefix}-images-idx3-ubyte", (_COUNTS[prefix], 28, 28), name).unsqueeze(1)
    labels = _read(folder, f"{prefix}-labels-idx1-ubyte", (_COUNTS[prefix],), name).long()
    if split != "test":
        order = fixed_permutation(len(images))
        keep = (order[:_VALIDATION] if split == "val" else order[_VALIDATION:]).sort().values
        images, labels = images[keep], labels[keep]
    return ImageSet(images, labels, _CLASS_NAMES[name])


def _read(folder: Path, file: str, shape: tuple[int, ...], name: str) -> Tensor:
    path = _find(folder, file)
    if path is None:
        raise DataError(f"data.root: {folder} lacks {file} (or {file}.gz); {_EXPECTED_FILES}")
    return torch.from_numpy(read_idx(path, shape, _SHA256[file] if name == "mnist" else None))


def _find(folder: Path, file: str) -> Path | None:
    return next((path for path in (folder / file, folder / f"{file}.gz") if path.exists()), None)


def _configured_root(settings: DataSettings) -> tuple[str, Path | None]:
    """Returns the setting or variable that sets the folder of data sets, and the folder; None if it is unset."""
    variable = "PATH_DATASETS"
    text = os.environ.get(variable)
    if settings.root is not None or not text:
        return "data.root", settings.root
    try:
        return variable, absolute_path(Path(text))
    except ValueError as error:
        raise ConfigError([f"{variable} = {text!r}: {error}."]) from error


def _folder(settings: DataSettings, setting: str, root: Path | None) -> Path:
    """Returns the folder of the IDX files; downloads absent files first."""
    name, below = settings.name, Path(_TORCHVISION[settings.name], "raw")
    for folder in [root, root / below] if root else []:
        if any(_find(folder, f"{prefix}-images-idx3-ubyte") for prefix in _COUNTS):
            return folder
    if name == "mnist" and settings.root is None:
        return EMBEDDED
    if root is not None:
        _refuse_other_content(setting, root, name)
    elif (root := cache_path("datasets")) is None:
        raise DataError(
            f"data.root: {name} is not included in ganctl, and there is no cache folder to download it to (HOME is"
            f" unset or no folder). {_SET_A_FOLDER}"
        )
    folder = root / below
    if not all(_find(folder, f"{prefix}-images-idx3-ubyte") for prefix in _COUNTS):
        _download(name, root, folder)
    return folder


def _refuse_other_content(setting: str, root: Path, name: str) -> None:
    """Raises a DataError if `root` is a file, or a folder of images where MNIST is expected."""
    if root.is_file():
        kind = file_kind(root)
        found = f"{printable(root)} is {kind}"
        raise DataError(f"{setting}: {found}, expected a folder with the files of {name}. {conversion_hint(kind)}")
    if name != "mnist":
        return
    images = next((folder for folder, content in FolderTree().walk(root) if content.count_images()), None)
    if images is not None:
        raise DataError(
            f"{setting}: {printable(root)} has no files of mnist, but images in {printable(images)};"
            f" {_EXPECTED_FILES}. To train on the images, add data.name=folder (--set data.name=folder)"
        )


def _download(name: str, root: Path, folder: Path) -> None:
    """Downloads a data set into `folder` below `root`."""
    from torchvision import datasets

    folder.mkdir(parents=True, exist_ok=True)
    try:
        getattr(datasets, _TORCHVISION[name])(root=str(root), download=True)
    except (OSError, RuntimeError) as error:  # torchvision raises both for any failed download
        for path in (folder, folder.parent):
            with suppress(OSError):  # not empty
                path.rmdir()
        raise DataError(
            f"data.root: {name} is not in {root}, and the download failed ({error}). Put the files into {folder};"
            f" {_EXPECTED_FILES}"
        ) from error
