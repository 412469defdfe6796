"""One's own images: class folders of image files, turned once into tensors that are kept in the user's cache.

    root/cats/1.png  root/dogs/x/2.jpg …        split by a fixed shuffle of each class, 8 : 1 : 1
    root/train/cats/…  root/test/cats/…         or as they are; without val/, a tenth of train/ is taken for it

An image is turned as its EXIF note says, put on black where it is transparent (the background of a GAN's digits),
cropped to its central square and resized with Pillow's antialiased bicubic filter. The cache knows the folder by every
file's name, size and time of change: a folder that changed is read anew.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.config import DataSettings
from training.data import ImageSet, Split
from training.errors import ConfigError, DataError

_VERSION = 1  # of what is made of an image; another one makes the cache anew
_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_IGNORED = {"thumbs.db", "desktop.ini"}  # and whatever begins with a dot
_SHOWN = 20  # bad files that a message names
_FEWEST = 3  # images of a class: one for each split
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _File:
    path: Path
    name: str  # below the root, with slashes
    label: int
    split: Split


def load_folder(settings: DataSettings, split: Split) -> ImageSet:
    """One split of the images below `data.root`, from the cache where they have been read before.

    Raises:
        ConfigError: no `data.root` is given.
        DataError: it is no folder of class folders; or files cannot be read (all of them are named), unless
            `data.skip_bad` leaves them out.
    """
    tensors, class_names = _load(settings, folder_digest(settings))
    chosen = tensors["split"] == _SPLITS.index(split)
    return ImageSet(tensors["images"][chosen], tensors["labels"][chosen], class_names)


def folder_digest(settings: DataSettings) -> str:
    """What the tensors depend on: every file's name, size and time of change, and the settings. 32 letters."""
    files, class_names = _list(settings)
    digest = hashlib.sha256(
        json.dumps([_VERSION, settings.size, settings.channels, settings.skip_bad, class_names]).encode()
    )
    for file in files:
        facts = file.path.stat()
        digest.update(f"{file.split}/{file.name}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


@lru_cache(maxsize=1)
def _load(settings: DataSettings, digest: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ganctl" / "datasets"
    path, facts = folder / f"{digest}.safetensors", folder / f"{digest}.json"
    if facts.exists():
        try:
            return _read_cache(path, facts)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            _log.warning("%s is damaged (%s): reading the images anew", path, error)
    files, class_names = _list(settings)
    _log.warning("reading %d images from %s, once; they will be kept in %s", len(files), settings.root, path)
    tensors = _decode(files, settings)
    _write_cache(path, facts, tensors, class_names)
    return tensors, class_names


def _list(settings: DataSettings) -> tuple[list[_File], tuple[str, ...]]:
    """All files with their labels and splits, and the classes' names; nothing is opened."""
    root = settings.root
    if root is None:
        raise ConfigError(["data.root: data.name = 'folder' needs it, a folder of class folders of images."])
    if not root.is_dir():
        raise DataError(f"data.root: {root} is no folder; expected one folder of images for each class in it")
    tops = {folder.name for folder in _folders(root)}
    if "train" in tops and tops & {"test", "val"}:
        parts: dict[str, Path] = {split: root / split for split in _SPLITS if split in tops}
    else:
        parts = {"all": root}
    names = {part: [folder.name for folder in _folders(folder)] for part, folder in parts.items()}
    class_names = next(iter(names.values()))
    if not class_names:
        raise DataError(f"data.root: {next(iter(parts.values()))} has no class folders; expected one for each class")
    for part, found in names.items():
        if found != class_names:
            differing = ", ".join(sorted(set(found) ^ set(class_names)))
            raise DataError(f"data.root: the classes of {parts[part]} are not those of the other splits: {differing}")
    files = [
        file
        for part, folder in parts.items()
        for label, name in enumerate(class_names)
        for file in _assign(part, root, folder / name, label, bool(tops & {"val"}), bool(tops & {"test"}))
    ]
    return files, tuple(class_names)


def _assign(part: str, root: Path, folder: Path, label: int, has_val: bool, has_test: bool) -> Iterator[_File]:
    """The files of one class folder, each with its split."""
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path.name.lower() not in _IGNORED
    ]
    if len(paths) < (_FEWEST if part in ("all", "train") else 1):
        raise DataError(f"data.root: {folder} has {len(paths)} images, expected {_FEWEST} or more of each class")
    names = {path: path.relative_to(root).as_posix() for path in paths}
    if part in ("val", "test"):
        yield from (_File(path, name, label, _SPLITS[_SPLITS.index(part)]) for path, name in names.items())
        return
    # a shuffle that depends on the names alone; where a split has a folder of its own, nothing is taken for it
    order = sorted(paths, key=lambda path: hashlib.sha256(names[path].encode()).digest())
    tenth = max(1, len(order) // 10)
    val = 0 if part == "train" and has_val else tenth
    test = 0 if part == "train" and has_test else tenth
    for i, path in enumerate(order):
        split: Split = "val" if i < val else "test" if i < val + test else "train"
        yield _File(path, names[path], label, split)


def _folders(root: Path) -> list[Path]:
    """Sub-folders, by number where all names are numbers, else by name."""
    folders = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    numbered = all(folder.name.isdigit() for folder in folders)
    return sorted(folders, key=lambda folder: (int(folder.name) if numbered else 0, folder.name))


class _Decoder(Dataset[tuple[int, Tensor | None, str]]):
    """Image i as uint8 [3, S, S], or the reason why there is none."""

    def __init__(self, files: list[_File], settings: DataSettings) -> None:
        self._files, self._settings = files, settings

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> tuple[int, Tensor | None, str]:
        try:
            pixels = decode(self._files[i].path, self._settings.size, grey=self._settings.channels == 1)
        except Exception as error:  # Pillow's decoders raise nearly everything; the file is reported, not passed over
            return i, None, f"{type(error).__name__}: {error}".replace(str(self._files[i].path), "the file")
        return i, torch.from_numpy(pixels), ""


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


def _decode(files: list[_File], settings: DataSettings) -> dict[str, Tensor]:
    loader = DataLoader(
        _Decoder(files, settings),
        batch_size=64,
        num_workers=worker_count(settings),
        collate_fn=lambda batch: batch,
        generator=torch.Generator(),  # or it would use up the random numbers of whoever asks
    )
    images = torch.zeros(len(files), 3, settings.size, settings.size, dtype=torch.uint8)
    bad: dict[int, str] = {}
    for i, pixels, reason in (item for batch in loader for item in batch):
        if pixels is None:
            bad[i] = reason
        else:
            images[i] = pixels
    if bad:
        _tell_bad([f"{files[i].path}: {reason}" for i, reason in sorted(bad.items())], settings)
    good = [i for i in range(len(files)) if i not in bad]
    images = images[good]
    grey = bool((images == images[:, :1]).all())
    if settings.channels == 1 or (settings.channels == "auto" and grey):
        images = images[:, :1].contiguous()
    labels = torch.tensor([files[i].label for i in good])
    splits = torch.tensor([_SPLITS.index(files[i].split) for i in good], dtype=torch.uint8)
    for split in range(len(_SPLITS)):
        absent = set(range(max(file.label for file in files) + 1)) - set(labels[splits == split].tolist())
        if absent:
            raise DataError(
                f"data.root: class {min(absent)} has no sound image left among the {_SPLITS[split]} images; add some"
            )
    return {"images": images, "labels": labels, "split": splits}


def _tell_bad(lines: Iterable[str], settings: DataSettings) -> None:
    lines = list(lines)
    shown = "".join(f"\n  - {line}" for line in lines[:_SHOWN])
    shown += f"\n  - and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    if not settings.skip_bad:
        raise DataError(
            f"data.root: files that cannot be read as images ({len(lines)}); remove them, or leave them out with"
            f" data.skip_bad=true:{shown}"
        )
    _log.warning("data.skip_bad leaves out what cannot be read as images (%d):%s", len(lines), shown)


def worker_count(settings: DataSettings) -> int:
    """`data.num_workers`; half the cores where it is unset."""
    if settings.num_workers is not None:
        return settings.num_workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // 2)


def _read_cache(path: Path, facts: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    known = json.loads(facts.read_text("utf-8"))
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != known["sha256"]:
        raise ValueError(f"its SHA-256 is {found[:12]}…, expected {known['sha256'][:12]}…")
    return safetensors.torch.load_file(path), tuple(known["class_names"])


def _write_cache(path: Path, facts: Path, tensors: dict[str, Tensor], class_names: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = safetensors.torch.save(tensors)
    known = {"sha256": hashlib.sha256(content).hexdigest(), "class_names": class_names}
    for target, data in ((path, content), (facts, json.dumps(known).encode())):  # the facts last: they vouch for it
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
