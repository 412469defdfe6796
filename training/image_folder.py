"""One's own images: class folders of image files, turned once into tensors that are kept in the user's cache.

    root/cats/1.png  root/dogs/x/2.jpg …        split by a fixed shuffle of each class, 8 : 1 : 1
    root/train/cats/…  root/test/cats/…         or as they are; without val/, a tenth of train/ is taken for it

An image is turned as its EXIF note says, put on black where it is transparent (the background of a GAN's digits),
cropped to its central square and resized with Pillow's antialiased bicubic filter. The cache knows the folder by its
place and every file's name, size and time of change: a folder that changed is read anew. Links are followed.
"""

import hashlib
import json
import logging
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.cache_dir import cache_dir, read_cached, write_cached
from training.class_folders import SPLITS, File, Listing, lines, list_folder, shown, told
from training.config import DataSettings
from training.data import ImageSet, Split
from training.errors import DataError

_FEWEST = 2  # images of a split, all classes together, as `load_split` wants it
_log = logging.getLogger(__name__)


def load_folder(settings: DataSettings, split: Split) -> ImageSet:
    """One split of the images below `data.root`, from the cache where they have been read before.

    Raises:
        ConfigError: no `data.root` is given.
        DataError: it is no folder of class folders; or files cannot be read (all of them are named), unless
            `data.skip_bad` leaves them out.
    """
    listing = list_folder(settings)
    tensors = _load(settings, listing)
    chosen = tensors["split"] == SPLITS.index(split)
    return ImageSet(tensors["images"][chosen], tensors["labels"][chosen], listing.class_names)


@lru_cache(maxsize=1)
def _load(settings: DataSettings, listing: Listing) -> dict[str, Tensor]:
    for folder, images in listing.loose.items():
        _log.warning("%s: %d images lie beside the class folders and are left out", shown(folder), images)
    cache = cache_dir()
    path = cache / "datasets" / f"{listing.digest}.safetensors" if cache else None
    if (kept := read_cached(path, _read_cache)) is not None:
        tensors, left_out = kept
        _tell_left_out(left_out)
        return tensors
    place, images = shown(listing.root), len(listing.files)
    _log.warning("reading %d images from %s%s", images, place, f", once; they will be kept in {path}" if path else "")
    tensors, left_out = _decode(listing, settings)
    _tell_left_out(left_out)
    if (reason := _write_cache(path, tensors, left_out)) is not None:
        _log.warning("%s; the images cannot be kept, and the next run reads them again", reason)
    return tensors


class _Decoder(Dataset[tuple[int, np.ndarray | None, str]]):
    """Image i as uint8 [3, S, S], or the reason why there is none.

    No tensors: each that comes from a worker keeps a file descriptor open.
    """

    def __init__(self, files: tuple[File, ...], settings: DataSettings) -> None:
        self._files, self._settings = files, settings

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> tuple[int, np.ndarray | None, str]:
        try:
            pixels = decode(self._files[i].path, self._settings.size, grey=self._settings.channels == 1)
        except Exception as error:  # Pillow's decoders raise nearly everything; the file is reported, not passed over
            return i, None, f"{type(error).__name__}: {error}".replace(str(self._files[i].path), "the file")
        return i, pixels, ""


def decode(path: Path, size: int, *, grey: bool) -> np.ndarray:
    """An image file as uint8 [3, size, size] (three equal channels with `grey`).

    Raises:
        OSError, ValueError, …: whatever Pillow finds wrong with it.
    """
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith(("I", "F")):  # 16 bits and more: Pillow's own conversion clips instead of scaling
            values = np.asarray(image, np.float64)
            top = 65535 if image.mode.startswith("I") else max(1.0, float(values.max()))
            image = Image.fromarray((values / top * 255).round().clip(0, 255).astype(np.uint8))
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(canvas, image).convert("L" if grey else "RGB").convert("RGB")
    side = min(image.size)
    left, top_edge = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top_edge, left + side, top_edge + side))
    return np.ascontiguousarray(np.asarray(square.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1))


def _decode(listing: Listing, settings: DataSettings) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors, and what was left out of them."""
    files = listing.files
    loader = DataLoader(
        _Decoder(files, settings),
        batch_size=64,
        num_workers=worker_count(settings),
        collate_fn=list,
        generator=torch.Generator(),  # or it would use up the random numbers of whoever asks
    )
    images = torch.zeros(len(files), 3, settings.size, settings.size, dtype=torch.uint8)
    bad = dict(listing.bad)
    for i, pixels, reason in (item for batch in loader for item in batch):
        if pixels is None:
            bad[files[i].path] = reason
        else:
            images[i] = torch.from_numpy(pixels)
    left_out = told(bad)
    if left_out and not settings.skip_bad:
        raise DataError(
            f"data.root: files that cannot be read as images ({len(left_out)}); remove them, or leave them out with"
            f" data.skip_bad=true:{lines(left_out)}"
        )
    good = [i for i, file in enumerate(files) if file.path not in bad]
    images = images[good]
    grey = bool((images == images[:, :1]).all())
    if settings.channels == 1 or (settings.channels == "auto" and grey):
        images = images[:, :1].contiguous()
    labels = torch.tensor([files[i].label for i in good])
    splits = torch.tensor([SPLITS.index(files[i].split) for i in good], dtype=torch.uint8)
    for number, split in enumerate(SPLITS):
        present = labels[splits == number].tolist()
        if absent := set(range(len(listing.class_names))) - set(present):
            raise DataError(
                f"data.root: class {min(absent)} has no sound image left among the {split} images; add some"
                + lines(left_out)
            )
        if len(present) < _FEWEST:
            raise DataError(
                f"data.root: {shown(listing.root)} has {len(present)} {split} image in all, expected"
                f" {_FEWEST} or more; add images{lines(left_out)}"
            )
    return {"images": images, "labels": labels, "split": splits}, left_out


def _tell_left_out(left_out: list[str]) -> None:
    if left_out:
        _log.warning("data.skip_bad leaves out what cannot be read as images (%d):%s", len(left_out), lines(left_out))


def worker_count(settings: DataSettings) -> int:
    """`data.num_workers`; half the cores where it is unset."""
    if settings.num_workers is not None:
        return settings.num_workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // 2)


def _read_cache(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    known = json.loads(path.with_suffix(".json").read_text("utf-8"))
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != known["sha256"]:
        raise ValueError(f"its SHA-256 is {found[:12]}…, expected {known['sha256'][:12]}…")
    return safetensors.torch.load_file(path), list(known["left_out"])


def _write_cache(path: Path | None, tensors: dict[str, Tensor], left_out: list[str]) -> str | None:
    """Keeps the tensors, after their digest; returns the reason where they cannot be kept."""
    content = safetensors.torch.save(tensors)
    known = json.dumps({"sha256": hashlib.sha256(content).hexdigest(), "left_out": left_out})
    return write_cached(path and path.with_suffix(".json"), known.encode()) or write_cached(path, content)
