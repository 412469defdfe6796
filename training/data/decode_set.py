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
    ImageError,
    ValueRange,
    read_image,
    to_square,
    white_level,
)
from ganctl.training.data.folder_tree import bad_file_lines, bullet_list, format_counts, printable
from ganctl.training.errors import DataError

_MIN_IMAGES = 2  # over all classes, as `check_images` requires
_ROUNDS_TO_BLACK = 2 * 255  # a negative value above -white / 510 rounds to 0 in 8 bits


@dataclass(frozen=True)
class _Decoded:
    """Result for file `index`: pixels, the value range of a deep image, or an error."""

    index: int
    pixels: np.ndarray | None = None  # uint8 [3, S, S]; a tensor from a worker would hold a file descriptor open
    value_range: ValueRange | None = None
    error: str = ""
    metadata_error: str = ""


def decode_set(listing: Listing, settings: DataSettings, *, workers: int) -> tuple[dict[str, Tensor], list[str]]:
    """Reads all files of a listing.

    Returns:
        The images of all splits: "images" uint8 [N, C, S, S], "labels" int64 [N], "split" uint8 [N] (index in SPLITS).
        Log lines about white levels, ignored metadata and skipped files.

    Raises:
        DataError: files cannot be read (all are named) and `data.skip_corrupt` is off, or too few are left.
    """
    files = listing.files
    images = torch.zeros(len(files), 3, settings.size, settings.size, dtype=torch.uint8)
    bad, ranges, metadata_errors = dict(listing.bad), dict[int, ValueRange](), dict[Path, str]()

    def store(decoded: Iterable[_Decoded]) -> None:
        for item in decoded:
            path = files[item.index].path
            if item.metadata_error:
                metadata_errors[path] = item.metadata_error
            if item.pixels is not None:
                images[item.index] = torch.from_numpy(item.pixels)
            elif item.value_range is not None:
                ranges[item.index] = item.value_range
            else:
                bad[path] = item.error

    store(_run(_Decoder(files, settings), range(len(files)), workers))
    for i in _negative(ranges):
        item = ranges.pop(i)
        bad[files[i].path] = (
            f"found values from {item.low:g} to {item.high:g}, expected 0 or above. Add a constant to all values of the"
            " data set, or set negative ones to 0"
        )
    highest, counts = _highest(ranges.values()), Counter(item.number_type for item in ranges.values())
    whites = {number_type: white_level(high) for number_type, high in highest.items()}
    notes = [
        f"data.root: {counts[name]} images hold {name} up to {highest[name]:.6g}; {white:.6g} becomes white in all"
        for name, white in whites.items()
    ]
    store(_run(_Decoder(files, settings, whites), list(ranges), workers))
    if metadata_errors:
        path, error = next(iter(metadata_errors.items()))
        notes.append(
            "data.root: image metadata (EXIF, texts, color profiles) that cannot be read is ignored"
            f" ({len(metadata_errors)} files), for example in {printable(path)}: {printable(error)}"
        )
    count, skipped = len(bad) + len(listing.companions), bullet_list(_lines_of_bad(listing, bad))
    if count and not settings.skip_corrupt:
        raise DataError(
            f"data.root: found files that cannot be read as images ({count}). Remove them, or skip them with"
            f" data.skip_corrupt=true:{skipped}"
        )
    if count:
        notes.append(f"data.skip_corrupt skips files that cannot be read as images ({count}):{skipped}")
    good = [i for i, file in enumerate(files) if file.path not in bad]
    images = images[good]
    gray = bool((images == images[:, :1]).all())
    if settings.channels == 1 or (settings.channels == "auto" and gray):
        images = images[:, :1].contiguous()
    labels = torch.tensor([files[i].label for i in good], dtype=torch.int64)
    splits = torch.tensor([SPLITS.index(files[i].split) for i in good], dtype=torch.uint8)
    _check_splits(listing, labels, splits, skipped)
    return {"images": images, "labels": labels, "split": splits}, notes


@dataclass(frozen=True)
class _Decoder(Dataset[_Decoded]):
    """Decodes file i; without `whites` a deep image gives only its value range."""

    files: Sequence[ListedFile]
    settings: DataSettings
    whites: Mapping[str, float] | None = None

    def __getitem__(self, i: int) -> _Decoded:
        path, gray = self.files[i].path, self.settings.channels == 1
        try:
            image, metadata_error = read_image(path)
            if isinstance(image, HighDepthImage):
                if self.whites is None:
                    return _Decoded(i, value_range=image.value_range(), metadata_error=metadata_error)
                image = image.to_eight_bits(self.whites[image.number_type])
            return _Decoded(i, pixels=to_square(image, self.settings.size, gray=gray), metadata_error=metadata_error)
        except ImageError as error:
            return _Decoded(i, error=str(error))
        except Exception as error:  # Pillow's decoders raise many types; the file is reported as bad
            return _Decoded(i, error=f"{type(error).__name__}: {error}".replace(str(path), "the file"))


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


def _highest(ranges: Iterable[ValueRange]) -> dict[str, float]:
    """Maps number type → highest value, 0 or above; sorted by number type."""
    highest: dict[str, float] = {}
    for item in ranges:
        highest[item.number_type] = max(highest.get(item.number_type, 0.0), item.high)
    return dict(sorted(highest.items()))


def _negative(ranges: Mapping[int, ValueRange]) -> list[int]:
    """Returns the files whose negative values do not round to black."""
    highest = _highest(ranges.values())
    return [i for i, item in ranges.items() if item.low < -highest[item.number_type] / _ROUNDS_TO_BLACK]


def _lines_of_bad(listing: Listing, bad: Mapping[Path, str]) -> list[str]:
    """Formats a line for each bad file, and one line for all companions of images."""
    lines = bad_file_lines(bad)
    if paths := listing.companions:
        kinds = format_counts(Counter(path.suffix.lower() for path in paths))
        lines.insert(0, f"{len(paths)} files with the name of an image, such as {printable(paths[0])}: {kinds}")
    return lines


def _check_splits(listing: Listing, labels: Tensor, splits: Tensor, skipped: str) -> None:
    for number, split in enumerate(SPLITS):
        present = labels[splits == number].tolist()
        absent = set(range(len(listing.class_names))) - set(present)
        if absent:
            name = printable(listing.class_names[min(absent)])
            found = f"class {min(absent)} ({name}) has no readable {split} image, expected 1 or more"
        else:
            found = f"{printable(listing.root)} has {len(present)} {split} image in all, expected {_MIN_IMAGES} or more"
        if absent or len(present) < _MIN_IMAGES:
            raise DataError(f"data.root: {found}. Add images{skipped}")
