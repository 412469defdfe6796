"""MNIST, Fashion-MNIST and KMNIST from IDX files: images uint8 [N, 1, 28, 28], labels int64 [N].

The package contains MNIST's four files; the others are downloaded. Each file is checked: magic number, sizes and, for
MNIST, digest. A fixed permutation splits the 60,000 training images into 55,000 / 5,000.
"""

import os
from functools import lru_cache
from pathlib import Path

import torch

from ganctl.training.config.cache_dir import cache_dir
from ganctl.training.config.schema import DataSettings, absolute_path
from ganctl.training.data.base import ImageSet, Split, fixed_permutation
from ganctl.training.data.idx import read_idx
from ganctl.training.errors import ConfigError, DataError

_VALIDATION = 5_000  # images of the training file
EMBEDDED = Path(__file__).parents[1] / "datasets" / "mnist"

_FILES = {"train": "train", "val": "train", "test": "t10k"}
_COUNTS = {"train": 60_000, "t10k": 10_000}
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


def load_mnist(settings: DataSettings, split: Split) -> ImageSet:
    """Reads one split of MNIST, Fashion-MNIST or KMNIST.

    Raises:
        DataError: a file is absent and cannot be downloaded, or is truncated, damaged or of another format.
    """
    return _load(settings.name, _folder(settings), split)


@lru_cache(maxsize=4)
def _load(name: str, folder: Path, split: Split) -> ImageSet:
    prefix = _FILES[split]
    sha256 = _SHA256 if name == "mnist" else {}
    files = [_find(folder, f"{prefix}-{content}-ubyte") for content in ("images-idx3", "labels-idx1")]
    pixels = read_idx(files[0], dimensions=3, shape=(_COUNTS[prefix], 28, 28), sha256=sha256)
    labels = read_idx(files[1], dimensions=1, shape=(_COUNTS[prefix],), sha256=sha256)
    images, targets = torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels).long()
    if split != "test":
        order = fixed_permutation(len(images))
        keep = (order[:_VALIDATION] if split == "val" else order[_VALIDATION:]).sort().values
        images, targets = images[keep], targets[keep]
    return ImageSet(images, targets, _CLASS_NAMES[name])


def _folder(settings: DataSettings) -> Path:
    """Returns the folder of the IDX files; downloads absent files first."""
    setting, configured = _configured_root(settings)
    torchvision_name = _TORCHVISION[settings.name]
    try:
        for folder in [configured, configured / torchvision_name / "raw"] if configured else []:
            if any(_present(folder, prefix) for prefix in _COUNTS):
                return folder
        if settings.name == "mnist" and settings.root is None:
            return EMBEDDED
        cache = cache_dir()
        root = configured or (cache / "datasets" if cache else None)
        if root is None:
            raise DataError(
                f"data.root: {settings.name} is not included in ganctl, and there is no cache folder to download it to"
                f" (HOME is unset or no folder). {_SET_A_FOLDER}"
            )
        folder = root / torchvision_name / "raw"
        if all(_present(folder, prefix) for prefix in _COUNTS):
            return folder
        _refuse_other_content(setting, root, settings.name)
        absent = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if configured:
            raise DataError(f"{setting}: {error.filename}: {error.strerror}. {_SET_A_FOLDER}") from error
        raise DataError(
            f"data.root: {settings.name} is not included in ganctl, and cannot be stored in the cache"
            f" ({error.filename}: {error.strerror}). {_SET_A_FOLDER}"
        ) from error
    _download(torchvision_name, root, settings.name, absent)
    return folder


_SET_A_FOLDER = "Set data.root or PATH_DATASETS to a folder that holds the files or is writable."


def _configured_root(settings: DataSettings) -> tuple[str, Path | None]:
    """Returns the setting or variable that sets the folder of data sets, and the folder; None if it is unset."""
    if settings.root is not None:
        return "data.root", settings.root
    variable = "PATH_DATASETS"
    text = os.environ.get(variable)
    try:
        return variable, absolute_path(Path(text)) if text else None
    except ValueError as error:
        raise ConfigError([f"{variable} = {text!r}: {error}."]) from error


def _refuse_other_content(setting: str, root: Path, name: str) -> None:
    """Raises a DataError if `root` is a file, or a folder of images where MNIST is expected."""
    from ganctl.training.data.file_kinds import conversion_hint, file_kind  # these need Pillow
    from ganctl.training.data.folder_tree import FolderTree, printable

    if root.is_file():
        raise DataError(
            f"{setting}: {printable(root)} is {file_kind(root)}, expected a folder with the files of {name}."
            f" {conversion_hint(root)}"
        )
    if name != "mnist":
        return
    images = next((folder for folder, content in FolderTree().walk(root) if content.count_images()), None)
    if images is not None:
        raise DataError(
            f"{setting}: {printable(root)} has no files of mnist, but images in {printable(images)};"
            f" {_expected_files()}. To train on the images, add data.name=folder (--set data.name=folder)"
        )


def _present(folder: Path, prefix: str) -> bool:
    return any((folder / f"{prefix}-images-idx3-ubyte{suffix}").exists() for suffix in ("", ".gz"))


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.exists():
            return candidate
    raise DataError(f"data.root: {folder} lacks {name} (or {name}.gz); {_expected_files()}")


def _download(torchvision_name: str, root: Path, name: str, absent: list[Path]) -> None:
    """Downloads a data set into `root`; after a failure removes the `absent` folders that are still empty."""
    from torchvision import datasets

    try:
        getattr(datasets, torchvision_name)(root=str(root), download=True)
    except (OSError, RuntimeError) as error:  # torchvision raises both for any failed download
        for folder in absent:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise DataError(
            f"data.root: {name} is not in {root}, and the download failed ({error}). Put the files into"
            f" {root / torchvision_name / 'raw'}; {_expected_files()}"
        ) from error


def _expected_files() -> str:
    return "expected " + ", ".join(_SHA256) + " (plain or .gz)"
