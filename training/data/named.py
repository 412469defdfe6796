"""MNIST, Fashion-MNIST and KMNIST from IDX files: images uint8 [N, 1, 28, 28], labels int64 [N].

The package contains MNIST's four files. The others are read from the folder PATH_DATASETS, from Debian's package
dataset-fashion-mnist, or downloaded. Each file is checked: magic number, sizes and, for MNIST, digest. A fixed
permutation splits the 60,000 training images into 55,000 / 5,000.

Decompressed gzip files are cached as NAME-SOURCE-CONTENT, with the SHA-256 of the gzip file (16 digits) and of the
file's own bytes; a file is used only if both match.
"""

import gzip
import hashlib
import logging
import os
import zlib
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ganctl.files import read_file
from ganctl.training.config.cache_dir import cache_path, read_cached, write_cached
from ganctl.training.config.schema import DataSettings, absolute_path
from ganctl.training.data.base import ImageSet, fixed_permutation
from ganctl.training.errors import ConfigError, DataError
from ganctl.training.readers.idx import parse_idx
from ganctl.training.readers.tree import Split, printable

_VALIDATION = 5_000  # images of the training file
EMBEDDED = Path(__file__).parents[1] / "datasets" / "mnist"

_COUNTS = {"train": 60_000, "t10k": 10_000}  # images by the prefix of the files
_TORCHVISION: dict[str, str] = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
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
_VARIABLE = "PATH_DATASETS"
_DEBIAN = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
_SET_A_FOLDER = f"Set {_VARIABLE} to a folder that holds the files or is writable."
_EXPECTED_FILES = f"expected {', '.join(_SHA256)} (plain or .gz)"
_log = logging.getLogger(__name__)


def load_named(settings: DataSettings, split: Split) -> ImageSet:
    """Reads one split of MNIST, Fashion-MNIST or KMNIST.

    Raises:
        DataError: a file is absent and cannot be downloaded, or is truncated, damaged or of another format.
    """
    try:
        folder = _folder(settings.source)
    except OSError as error:
        setting = f"data.source = '{settings.source}'" if _configured_root() is None else _VARIABLE
        raise DataError(f"{setting}: {error.filename}: {error.strerror}. {_SET_A_FOLDER}") from error
    return _load(settings.source, folder, split)


def is_present(name: str) -> bool:
    """Returns whether the files of a data set are on this machine, so that `load_named` downloads nothing."""
    return _present_folder(name) is not None


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
        raise DataError(f"data.source = '{name}': {folder} lacks {file} (or {file}.gz); {_EXPECTED_FILES}")
    raw = _read_gzip(path) if path.suffix == ".gz" else read_file(path)
    array = parse_idx(path, raw)
    if array.shape != shape:
        found, expected = (" × ".join(map(str, axes)) for axes in (array.shape, shape))
        raise DataError(
            f"{path}: found {found} bytes, expected {expected} as in {name}. For another data set give the path of its"
            " folder instead of the name"
        )
    if name == "mnist" and (digest := hashlib.sha256(raw).hexdigest()) != _SHA256[file]:
        raise DataError(
            f"{path}: found the SHA-256 {digest}, expected {_SHA256[file]} of the original. Replace the file"
        )
    return torch.from_numpy(array.copy())


def _find(folder: Path, file: str) -> Path | None:
    return next((path for path in (folder / file, folder / f"{file}.gz") if path.exists()), None)


def _configured_root() -> Path | None:
    """Returns the folder of data sets that PATH_DATASETS names, if any."""
    text = os.environ.get(_VARIABLE)
    try:
        return absolute_path(Path(text)) if text else None
    except ValueError as error:
        raise ConfigError([f"{_VARIABLE} = {text!r}: {error}."]) from error


def _present_folder(name: str) -> Path | None:
    """Returns the folder that holds the IDX files; None if they are to be downloaded."""
    root, below = _configured_root(), Path(_TORCHVISION[name], "raw")
    candidates: list[Path] = [*((root, root / below) if root else ()), *((_DEBIAN[name],) if name in _DEBIAN else ())]
    for folder in candidates:
        if any(_find(folder, f"{prefix}-images-idx3-ubyte") for prefix in _COUNTS):
            return folder
    if name == "mnist":
        return EMBEDDED
    if root is None and (cached := cache_path("datasets")) is not None:
        folder = cached / below
        if all(_find(folder, f"{prefix}-images-idx3-ubyte") for prefix in _COUNTS):
            return folder
    return None


def _folder(name: str) -> Path:
    """Returns the folder of the IDX files; downloads absent files first."""
    if (present := _present_folder(name)) is not None:
        return present
    root, below = _configured_root(), Path(_TORCHVISION[name], "raw")
    if root is not None and root.is_file():
        raise DataError(f"{_VARIABLE}: {printable(root)} is a file, expected a folder of data sets. {_SET_A_FOLDER}")
    root = root or cache_path("datasets")
    if root is None:
        raise DataError(
            f"data.source = '{name}': it is not included in ganctl, and there is no cache folder to download it to"
            f" (HOME is unset or no folder). {_SET_A_FOLDER}"
        )
    folder = root / below
    _download(name, root, folder)
    return folder


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
            f"data.source = '{name}': it is not in {root}, and the download failed ({error}). Put the files into"
            f" {folder}; {_EXPECTED_FILES}"
        ) from error


def _read_gzip(path: Path) -> bytes:
    """Returns the content of a gzip file, from the cache if it has been decompressed before."""
    packed = read_file(path)
    prefix = cache_path("datasets", f"{path.stem}-{hashlib.sha256(packed).hexdigest()[:16]}")
    if (cached := read_cached(prefix, _read_intact_copy)) is not None:
        return cached
    try:
        raw = gzip.decompress(packed)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a complete gzip file ({error}). Download it again") from error
    copy = prefix.with_name(f"{prefix.name}-{hashlib.sha256(raw).hexdigest()}") if prefix else None
    if (reason := write_cached(copy, raw)) is not None:
        _log.info("%s; %s is decompressed in each run", reason, path)
    return raw


def _read_intact_copy(prefix: Path) -> bytes | None:
    """Reads the file PREFIX-CONTENT whose digest matches its name; None if there is none."""
    for copy in prefix.parent.glob(f"{prefix.name}-*"):
        raw = copy.read_bytes()
        if copy.name == f"{prefix.name}-{hashlib.sha256(raw).hexdigest()}":
            return raw
    return None
