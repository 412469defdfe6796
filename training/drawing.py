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
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from training.config import DataSettings
from training.errors import DataError, TrainingError
from training.inspection import Opened
from training.pictures import ENLARGEMENT, tile, to_picture
from training.sources import Source

_GRID_COLUMNS = 10
_LEAST = 10  # images that can be scored at all
_REPLY_LIMIT = 256  # images, as the service has it

Wanted = TypeVar("Wanted", int, str)  # a class by its number or by its name


class OrderError(TrainingError, ValueError):
    """An order that the source cannot fill; names the flag."""

    exit_code = 2


class Remote(Protocol):
    """A server's client, as far as drawing needs it."""

    def count_classes(self) -> int: ...
    def sample(
        self,
        *,
        digits: Sequence[int] | None = None,
        labels: Sequence[str] | None = None,
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
class Part:
    """What fits into one request: `draws` latents from `seed`; the wanted classes go on from the one at `turn`."""

    seed: int
    draws: int
    turn: int

    def classes(self, wanted: Sequence[Wanted]) -> list[Wanted] | None:
        """What this part asks for, in turn; None where nothing is wanted and the seed decides."""
        return [wanted[(self.turn + i) % len(wanted)] for i in range(min(self.draws, len(wanted)))] or None


@dataclass(frozen=True)
class Order:
    """What to draw; see the flags of `ganctl sample`.

    Beyond what the service gives in one reply the seed counts on, one for each further reply; a local source does the
    same, so that both draw the same images.
    """

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
        flag = "--digit" if self.digits else "--text" if self.text else "--per-class" if self.per_class else None
        if flag and not source.conditional:
            raise OrderError(f"{flag}: this generator is unconditional and draws what it likes; leave {flag} out")
        unknown = [name for name in self.digits or tuple(self.text or "") if name not in source.class_names]
        if unknown:
            raise OrderError(f"{flag} {unknown[0]!r}: expected one of {', '.join(source.class_names)}")
        wanted = list(range(len(source.class_names))) if self.per_class else []
        wanted = wanted or [source.class_names.index(name) for name in self.digits or tuple(self.text or "")]
        parts = self._parts(len(wanted))
        images, labels = [], []
        for part in parts:
            if self.text:
                label = np.tile(np.array(wanted), part.draws)
            elif classes := part.classes(wanted):
                label = np.resize(classes, part.draws)
            else:
                label = draw_labels(part.seed, part.draws, len(source.class_names))
            z = latents(part.seed, part.draws, source.z_dim) * np.float32(self.truncation)
            z = z.repeat(len(label) // part.draws, axis=0)
            images.append(source.draw(torch.from_numpy(z), torch.from_numpy(label)).permute(0, 2, 3, 1).numpy())
            labels.append(label)
        all_labels = np.concatenate(labels) if source.conditional else None
        return self._drawn(np.concatenate(images), all_labels, parts[0].seed)

    def remote(self, client: Remote) -> Drawn:
        """Draws from a server, which says itself what it cannot draw.

        Classes go by their names, as a local source takes them: a class called 2 need not be number 2.
        """
        numbers = range(client.count_classes()) if self.per_class else ()
        parts = self._parts(len(numbers or self.digits or self.text or ""))
        images, labels = [], []
        for part in parts:
            drawn, label, _ = client.sample(
                digits=part.classes(numbers),
                labels=part.classes(self.digits),
                text=self.text,
                count=part.draws,
                seed=part.seed,
                truncation=self.truncation,
            )
            images.append(drawn if drawn.ndim == 4 else drawn[..., None])
            labels.append(label)
        all_labels = np.concatenate(labels)
        return self._drawn(np.concatenate(images), None if (all_labels < 0).any() else all_labels, parts[0].seed)

    def _parts(self, wanted: int) -> list[Part]:
        """`wanted` is how many classes were named, or characters of `text`; 0: neither."""
        # the room left for counting on keeps every part's seed below 2^53
        seed = secrets.randbelow(2**52) if self.seed is None else self.seed
        listed = 0 if self.text else wanted
        total = self.per_class * wanted if self.per_class else self.count or listed or 1
        limit = max(1, _REPLY_LIMIT // max(1, wanted)) if self.text else _REPLY_LIMIT
        if seed + (total - 1) // limit >= 2**53:
            raise OrderError(f"--seed {seed}: for {total} images it counts on beyond 2^53 - 1; take a smaller one")
        return [
            Part(seed + i, min(limit, total - start), start % listed if listed else 0)
            for i, start in enumerate(range(0, total, limit))
        ]

    def _drawn(self, images: NDArray[np.uint8], labels: NDArray[np.int64] | None, seed: int) -> Drawn:
        columns = len(self.text) if self.text else min(len(images), _GRID_COLUMNS)
        return Drawn(images, labels, seed, columns)


def check_name(out: Path) -> None:
    """Raises OrderError where `save` could not write to `out`."""
    if out.suffix not in (".png", ".npz", ""):
        raise OrderError(f"--out {out}: expected a name ending in .png or .npz, or a folder's name without a suffix")
    if out.suffix and out.is_dir():
        raise OrderError(f"--out {out}: it is a folder, expected a file")
    if not out.suffix and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OrderError(f"--out {out}: it is there already and is not an empty folder; name another one")


def save(drawn: Drawn, out: Path) -> None:
    """Writes images to `out`: .png (one picture), .npz (`images` uint8, `labels` int64), or a folder of PNG files with
    `labels.csv`. Whatever fails, nothing half-written stays under that name.

    Raises:
        OrderError: a suffix that is none of these.
    """
    check_name(out)
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}{out.suffix}")
    try:
        if out.suffix == ".png":
            pixels = tile(drawn.images.transpose(0, 3, 1, 2), columns=drawn.columns)
            to_picture(pixels, ENLARGEMENT).save(temporary)
        elif out.suffix == ".npz":
            np.savez_compressed(temporary, **_arrays(drawn))
        else:
            _save_folder(drawn, temporary)
            if out.exists():
                out.rmdir()
        temporary.replace(out)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def open_images(path: Path) -> Opened:
    """The images and labels of a .npz that `save` wrote; it does not say what data set they are like: MNIST, if nobody
    says otherwise.

    Raises:
        DataError: the file is absent, damaged or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays.get("labels")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (KeyError, ValueError, EOFError, TypeError, AttributeError, IsADirectoryError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: {error}; expected `images` and `labels` as 'ganctl sample --out FILE.npz' writes them"
        ) from error
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or len(images) < _LEAST:
        found = f"images {images.dtype} {images.shape}"
        raise DataError(f"{path}: {found}, expected uint8 [N, H, W] or [N, H, W, C] with at least {_LEAST} images")
    if labels is not None and (labels.dtype != np.int64 or labels.shape != images.shape[:1]):
        raise DataError(f"{path}: labels {labels.dtype} {labels.shape}, expected int64 ({len(images)},)")
    facts = {"images_in_file": len(images)}
    known = None if labels is None else torch.from_numpy(labels)
    pixels = torch.from_numpy(images if images.ndim == 4 else images[..., None]).permute(0, 3, 1, 2)
    return Opened(DataSettings(), images=pixels, labels=known, facts=facts)


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
            to_picture(image).save(folder / name)
            table.writerow([name, label])
