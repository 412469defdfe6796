"""Decodes the image files of a listing into tensors, in worker processes.

Ordinary files are read once. Files with more than 8 bits a channel are read twice: first their largest values, which
decide on one white level for all files with numbers of the same type, then their pixels.
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
from ganctl.training.data.class_folders import SPLITS, File, Listing
from ganctl.training.data.decode import DeepImage, ImageFaultError, Levels, read_image, to_square, white_level
from ganctl.training.data.folder_tree import counts, lines, shown, told
from ganctl.training.errors import DataError

_FEWEST = 2  # images of a split, all classes together, as `load_split` wants it
_ROUNDED = 2 * 255  # a negative value smaller than white by this factor is rounded to black


@dataclass(frozen=True)
class DecodedSet:
    """The images of all splits: uint8 [N, C, S, S], labels int64 [N], split uint8 [N] (the number in SPLITS)."""

    tensors: dict[str, Tensor]
    bad: int  # files that are no images
    left_out: list[str]  # lines that list them
    notes: list[str]  # white levels, and faults that were passed over


@dataclass(frozen=True)
class _Decoded:
    """The result for file `index`: pixels, or the range of the values of a deep image, or a fault."""

    index: int
    pixels: np.ndarray | None = None  # uint8 [3, S, S]; no tensor: each one from a worker keeps a file descriptor open
    levels: Levels | None = None
    fault: str = ""
    passed_over: str = ""  # a fault of the notes in the file


def decode_set(listing: Listing, settings: DataSettings, *, workers: int) -> DecodedSet:
    """Reads all files of a listing.

    Raises:
        DataError: files cannot be read (all of them are named) and `data.skip_corrupt` is not set, or too few are left.
    """
    files = listing.files
    images = torch.zeros(len(files), 3, settings.size, settings.size, dtype=torch.uint8)
    bad, levels, passed_over = dict(listing.bad), dict[int, Levels](), dict[Path, str]()

    def take(decoded: Iterable[_Decoded]) -> None:
        for item in decoded:
            path = files[item.index].path
            if item.passed_over:
                passed_over[path] = item.passed_over
            if item.pixels is not None:
                images[item.index] = torch.from_numpy(item.pixels)
            elif item.levels is not None:
                levels[item.index] = item.levels
            else:
                bad[path] = item.fault

    take(_run(_Decoder(files, settings), range(len(files)), workers))
    whites, negative = _white_levels(levels)
    bad |= {files[i].path: fault for i, fault in negative.items()}
    take(_run(_Decoder(files, settings, whites), [i for i in levels if i not in negative], workers))

    left_out, number = _lines_of_bad(listing, bad), len(bad) + len(listing.companions)
    if left_out and not settings.skip_corrupt:
        raise DataError(
            f"data.root: files that cannot be read as images ({number}); remove them, or leave them out with"
            f" data.skip_corrupt=true:{lines(left_out)}"
        )
    good = [i for i, file in enumerate(files) if file.path not in bad]
    images = images[good]
    grey = bool((images == images[:, :1]).all())
    if settings.channels == 1 or (settings.channels == "auto" and grey):
        images = images[:, :1].contiguous()
    labels = torch.tensor([files[i].label for i in good], dtype=torch.int64)
    splits = torch.tensor([SPLITS.index(files[i].split) for i in good], dtype=torch.uint8)
    _check_splits(listing, labels, splits, left_out)
    notes = [*_white_notes(levels, whites), *_passed_over_notes(passed_over)]
    return DecodedSet({"images": images, "labels": labels, "split": splits}, number, left_out, notes)


class _Decoder(Dataset[_Decoded]):
    """Decodes file i; without `whites` a deep image gives its range of values only."""

    def __init__(
        self, files: Sequence[File], settings: DataSettings, whites: Mapping[str, float] | None = None
    ) -> None:
        self._files, self._whites = files, whites
        self._size, self._grey = settings.size, settings.channels == 1

    def __getitem__(self, i: int) -> _Decoded:
        path = self._files[i].path
        try:
            image, passed_over = read_image(path)
            if isinstance(image, DeepImage):
                if self._whites is None:
                    return _Decoded(i, levels=image.levels(), passed_over=passed_over)
                image = image.to_eight_bits(self._whites[image.kind])
            return _Decoded(i, pixels=to_square(image, self._size, grey=self._grey), passed_over=passed_over)
        except ImageFaultError as error:
            return _Decoded(i, fault=str(error))
        except Exception as error:  # Pillow's decoders raise nearly everything; the file is reported, not passed over
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
        generator=torch.Generator(),  # or it would use up the random numbers of the caller
    )
    for batch in loader:
        yield from batch


def _white_levels(levels: Mapping[int, Levels]) -> tuple[dict[str, float], dict[int, str]]:
    """The white level for each type of numbers, and the faults of files with negative values."""
    highest = dict.fromkeys(sorted({found.kind for found in levels.values()}), 0.0)
    for found in levels.values():
        highest[found.kind] = max(highest[found.kind], found.high)
    negative = {
        i: f"its values go from {found.low:g} to {found.high:g}, expected none below 0. Add a constant to all values of"
        " the data set, or set negative ones to 0"
        for i, found in levels.items()
        if found.low < -highest[found.kind] / _ROUNDED
    }
    sound = [found for i, found in levels.items() if i not in negative]
    highest = {kind: max((found.high for found in sound if found.kind == kind), default=0.0) for kind in highest}
    return {kind: white_level(high) for kind, high in highest.items()}, negative


def _white_notes(levels: Mapping[int, Levels], whites: Mapping[str, float]) -> list[str]:
    notes = []
    for kind, white in whites.items():
        found = [item for item in levels.values() if item.kind == kind]
        high = max(item.high for item in found)
        notes.append(
            f"data.root: {len(found)} images hold {kind} up to {high:.6g}; {white:.6g} becomes white in all of them"
        )
    return notes


def _passed_over_notes(passed_over: Mapping[Path, str]) -> list[str]:
    if not passed_over:
        return []
    path, fault = next(iter(passed_over.items()))
    return [
        "data.root: notes in images (EXIF, texts, color profiles) that cannot be read are passed over"
        f" ({len(passed_over)}), such as that in {shown(path)}: {shown(fault)}"
    ]


def _lines_of_bad(listing: Listing, bad: Mapping[Path, str]) -> list[str]:
    """A line for each bad file, and one for all files beside an image of the same name."""
    beside = listing.companions
    if not beside:
        return told(bad)
    kinds = counts(Counter(path.suffix.lower() for path in beside))
    return [f"{len(beside)} files beside an image of the same name, such as {shown(beside[0])}: {kinds}", *told(bad)]


def _check_splits(listing: Listing, labels: Tensor, splits: Tensor, left_out: list[str]) -> None:
    for number, split in enumerate(SPLITS):
        present = labels[splits == number].tolist()
        if absent := set(range(len(listing.class_names))) - set(present):
            raise DataError(
                f"data.root: class {min(absent)} has no sound image left among the {split} images; add some to"
                f" {shown(listing.class_names[min(absent)])}{lines(left_out)}"
            )
        if len(present) < _FEWEST:
            raise DataError(
                f"data.root: {shown(listing.root)} has {len(present)} {split} image in all, expected"
                f" {_FEWEST} or more; add images{lines(left_out)}"
            )
