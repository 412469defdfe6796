"""`ganctl sample`: what was ordered, drawn from a source or a server, and saved as a picture, an array or a folder.

Seeds mean here what they mean to the service: with the same model, seed and order both draw the same images.
"""

import csv
import os
import secrets
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from training.errors import DataError, TrainingError
from training.inspection import Opened
from training.sources import Source

_GRID_COLUMNS = 10
_ENLARGEMENT = 2


class OrderError(TrainingError, ValueError):
    """An order that the source cannot fill; names the flag."""

    exit_code = 2


class Remote(Protocol):
    """A server's client, as far as drawing needs it."""

    def sample(
        self,
        *,
        digits: Sequence[int] | None = None,
        text: str | None = None,
        count: int | None = None,
        seed: int | None = None,
        truncation: float | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64], int]: ...


@dataclass(frozen=True)
class Drawn:
    """What came of an order."""

    images: NDArray[np.uint8]  # [N, H, W, C]
    labels: NDArray[np.int64] | None  # [N]
    seed: int
    columns: int  # of a picture


@dataclass(frozen=True)
class Order:
    """What to draw; see the flags of `ganctl sample`."""

    digits: tuple[str, ...] = ()
    text: str | None = None
    count: int | None = None
    per_class: int | None = None
    seed: int | None = None
    truncation: float = 1.0

    def local(
        self,
        source: Source,
        *,
        latents: Callable[[int, int, int], NDArray[np.float32]],
        draw_labels: Callable[[int, int, int], NDArray[np.int64]],
    ) -> Drawn:
        """Draws from a source; `latents` and `draw_labels` are the service's own.

        Raises:
            OrderError: a class that the source does not know, or any class of an unconditional one.
        """
        seed = secrets.randbelow(2**53) if self.seed is None else self.seed
        labels, repeat = self._labels(source)
        if labels is None:
            labels = draw_labels(seed, self.count or 1, len(source.class_names))
        z = latents(seed, len(labels) // repeat, source.z_dim) * np.float32(self.truncation)
        images = source.draw(torch.from_numpy(z.repeat(repeat, axis=0)), torch.from_numpy(labels))
        columns = repeat if repeat > 1 else _columns(len(labels))
        return Drawn(images.permute(0, 2, 3, 1).numpy(), labels if source.conditional else None, seed, columns)

    def remote(self, client: Remote) -> Drawn:
        """Draws from a server, in several requests where one would be too large (from seed, seed + 1, …).

        Raises:
            OrderError: an order that only a local source can fill.
        """
        digits = [int(digit) if digit.isascii() and digit.isdigit() else -1 for digit in self.digits]
        if -1 in digits:
            raise OrderError(f"--digit {self.digits[digits.index(-1)]}: expected the number of a class, such as 7")
        if self.per_class:
            digits = list(range(10)) * self.per_class
        seed = secrets.randbelow(2**53 - 2**20) if self.seed is None else self.seed
        total = len(digits) if self.per_class else self.count
        limit = 256 if self.text is None else max(1, 256 // len(self.text))
        parts = []
        for start in range(0, total or 1, limit):
            share = None if total is None else min(limit, total - start)
            turned = digits[start % len(digits) :] + digits[: start % len(digits)] if digits else None
            parts.append(
                client.sample(
                    digits=turned[:share] if turned and share else turned,
                    text=self.text,
                    count=share,
                    seed=seed + start // limit,
                    truncation=self.truncation,
                )
            )
        images, labels = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        if images.ndim == 3:
            images = images[..., None]
        columns = len(self.text) if self.text else _columns(len(images))
        return Drawn(images, None if (labels < 0).any() else labels, seed, columns)

    def _labels(self, source: Source) -> tuple[NDArray[np.int64] | None, int]:
        """The labels asked for, if any, and how many images share a latent."""
        names = source.class_names
        flag = "--digit" if self.digits else "--text" if self.text else "--per-class" if self.per_class else None
        if flag and not source.conditional:
            raise OrderError(f"{flag}: this generator is unconditional and draws what it likes; leave {flag} out")
        if self.per_class:
            return np.tile(np.arange(len(names)), self.per_class), 1
        wanted = self.digits or tuple(self.text or "")
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise OrderError(f"{flag} {unknown[0]!r}: expected one of {', '.join(names)}")
        if not wanted:
            return None, 1
        classes = [names.index(name) for name in wanted]
        if self.text:
            return np.array(classes * (self.count or 1)), len(classes)
        count = self.count or len(classes)
        return np.resize(np.array(classes), count), 1


def save(drawn: Drawn, out: Path) -> None:
    """Writes images to `out`: .png (one picture), .npz (`images` uint8, `labels` int64), or a folder of PNG files with
    `labels.csv`. Whatever fails, nothing half-written stays under that name.

    Raises:
        OrderError: a suffix that is none of these.
    """
    if out.suffix not in (".png", ".npz", ""):
        raise OrderError(f"--out {out}: expected a name ending in .png or .npz, or a folder's name without a suffix")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}{out.suffix}")
    try:
        if out.suffix == ".png":
            _picture(_tiled(drawn)).save(temporary)
        elif out.suffix == ".npz":
            np.savez_compressed(temporary, **_arrays(drawn))
        else:
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise OrderError(f"--out {out}: it is there already and is not an empty folder; name another one")
            _save_folder(drawn, temporary)
            if out.exists():
                out.rmdir()
        temporary.replace(out)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def open_images(path: Path) -> Opened:
    """The images and labels of a .npz that `save` wrote.

    Raises:
        DataError: the file is absent, damaged or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: {error}; expected `images` and `labels` as 'ganctl sample --out FILE.npz' writes them"
        ) from error
    if images.dtype != np.uint8 or images.ndim != 3 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{path}: images {images.dtype} {images.shape}, labels {labels.shape}; expected uint8 [N, H, W] and [N]"
        )
    facts = {"images_in_file": len(images)}
    return Opened("mnist", images=torch.from_numpy(images)[:, None], labels=torch.from_numpy(labels), facts=facts)


def _arrays(drawn: Drawn) -> dict[str, Any]:
    images = drawn.images[..., 0] if drawn.images.shape[-1] == 1 else drawn.images
    return {"images": images} | ({} if drawn.labels is None else {"labels": drawn.labels})


def _save_folder(drawn: Drawn, folder: Path) -> None:
    folder.mkdir()
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label"])
        for i, image in enumerate(drawn.images):
            label = "" if drawn.labels is None else str(drawn.labels[i])
            name = f"{i:06d}{'-' if label else ''}{label}.png"
            _picture(image).save(folder / name)
            table.writerow([name, label])


def _columns(n: int) -> int:
    return min(n, _GRID_COLUMNS)


def _tiled(drawn: Drawn) -> NDArray[np.uint8]:
    """The images as rows of `columns`, the rest of the last row black, each pixel enlarged."""
    n, height, width, channels = drawn.images.shape
    rows = -(-n // drawn.columns)
    padded = np.zeros((rows * drawn.columns, height, width, channels), np.uint8)
    padded[:n] = drawn.images
    grid = padded.reshape(rows, drawn.columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    picture = grid.reshape(rows * height, drawn.columns * width, channels)
    return picture.repeat(_ENLARGEMENT, axis=0).repeat(_ENLARGEMENT, axis=1)


def _picture(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
