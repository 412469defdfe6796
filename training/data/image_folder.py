"""Image folders as data sets: decodes class folders of images once, and caches the tensors.

    root/cats/1.png  root/dogs/x/2.jpg …        split by a fixed shuffle of each class, 8 : 1 : 1
    root/train/cats/…  root/test/cats/…         splits as given; without val/, a tenth of train/ becomes val

Each image is rotated as its EXIF orientation says, composited on black, cropped to its central square and resized with
Pillow's antialiased bicubic filter (`decode.py`, `decode_set.py`). A cache file is valid while the folder's path and
the name, size and modification time of every file stay the same. `class_folders.py` finds the class folders.
"""

import hashlib
import json
import logging
from functools import lru_cache
from pathlib import Path

import safetensors.torch
from torch import Tensor

from ganctl.processes import available_cores, is_later_rank
from ganctl.training.config.cache_dir import cache_path, read_cached, write_cached
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet, Split
from ganctl.training.data.class_folders import SPLITS, Listing, list_folder
from ganctl.training.data.decode_set import decode_set
from ganctl.training.data.folder_tree import printable

_log = logging.getLogger(__name__)


def load_folder(settings: DataSettings, split: Split) -> ImageSet:
    """Reads one split of the images below `data.root`, from the cache if it is valid.

    Raises:
        ConfigError: `data.root` is unset.
        DataError: `data.root` has no class folders; or files cannot be read (all are named) and `data.skip_corrupt` is
            off.
    """
    listing = list_folder(settings)
    tensors = _load(settings, listing)
    chosen = tensors["split"] == SPLITS.index(split)
    return ImageSet(tensors["images"][chosen], tensors["labels"][chosen], listing.class_names)


def clear_memory_cache() -> None:
    """Forgets the data set in memory: the next `load_folder` reads the folder or the user's cache again."""
    _load.cache_clear()


@lru_cache(maxsize=1)
def _load(settings: DataSettings, listing: Listing) -> dict[str, Tensor]:
    _warn(*listing.notes)
    path = cache_path("datasets", f"{listing.digest}.safetensors")
    if (decoded := read_cached(path, _read_cache)) is None:
        destination = f" into the cache {path}" if path else ""
        _log.warning("reading %d images from %s%s", len(listing.files), printable(listing.root), destination)
        decoded = decode_set(listing, settings, workers=worker_count(settings))
        if (reason := _write_cache(path, *decoded)) is not None:
            _log.warning("%s; the images cannot be cached, and the next run reads them again", reason)
    tensors, notes = decoded
    _warn(*notes)
    return tensors


def _warn(*texts: str) -> None:
    if not is_later_rank():
        for text in texts:
            _log.warning("%s", text)


def worker_count(settings: DataSettings) -> int:
    """Returns `data.num_workers`; half the cores if it is unset."""
    return max(1, available_cores() // 2) if settings.num_workers is None else settings.num_workers


def _read_cache(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Reads the tensors and the JSON file with their digest and the notes; raises ValueError if the digest differs."""
    record = json.loads(path.with_suffix(".json").read_text("utf-8"))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != record["sha256"]:
        raise ValueError(f"found the SHA-256 {digest[:12]}…, expected {record['sha256'][:12]}…")
    return safetensors.torch.load_file(path), record["notes"]


def _write_cache(path: Path | None, tensors: dict[str, Tensor], notes: list[str]) -> str | None:
    """Writes the JSON file, then the tensors; returns the reason if one cannot be written."""
    content = safetensors.torch.save(tensors)
    record = json.dumps({"sha256": hashlib.sha256(content).hexdigest(), "notes": notes})
    return write_cached(path and path.with_suffix(".json"), record.encode()) or write_cached(path, content)
