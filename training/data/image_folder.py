"""One's own images: class folders of image files, turned once into tensors that are kept in the user's cache.

    root/cats/1.png  root/dogs/x/2.jpg …        split by a fixed shuffle of each class, 8 : 1 : 1
    root/train/cats/…  root/test/cats/…         or as they are; without val/, a tenth of train/ is taken for it

An image is turned as its EXIF note says, put on black where it is transparent (the background of a GAN's digits),
cropped to its central square and resized with Pillow's antialiased bicubic filter (`decode.py`, `decode_set.py`). The
cache knows the folder by its place and every file's name, size and time of change: a folder that changed is read anew.
Which folders are the classes is decided in `class_folders.py`.
"""

import hashlib
import json
import logging
import os
from functools import lru_cache
from pathlib import Path

import safetensors.torch
from torch import Tensor

from ganctl.processes import is_later_rank
from ganctl.training.config.cache_dir import cache_dir, read_cached, write_cached
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet, Split
from ganctl.training.data.class_folders import SPLITS, Listing, list_folder
from ganctl.training.data.decode_set import DecodedSet, decode_set
from ganctl.training.data.folder_tree import lines, shown

_log = logging.getLogger(__name__)


def load_folder(settings: DataSettings, split: Split) -> ImageSet:
    """One split of the images below `data.root`, from the cache where they have been read before.

    Raises:
        ConfigError: no `data.root` is given.
        DataError: it is no folder of class folders; or files cannot be read (all of them are named), unless
            `data.skip_corrupt` leaves them out.
    """
    listing = list_folder(settings)
    tensors = _load(settings, listing)
    chosen = tensors["split"] == SPLITS.index(split)
    return ImageSet(tensors["images"][chosen], tensors["labels"][chosen], listing.class_names)


@lru_cache(maxsize=1)
def _load(settings: DataSettings, listing: Listing) -> dict[str, Tensor]:
    _warn(*listing.notes)
    cache = cache_dir()
    path = cache / "datasets" / f"{listing.digest}.safetensors" if cache else None
    if (kept := read_cached(path, _read_cache)) is not None:
        _tell(kept)
        return kept.tensors
    place, images = shown(listing.root), len(listing.files)
    _log.warning("reading %d images from %s%s", images, place, f", once; they will be kept in {path}" if path else "")
    decoded = decode_set(listing, settings, workers=worker_count(settings))
    _tell(decoded)
    if (reason := _write_cache(path, decoded)) is not None:
        _log.warning("%s; the images cannot be kept, and the next run reads them again", reason)
    return decoded.tensors


def _tell(decoded: DecodedSet) -> None:
    _warn(*decoded.notes)
    if decoded.bad:
        _warn(f"data.skip_corrupt leaves out what cannot be read as images ({decoded.bad}):{lines(decoded.left_out)}")


def _warn(*texts: str) -> None:
    if not is_later_rank():
        for text in texts:
            _log.warning("%s", text)


def worker_count(settings: DataSettings) -> int:
    """`data.num_workers`; half the cores where it is unset."""
    if settings.num_workers is not None:
        return settings.num_workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // 2)


def _read_cache(path: Path) -> DecodedSet:
    known = json.loads(path.with_suffix(".json").read_text("utf-8"))
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != known["sha256"]:
        raise ValueError(f"its SHA-256 is {found[:12]}…, expected {known['sha256'][:12]}…")
    return DecodedSet(safetensors.torch.load_file(path), int(known["bad"]), known["left_out"], known["notes"])


def _write_cache(path: Path | None, decoded: DecodedSet) -> str | None:
    """Keeps the tensors, after their digest; returns the reason where they cannot be kept."""
    content = safetensors.torch.save(decoded.tensors)
    sha256 = hashlib.sha256(content).hexdigest()
    known = json.dumps({"sha256": sha256, "bad": decoded.bad, "left_out": decoded.left_out, "notes": decoded.notes})
    return write_cached(path and path.with_suffix(".json"), known.encode()) or write_cached(path, content)
