"""Prepares a data source for training: decodes all images, chooses size and channels, and assigns splits.

The images are ordered by split, class and content. So the same images give the same tensors, whatever the format, names
and order of their files. Splits are assigned by content as well: equal images are always in one split.
"""

import hashlib
import mmap
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ganctl.training.config.schema import MAX_SIZE, MIN_SIZE, SIZE_STEP, DataSettings
from ganctl.training.data.decode import (
    HighDepthImage,
    ImageError,
    ValueRange,
    from_pixels,
    is_transparent,
    read_image,
    to_square,
    white_level,
)
from ganctl.training.data.decoding_progress import show_progress
from ganctl.training.data.splits import assign_splits, check_splits
from ganctl.training.errors import DataError
from ganctl.training.readers.base import Images, Source
from ganctl.training.readers.tree import SPLITS, bullet_list, format_counts, printable

_MIN_TRANSPARENT = 0.05  # share of transparent images from which the generator draws alpha
_ROUNDS_TO_BLACK = 2 * 255  # a negative value above -white / 510 rounds to 0 in 8 bits
_CHUNK = 4096  # images copied at a time


@dataclass(frozen=True)
class Prepared:
    """All images of a data set, ordered by split, class and content."""

    pixels: NDArray[np.uint8]  # [M, 4, S, S], in the order of the source; colors are premultiplied with alpha
    order: NDArray[np.int64]  # [N], indices into pixels
    channels: int
    labels: NDArray[np.int64]  # [N]
    split_sizes: tuple[int, ...]  # images of each of SPLITS
    class_names: tuple[str, ...]  # empty without labels
    format: str
    notes: tuple[str, ...]  # log lines

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape [N, C, S, S] of the images."""
        return (len(self.order), self.channels, *self.pixels.shape[2:])

    def chunks(self) -> Iterator[NDArray[np.uint8]]:
        """Yields the images in their order, uint8 [n, C, S, S]: a large data set is never copied as a whole."""
        for start in range(0, len(self.order), _CHUNK):
            yield np.ascontiguousarray(self.pixels[self.order[start : start + _CHUNK], : self.channels])


@dataclass
class Decoded:
    """Facts about each of N images; their pixels are in `pixels`."""

    pixels: NDArray[np.uint8]  # [N, 4, S, S]
    sides: NDArray[np.int32]  # [N, 2]: width and height of the original
    modes: Counter[str]  # how many images have each of Pillow's modes, or type of deep pixels
    transparent: NDArray[np.bool_]  # [N]
    channels: NDArray[np.int8]  # [N], what each image needs: 4 if a part is transparent, else 3 if colored, else 1
    digests: NDArray[np.uint64]  # [N, 2], of the pixels in these channels
    good: NDArray[np.bool_]  # [N]
    bad: dict[str, str] = field(default_factory=dict)  # name → error
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Facts:
    """Result for one image, whose pixels are stored already; or the value range of a deep image; or an error."""

    index: int
    sides: tuple[int, int] = (0, 0)
    mode: str = ""
    transparent: bool = False
    channels: int = 0
    digest: bytes = b""
    value_range: ValueRange | None = None
    error: str = ""
    metadata_error: str = ""


def prepare(source: Source, settings: DataSettings, *, workers: int, scratch: Path | None = None) -> Prepared:
    """Reads all images of a source.

    Args:
        source: the data set.
        settings: size, channels, fit and skip_corrupt.
        workers: worker processes; 0 decodes in this one.
        scratch: folder for a temporary file; None, or a full disk: memory.

    Raises:
        DataError: images cannot be read (all are named) and `data.skip_corrupt` is off, or too few are left.
    """
    decoded = decode_all(source, settings, workers=workers, scratch=scratch)
    skipped = bullet_list(_bad_lines(source, decoded.bad))
    if count := len(decoded.bad) + len(source.companions):
        if not settings.skip_corrupt:
            raise DataError(
                f"data.source: found files that cannot be read as images ({count}). Remove them, or skip them with"
                f" data.skip_corrupt=true:{skipped}"
            )
        decoded.notes.append(f"data.skip_corrupt skips files that cannot be read as images ({count}):{skipped}")
    kept = np.flatnonzero(decoded.good)
    channels, reason = choose_channels(decoded, kept, settings)
    if reason:
        decoded.notes.append(reason)
    splits, reason = assign_splits(source, kept, decoded.digests[kept])
    decoded.notes += [reason] if reason else []
    labels = source.labels[kept]
    check_splits(source, settings, labels, splits, skipped)
    low, high = decoded.digests[kept].T
    order = np.lexsort((low, high, labels, splits))
    sizes = tuple(int((splits == number).sum()) for number in range(len(SPLITS)))
    notes = (*source.notes, *decoded.notes)
    return Prepared(
        decoded.pixels, kept[order], channels, labels[order], sizes, source.class_names, source.format, notes
    )


def decode_all(source: Source, settings: DataSettings, *, workers: int, scratch: Path | None) -> Decoded:
    """Decodes all images to one size.

    Most data sets have images of one size. So all are decoded to the size of the first one, and once more if another
    size turns out to be the right one. Deep images are decoded last, when the white level of all of them is known.
    """
    count = len(source)
    size = settings.size if settings.size != "auto" else _allowed_size(_first_side(source, settings))
    result = Decoded(
        pixels=_allocate((count, 4, size, size), scratch),
        sides=np.zeros((count, 2), np.int32),
        modes=Counter(),
        transparent=np.zeros(count, np.bool_),
        channels=np.zeros(count, np.int8),
        digests=np.zeros((count, 2), np.uint64),
        good=np.zeros(count, np.bool_),
        bad=dict(source.bad),
    )
    ranges, metadata_errors = dict[int, ValueRange](), dict[str, str]()

    def store(facts: Iterable[_Facts]) -> None:
        for item in facts:
            if item.metadata_error:
                metadata_errors[source.names[item.index]] = item.metadata_error
            if item.error:
                result.bad[source.names[item.index]] = item.error
                continue
            result.sides[item.index] = item.sides
            if item.value_range is not None:
                ranges[item.index] = item.value_range
                result.modes[item.value_range.number_type] += 1
                continue
            if item.mode:
                result.modes[item.mode] += 1
            result.transparent[item.index] = item.transparent
            result.channels[item.index] = item.channels
            result.digests[item.index] = np.frombuffer(item.digest, np.uint64)
            result.good[item.index] = True

    store(_run(_Decoder(source.images, result.pixels, settings.fit), range(count), workers))
    sides = result.sides[result.sides[:, 0] > 0]
    if settings.size == "auto" and len(sides):
        size, reason = choose_size(sides, settings)
        result.notes += [reason] if reason else []
        if size != result.pixels.shape[-1]:
            result.pixels = _allocate((count, 4, size, size), scratch)
            again = np.flatnonzero(result.good).tolist()
            store(_run(_Decoder(source.images, result.pixels, settings.fit, again=True), again, workers))
    for index in _negative(ranges):
        item = ranges.pop(index)
        result.bad[source.names[index]] = (
            f"found values from {item.low:g} to {item.high:g}, expected 0 or above. Add a constant to all values of the"
            " data set, or set negative ones to 0"
        )
    highest, counts = _highest(ranges.values()), Counter(item.number_type for item in ranges.values())
    whites = {number_type: white_level(high) for number_type, high in highest.items()}
    result.notes += [
        f"data.source: {counts[name]} images hold {name} up to {highest[name]:.6g}; {white:.6g} becomes white in all"
        for name, white in whites.items()
    ]
    store(_run(_Decoder(source.images, result.pixels, settings.fit, whites), list(ranges), workers))
    if metadata_errors:
        name, error = next(iter(metadata_errors.items()))
        result.notes.append(
            "data.source: image metadata (EXIF, texts, color profiles) that cannot be read is ignored"
            f" ({len(metadata_errors)} files), for example in {name}: {printable(error)}"
        )
    return result


def choose_size(sides: NDArray[np.int32], settings: DataSettings) -> tuple[int, str]:
    """Chooses the size for images of different sizes: their own if they agree, else the allowed one below their median.

    Args:
        sides: width and height of each image, [N, 2].
        settings: `fit` tells whether the shorter or the longer side counts.

    Returns:
        The size, and the reason if it is not the size of all images; else an empty string.
    """
    own = sides.min(axis=1) if settings.fit == "crop" else sides.max(axis=1)
    median = int(np.median(own))
    size = _allowed_size(median)
    if bool((sides == size).all()):
        return size, ""
    side = "shorter" if settings.fit == "crop" else "longer"
    found = f"a {side} side of {own.min()}" + ("" if own.min() == own.max() else f" to {own.max()}, median {median}")
    return size, (
        f"data.size = auto: the images have {found} pixels; all become {size} × {size} (data.fit = {settings.fit};"
        f" sizes are multiples of {SIZE_STEP} from {MIN_SIZE} to {MAX_SIZE})"
    )


def choose_channels(decoded: Decoded, kept: NDArray[np.int64], settings: DataSettings) -> tuple[int, str]:
    """Chooses the number of channels: 4 if images are transparent, else 3 if they have colors, else 1.

    Then `decoded.digests` are those of these channels alone: without alpha, images that differ in it alone are equal.

    Returns:
        The number, and a log line if transparent images lose their transparency; else an empty string.
    """
    channels, reason = _choose_channels(decoded, kept, settings)
    for i in kept[decoded.channels[kept] != channels]:
        decoded.digests[i] = np.frombuffer(_digest(decoded.pixels[i, :channels]), np.uint64)
    return channels, reason


def _choose_channels(decoded: Decoded, kept: NDArray[np.int64], settings: DataSettings) -> tuple[int, str]:
    transparent = int(decoded.transparent[kept].sum())
    channels = settings.channels
    if channels == "auto" and transparent and transparent >= _MIN_TRANSPARENT * len(kept):
        return 4, ""
    if channels == "auto":
        colors = decoded.channels[kept] == 3
        transparent_pixels = decoded.pixels[kept[decoded.channels[kept] == 4], :3]
        channels = 3 if colors.any() or (transparent_pixels != transparent_pixels[:, :1]).any() else 1
    elif channels == 1:
        for start in range(0, len(kept), _CHUNK):  # luma of ITU-R 601-2, as Pillow's conversion
            chosen = kept[start : start + _CHUNK]
            red, green, blue = decoded.pixels[chosen, :3].astype(np.uint32).transpose(1, 0, 2, 3)
            decoded.pixels[chosen, 0] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    if transparent and channels != 4:
        return channels, f"data.channels = {channels}: {transparent} transparent images are put on black"
    return channels, ""


@dataclass(frozen=True)
class _Decoder(Dataset[_Facts]):
    """Decodes image i into pixels[i]; without `whites` a deep image gives only its value range."""

    images: Images
    pixels: NDArray[np.uint8]
    fit: Literal["crop", "pad"]
    whites: Mapping[str, float] | None = None
    again: bool = False  # the modes are counted already

    def __getitem__(self, i: int) -> _Facts:
        try:
            content = self.images.read(i)
            image, metadata_error = read_image(content) if isinstance(content, bytes) else (from_pixels(content), "")
            if isinstance(image, HighDepthImage):
                height, width = image.values.shape[:2]
                if self.whites is None:
                    return _Facts(i, (width, height), value_range=image.value_range(), metadata_error=metadata_error)
                image = image.to_eight_bits(self.whites[image.number_type])
            square = to_square(image, self.pixels.shape[-1], self.fit)
            self.pixels[i] = square
            mode = "" if self.whites is not None or self.again else image.mode
            channels = _needed_channels(square)
            digest = _digest(square[:channels])
            return _Facts(i, image.size, mode, is_transparent(image), channels, digest, metadata_error=metadata_error)
        except (ImageError, DataError) as error:  # DataError: of the archive
            return _Facts(i, error=str(error))
        except Exception as error:  # Pillow's decoders raise many types; the file is reported as bad
            return _Facts(i, error=f"{type(error).__name__}: {error}")


def _needed_channels(square: NDArray[np.uint8]) -> int:
    """Returns the number of channels that show an image [4, S, S] completely."""
    red, green, blue, alpha = square
    if alpha.min() < 255:
        return 4
    return 1 if np.array_equal(red, green) and np.array_equal(red, blue) else 3


def _digest(pixels: NDArray[np.uint8]) -> bytes:
    """Returns a digest of an image, 16 bytes."""
    return hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()


def _run(decoder: _Decoder, indices: Sequence[int], workers: int) -> Iterator[_Facts]:
    if not len(indices):
        return
    loader = DataLoader(
        decoder,
        batch_size=64,
        sampler=indices,
        num_workers=workers,
        collate_fn=list,
        generator=torch.Generator(),  # the default would consume random numbers of the caller
        multiprocessing_context="fork" if workers else None,  # the processes write into the same pixels
    )
    yield from show_progress(loader, total=len(indices))


def _first_side(source: Source, settings: DataSettings) -> int:
    """Returns the side of the first image that can be read; 0 if there is none."""
    for index in range(len(source)):
        try:
            content = source.images.read(index)
            image = read_image(content)[0] if isinstance(content, bytes) else from_pixels(content)
        except Exception:  # reported when all images are decoded
            continue
        height, width = (image.height, image.width) if isinstance(image, Image.Image) else image.values.shape[:2]
        sides: tuple[int, int] = (int(height), int(width))
        return min(sides) if settings.fit == "crop" else max(sides)
    return 0


def _allowed_size(side: int) -> int:
    return max(MIN_SIZE, min(MAX_SIZE, side // SIZE_STEP * SIZE_STEP))


def _allocate(shape: tuple[int, ...], folder: Path | None) -> NDArray[np.uint8]:
    """Returns memory that worker processes share: of a temporary file in `folder` if possible, else anonymous."""
    size = int(np.prod(shape))
    if folder is not None and size:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk must fail here, not at a write to the mapping
                return np.frombuffer(mmap.mmap(file.fileno(), size), np.uint8).reshape(shape)
        except OSError:
            pass  # there may be enough memory
    return np.frombuffer(mmap.mmap(-1, max(1, size)), np.uint8, count=size).reshape(shape)


def _highest(ranges: Iterable[ValueRange]) -> dict[str, float]:
    """Maps number type → highest value, 0 or above; sorted by number type."""
    highest: dict[str, float] = {}
    for item in ranges:
        highest[item.number_type] = max(highest.get(item.number_type, 0.0), item.high)
    return dict(sorted(highest.items()))


def _negative(ranges: Mapping[int, ValueRange]) -> list[int]:
    """Returns the images whose negative values do not round to black."""
    highest = _highest(ranges.values())
    return [i for i, item in ranges.items() if item.low < -highest[item.number_type] / _ROUNDS_TO_BLACK]


def _bad_lines(source: Source, bad: Mapping[str, str]) -> list[str]:
    """Formats a line for each bad file, and one line for all companions of images."""
    lines = [f"{name}: {bad[name]}" for name in sorted(bad)]
    if companions := source.companions:
        kinds = format_counts(Counter(Path(name).suffix.lower() for name in companions))
        lines.insert(0, f"{len(companions)} files with the name of an image, such as {companions[0]}: {kinds}")
    return lines
