"""Decoding of all image files of a listing into tensors, in worker processes.

Files of 8 bits per channel are read once. Deeper files are read twice: first their value ranges, which determine one
white level for each number type, then their pixels.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.class_folders import SPLITS, ListedFile, Listing
from ganctl.training.data.decode import (
    HighDepthImage,
    ImageFaultError,
    ValueRange,
    read_image,
    to_square,
    white_level,
)
from ganctl.training.data.folder_tree import bad_file_lines, bullet_list, format_counts, printable
from ganctl.training.errors import DataError

_MIN_SPLIT_IMAGES = 2  # over all classes, as `check_images` requires
_ROUNDS_TO_BLACK = 2 * 255  # a negative value above -white / 510 rounds to 0 in 8 bits


@dataclass(frozen=True)
class DecodedSet:
    """Images of all splits: "images" uint8 [N, C, S, S], "labels" int64 [N], "split" uint8 [N] (index in SPLITS)."""

    tensors: dict[str, Tensor]
    bad: int  # number of files that are no images
    left_out: list[str]  # lines that list them
    notes: list[str]  # log lines about white levels and ignored metadata


@dataclass(frozen=True)
class _Decoded:
    """Result for file `index`: pixels, the value range of a deep image, or a fault."""

    index: int
    pixels: np.ndarray | None = None  # uint8 [3, S, S]; a tensor from a worker would hold a file descriptor open
    value_range: ValueRange | None = None
    fault: str = ""
    metadata_fault: str = ""


def decode_set(listing: Listing, settings: DataSettings, *, workers: int) -> DecodedSet:
    """Reads all files of a listing.

    Raises:
        DataError: files cannot be read (all are named) and `data.skip_corrupt` is off, or too few are left.
    """
    files = listing.files
    images = torch.zeros(len(files), 3, settings.size, settings.size, dtype=torch.uint8)
    bad, ranges, metadata_faults = dict(listing.bad), dict[int, ValueRange](), dict[Path, str]()

    def store(decoded: Iterable[_Decoded]) -> None:
        for item in decoded:
            path = files[item.index].path
            if item.metadata_fault:
                metadata_faults[path] = item.metadata_fault
            if item.pixels is not None:
                images[item.index] = torch.from_numpy(item.pixels)
            elif item.value_range is not None:
                ranges[item.index] = item.value_range
            else:
                bad[path] = item.fault

    store(_run(_Decoder(files, settings), range(len(files)), workers))
    whites, negative = _white_levels(ranges)
    bad |= {files[i].path: fault for i, fault in negative.items()}
    store(_run(_Decoder(files, settings, whites), [i for i in ranges if i not in negative], workers))

    left_out, count = _lines_of_bad(listing, bad), len(bad) + len(listing.companions)
    if left_out and not settings.skip_corrupt:
        raise DataError(
            f"data.root: found files that cannot be read as images ({count}). Remove them, or skip them with"
            f" data.skip_corrupt=true:{bullet_list(left_out)}"
        )
    good = [i for i, file in enumerate(files) if file.path not in bad]
    images = images[good]
    gray = bool((images == images[:, :1]).all())
    if settings.channels == 1 or (settings.channels == "auto" and gray):
        images = images[:, :1].contiguous()
    labels = torch.tensor([files[i].label for i in good], dtype=torch.int64)
    splits = torch.tensor([SPLITS.index(files[i].split) for i in good], dtype=torch.uint8)
    _check_splits(listing, labels, splits, left_out)
    notes = [*_white_notes(ranges, whites), *_metadata_notes(metadata_faults)]
    return DecodedSet({"images": images, "labels": labels, "split": splits}, count, left_out, notes)


class _Decoder(Dataset[_Decoded]):
    """Decodes file i; without `whites` a deep image gives only its value range."""

    def __init__(
        self, files: Sequence[ListedFile], settings: DataSettings, whites: Mapping[str, float] | None = None
    ) -> None:
        self._files, self._whites = files, whites
        self._size, self._gray = settings.size, settings.channels == 1

    def __getitem__(self, i: int) -> _Decoded:
        path = self._files[i].path
        try:
            image, metadata_fault = read_image(path)
            if isinstance(image, HighDepthImage):
                if self._whites is None:
                    return _Decoded(i, value_range=image.value_range(), metadata_fault=metadata_fault)
                image = image.to_eight_bits(self._whites[image.number_type])
            return _Decoded(i, pixels=to_square(image, self._size, gray=self._gray), metadata_fault=metadata_fault)
        except ImageFaultError as error:
            return _Decoded(i, fault=str(error))
        except Exception as error:  # Pillow's decoders raise many types; the file is reported as bad
            return _Decoded(i, fault=f"{type(error).__name__}: {error}".replace(str(path), "the file"))


def _run(decoder: _Decoder, indices: Sequence[int], workers: int) -> Iterable[_Decoded]:
    if not indices:
        return
    loader = DataLoader(
        decoder,
        batch_size=64,
        sampler=indices,
        num_workers=workers,
        collate_fn=list,
        generator=torch.Generator(),  # the default would consume random numbers of the caller
    )
    for batch in loader:
        yield from batch


def _white_levels(ranges: Mapping[int, ValueRange]) -> tuple[dict[str, float], dict[int, str]]:
    """Returns number type → white level, and index → fault for files with negative values."""
    highest = dict.fromkeys(sorted({item.number_type for item in ranges.values()}), 0.0)
    for item in ranges.values():
        highest[item.number_type] = max(highest[item.number_type], item.high)
    negative = {
        i: f"found values from {item.low:g} to {item.high:g}, expected 0 or above. Add a constant to all values of the"
        " data set, or set negative ones to 0"
        for i, item in ranges.items()
        if item.low < -highest[item.number_type] / _ROUNDS_TO_BLACK
    }
    valid = [item for i, item in ranges.items() if i not in negative]
    highest = {name: max((item.high for item in valid if item.number_type == name), default=0.0) for name in highest}
    return {name: white_level(high) for name, high in highest.items()}, negative


def _white_notes(ranges: Mapping[int, ValueRange], whites: Mapping[str, float]) -> list[str]:
    notes = []
    for number_type, white in whites.items():
        items = [item for item in ranges.values() if item.number_type == number_type]
        high = max(item.high for item in items)
        notes.append(
            f"data.root: {len(items)} images hold {number_type} up to {high:.6g}; {white:.6g} becomes white in all of"
            " them"
        )
    return notes


def _metadata_notes(metadata_faults: Mapping[Path, str]) -> list[str]:
    if not metadata_faults:
        return []
    path, fault = next(iter(metadata_faults.items()))
    return [
        "data.root: image metadata (EXIF, texts, color profiles) that cannot be read is ignored"
        f" ({len(metadata_faults)} files), for example in {printable(path)}: {printable(fault)}"
    ]


def _lines_of_bad(listing: Listing, bad: Mapping[Path, str]) -> list[str]:
    """Formats a line for each bad file, and one line for all companions of images."""
    paths = listing.companions
    if not paths:
        return bad_file_lines(bad)
    kinds = format_counts(Counter(path.suffix.lower() for path in paths))
    companions = f"{len(paths)} files with the name of an image, such as {printable(paths[0])}: {kinds}"
    return [companions, *bad_file_lines(bad)]


def _check_splits(listing: Listing, labels: Tensor, splits: Tensor, left_out: list[str]) -> None:
    for number, split in enumerate(SPLITS):
        present = labels[splits == number].tolist()
        if absent := set(range(len(listing.class_names))) - set(present):
            name = printable(listing.class_names[min(absent)])
            raise DataError(
                f"data.root: class {min(absent)} ({name}) has no readable {split} image, expected 1 or more. Add images"
                f"{bullet_list(left_out)}"
            )
        if len(present) < _MIN_SPLIT_IMAGES:
            raise DataError(
                f"data.root: {printable(listing.root)} has {len(present)} {split} image in all, expected"
                f" {_MIN_SPLIT_IMAGES} or more. Add images{bullet_list(left_out)}"
            )
