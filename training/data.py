"""The data sets: read, checked and split. Images are uint8 [N, C, H, W], labels int64 [N].

MNIST's four files come with the package. Every IDX file is checked (magic number, sizes, digest where one is known)
before a pixel of it is used. The 60,000 training images are split 55,000 / 5,000 by a fixed shuffle.

One's own data set is a function (settings, split) that gives an ImageSet: registered with `@DATASETS.register("name")`
or named as `data.name = "module:function"`. Folders of images are in `image_folder.py`.
"""

import hashlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ganctl.training.cache_dir import cache_dir
from ganctl.training.config import DataSettings, absolute_path
from ganctl.training.errors import ConfigError, DataError
from ganctl.training.idx import read_idx
from ganctl.training.registry import Registry

Split = Literal["train", "val", "test"]
_VALIDATION = 5_000  # images of the training file
EMBEDDED = Path(__file__).parent / "datasets" / "mnist"

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


@dataclass(frozen=True)
class ImageSet:
    """One split of a data set, in memory."""

    images: Tensor  # uint8 [N, C, H, W]
    labels: Tensor  # int64 [N]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def digest(self) -> str:
        """SHA-256 of shape, class names, labels and each image's sum of pixels: tells another set from this one in a
        moment, though not one whose images keep their sums."""
        digest = hashlib.sha256(json.dumps([self.images.shape, self.class_names]).encode())
        for numbers in (self.labels, self.images.flatten(1).sum(dim=1, dtype=torch.int64)):
            digest.update(numbers.numpy().tobytes())
        return digest.hexdigest()


def nfc(text: str) -> str:
    """The text in Unicode's composed form, in which class names are kept and compared."""
    return unicodedata.normalize("NFC", text)


DATASETS: Registry[Callable[[DataSettings, Split], ImageSet]] = Registry("data set", "data.name")


def load_split(settings: DataSettings, split: Split) -> ImageSet:
    """Reads one split of the data set that `settings` names.

    Raises:
        DataError: a file is absent (and cannot be downloaded), truncated, foreign or damaged; or what somebody's own
            function gave is no set of images.
    """
    return _sound(DATASETS.get(settings.name)(settings, split), f"data.name = '{settings.name}', {split} images")


@DATASETS.register("mnist")
@DATASETS.register("fashion-mnist")
@DATASETS.register("kmnist")
def _idx_set(settings: DataSettings, split: Split) -> ImageSet:
    return _load(settings.name, _folder(settings), split)


@DATASETS.register("folder")
def _folder_set(settings: DataSettings, split: Split) -> ImageSet:
    from ganctl.training.image_folder import load_folder  # it needs Pillow and this module

    return load_folder(settings, split)


def data_digest(settings: DataSettings) -> str:
    """What tells this data set from others, for the names of files that are cached by it."""
    if settings.name in _CLASS_NAMES:
        return settings.name
    data = load_split(settings, "train")
    digest = hashlib.sha256(json.dumps([data.images.shape, data.class_names]).encode())
    for numbers in (data.images, data.labels):
        digest.update(numbers.numpy().tobytes())
    return f"{settings.name.replace(':', '.')}-{digest.hexdigest()[:16]}"


def _sound(data: ImageSet, what: str) -> ImageSet:
    images, labels, classes = data.images, data.labels, len(data.class_names)
    faults = []
    if images.dtype != torch.uint8 or images.dim() != 4:
        faults.append(
            f"images are {images.dtype} {tuple(images.shape)}, expected uint8 [N, C, H, W] with pixels 0 … 255"
        )
    elif len(images) < 2:
        faults.append(f"{len(images)} in all, expected 2 or more (the scores need their covariance); add images")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        faults.append(f"labels are {labels.dtype} {tuple(labels.shape)}, expected int64 [{len(images)}]")
    elif len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        faults.append(f"labels go from {int(labels.min())} to {int(labels.max())}, expected 0 to {classes - 1}")
    names = tuple(map(nfc, data.class_names))
    if fault := _fault_of_names(names):
        faults.append(fault)
    if faults:
        raise DataError(f"{what}: {'; '.join(faults)}")
    return data if names == data.class_names else replace(data, class_names=names)


def _fault_of_names(names: Sequence[str]) -> str | None:
    """What is wrong with class names in NFC, None where nothing is."""
    name, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        return (
            f"the class name {name!r} is given to {times} classes (compared in Unicode's form NFC), expected a name of"
            " its own for each; rename one"
        )
    return "a class name is empty, expected a name for each class; give it one" if "" in names else None


@lru_cache(maxsize=4)
def _load(name: str, folder: Path, split: Split) -> ImageSet:
    prefix = _FILES[split]
    known = _SHA256 if name == "mnist" else {}
    files = [_find(folder, f"{prefix}-{content}-ubyte") for content in ("images-idx3", "labels-idx1")]
    pixels = read_idx(files[0], dimensions=3, shape=(_COUNTS[prefix], 28, 28), sha256=known)
    labels = read_idx(files[1], dimensions=1, shape=(_COUNTS[prefix],), sha256=known)
    images, targets = torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels).long()
    if split != "test":
        order = shuffled(len(images))
        keep = (order[:_VALIDATION] if split == "val" else order[_VALIDATION:]).sort().values
        images, targets = images[keep], targets[keep]
    return ImageSet(images, targets, _CLASS_NAMES[name])


def shuffled(n: int) -> Tensor:
    """The numbers 0 … n − 1 in an order that is the same for everybody and forever, int64 [n].

    From the raw words of a counter-based generator, which NumPy promises never to change.
    """
    return torch.from_numpy(np.argsort(np.random.Philox(key=12).random_raw(n), kind="stable"))


def _folder(settings: DataSettings) -> Path:
    """The folder that holds the IDX files, downloaded first where they are absent and the network allows it."""
    setting, named = _named_root(settings)
    torchvision_name = _TORCHVISION[settings.name]
    try:
        for folder in [named, named / torchvision_name / "raw"] if named else []:
            if any(_present(folder, prefix) for prefix in _COUNTS):
                return folder
        if settings.name == "mnist" and settings.root is None:
            return EMBEDDED
        cache = cache_dir()
        root = named or (cache / "datasets" if cache else None)
        if root is None:
            raise DataError(
                f"data.root: {settings.name} is no part of ganctl, and there is no folder to download it to: HOME names"
                f" none. {_NAME_A_FOLDER}"
            )
        folder = root / torchvision_name / "raw"
        if all(_present(folder, prefix) for prefix in _COUNTS):
            return folder
        _refuse_other_content(setting, root, settings.name)
        absent = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if named:
            raise DataError(f"{setting}: {error.filename}: {error.strerror}. {_NAME_A_FOLDER}") from error
        raise DataError(
            f"data.root: {settings.name} is no part of ganctl, and cannot be kept in the cache ({error.filename}:"
            f" {error.strerror}). {_NAME_A_FOLDER}"
        ) from error
    _download(torchvision_name, root, settings.name, absent)
    return folder


_NAME_A_FOLDER = "Set data.root or PATH_DATASETS to a folder that holds the files, or that this user may write."


def _named_root(settings: DataSettings) -> tuple[str, Path | None]:
    """The setting or variable that names the folder of data sets, and that folder."""
    if settings.root is not None:
        return "data.root", settings.root
    variable = "PATH_DATASETS"
    text = os.environ.get(variable)
    try:
        return variable, absolute_path(Path(text)) if text else None
    except ValueError as error:
        raise ConfigError([f"{variable} = {text!r}: {error}."]) from error


def _refuse_other_content(setting: str, root: Path, name: str) -> None:
    """Refuses to download into a file, or MNIST into a folder of images, which is meant to be the data set."""
    from ganctl.training.file_kinds import advice_for_file, file_kind  # these need Pillow
    from ganctl.training.folder_tree import Tree, shown

    if root.is_file():
        raise DataError(
            f"{setting}: {shown(root)} is no folder but {file_kind(root)}; expected a folder with the files of {name}."
            f" {advice_for_file(root)}"
        )
    if name != "mnist":
        return
    images = next((folder for folder, content in Tree().below(root) if content.images()), None)
    if images is not None:
        raise DataError(
            f"{setting}: {shown(root)} has no files of mnist, but images in {shown(images)}; {_expected_files()}. To"
            " train on the images, add data.name=folder (--set data.name=folder)"
        )


def _present(folder: Path, prefix: str) -> bool:
    return any((folder / f"{prefix}-images-idx3-ubyte{suffix}").exists() for suffix in ("", ".gz"))


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.exists():
            return candidate
    raise DataError(f"data.root: {folder} lacks {name} (or {name}.gz); {_expected_files()}")


def _download(torchvision_name: str, root: Path, name: str, absent: list[Path]) -> None:
    """Downloads a data set into `root`; removes what it leaves empty of the folders that were `absent` before."""
    from torchvision import datasets

    try:
        getattr(datasets, torchvision_name)(root=str(root), download=True)
    except (OSError, RuntimeError) as error:  # torchvision raises both, whatever kept it from the files
        for folder in absent:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise DataError(
            f"data.root: {name} is neither in {root} nor could it be downloaded ({error}). Put the files into"
            f" {root / torchvision_name / 'raw'}; {_expected_files()}"
        ) from error


def _expected_files() -> str:
    return "expected " + ", ".join(_SHA256) + " (plain or .gz)"
