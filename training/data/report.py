"""Report about a data set before a training: format, counts, sizes, duplicates, and what `train` would make of it."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.cache import worker_count
from ganctl.training.data.datasets import load_split
from ganctl.training.data.prepare import Decoded, choose_channels, choose_size, decode_all
from ganctl.training.data.splits import assign_splits
from ganctl.training.readers.base import NO_SPLIT
from ganctl.training.readers.open_source import open_source, open_tree
from ganctl.training.readers.tree import SPLITS

SHEET_CLASSES, SHEET_IMAGES = 30, 12  # rows and columns of a contact sheet
_SIZES_SHOWN = 5


def describe_data(settings: DataSettings) -> tuple[dict[str, Any], NDArray[np.uint8], int]:
    """Describes the data set `data.source`.

    Returns:
        The facts, as JSON.
        Images for a contact sheet, uint8 [N, C, S, S], premultiplied with alpha.
        Its number of columns.

    Raises:
        DataError: the format is unknown, ambiguous or damaged.
    """
    if not settings.is_path:
        return _describe_loaded(settings)
    source = open_source(open_tree(Path(settings.source)))
    decoded = decode_all(source, settings, workers=worker_count(settings), scratch=None)
    kept = np.flatnonzero(decoded.good)
    given = [int(split) for split in source.splits]
    channels, channels_reason = choose_channels(decoded, kept, settings) if len(kept) else (0, "")
    digests = [digest.tobytes() for digest in decoded.digests]
    splits = np.full(len(source), NO_SPLIT, np.int8)
    if len(kept):
        splits[kept], reason = assign_splits(source, kept, decoded.digests[kept])
        decoded.notes += [reason] if reason else []
    size, size_reason = choose_size(decoded.sides[kept], settings) if len(kept) else (0, "")
    counts = Counter(digests[i] for i in kept)
    facts = {
        "kind": "data",
        "path": settings.source,
        "format": source.format,
        "images": len(kept),
        "labeled": bool(source.class_names),
        "splits": {split: int((splits[kept] == number).sum()) for number, split in enumerate(SPLITS)},
        "splits_given": any(split != NO_SPLIT for split in given),
        "classes": _classes(source.class_names, source.labels[kept], splits[kept]),
        "sizes": _sizes(decoded, kept),
        "modes": dict(decoded.modes.most_common()),
        "transparent": int(decoded.transparent[kept].sum()),
        "duplicates": len(kept) - len(counts),
        "duplicates_across_splits": _across(digests, splits, kept),
        "duplicates_across_classes": _across(digests, source.labels, kept),
        "unreadable": dict(sorted(decoded.bad.items())),
        "other_files": len(source.companions),  # captions and the like, which `train` refuses as well
        "size": settings.size if settings.size != "auto" else size,
        "size_reason": "data.size" if settings.size != "auto" else size_reason or "all images have this size",
        "channels": channels,
        "channels_reason": "data.channels"
        if settings.channels != "auto"
        else channels_reason or _REASONS.get(channels, ""),
        "notes": [*source.notes, *decoded.notes],
    }
    chosen = _sheet(source.class_names, source.labels, kept)
    return facts, decoded.pixels[chosen, : channels or 1], min(SHEET_IMAGES, max(1, len(chosen)))


_REASONS = {
    1: "all images are gray",
    3: "images have colors",
    4: "images are transparent",
}


def _describe_loaded(settings: DataSettings) -> tuple[dict[str, Any], NDArray[np.uint8], int]:
    """Describes a named or custom data set from its tensors."""
    parts = {split: load_split(settings, split) for split in SPLITS}
    first = parts["train"]
    labels = np.concatenate([part.labels.numpy() for part in parts.values()])
    splits = np.concatenate([np.full(len(part), SPLITS.index(split)) for split, part in parts.items()])
    channels, height, width = first.shape
    facts = {
        "kind": "data",
        "path": settings.source,
        "format": "named data set" if ":" not in settings.source else "function",
        "images": len(labels),
        "labeled": bool(first.class_names),
        "splits": {split: len(part) for split, part in parts.items()},
        "splits_given": True,
        "classes": _classes(first.class_names, labels, splits),
        "sizes": {f"{width} × {height}": len(labels)},
        "size": height,
        "channels": channels,
    }
    chosen = _sheet(first.class_names, first.labels.numpy(), np.arange(len(first)))
    return facts, first.images.numpy()[chosen], min(SHEET_IMAGES, max(1, len(chosen)))


def _classes(names: tuple[str, ...], labels: NDArray[Any], splits: NDArray[Any]) -> list[dict[str, Any]]:
    counts = {split: np.bincount(labels[splits == number], minlength=len(names)) for number, split in enumerate(SPLITS)}
    return [
        {"name": name, "images": int(total)} | {split: int(each[label]) for split, each in counts.items()}
        for label, (name, total) in enumerate(zip(names, np.bincount(labels, minlength=len(names)), strict=False))
    ]


def _sizes(decoded: Decoded, kept: NDArray[np.int64]) -> dict[str, int]:
    """Counts the most frequent sizes, and all others."""
    counts = Counter(f"{width} × {height}" for width, height in decoded.sides[kept].tolist())
    shown = dict(counts.most_common(_SIZES_SHOWN))
    others = counts.total() - sum(shown.values())
    return shown | ({f"{len(counts) - len(shown)} other sizes": others} if others else {})


def _across(digests: list[bytes], groups: NDArray[Any], kept: NDArray[np.int64]) -> int:
    """Counts the images that occur in more than one group, such as two splits."""
    seen: dict[bytes, set[int]] = {}
    for i in kept:
        seen.setdefault(digests[i], set()).add(int(groups[i]))
    return sum(len(each) > 1 for each in seen.values())


def _sheet(class_names: tuple[str, ...], labels: NDArray[np.int64], kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the images of the contact sheet: a row of each class."""
    if not class_names:
        return kept[:: max(1, len(kept) // (SHEET_IMAGES * SHEET_IMAGES))][: SHEET_IMAGES * SHEET_IMAGES]
    rows = []
    for label in range(min(SHEET_CLASSES, len(class_names))):
        members = kept[labels[kept] == label]
        row = members[:: max(1, len(members) // SHEET_IMAGES)][:SHEET_IMAGES]
        rows.append(np.resize(row, SHEET_IMAGES) if len(row) else row)  # full rows, so that each row is one class
    return np.concatenate(rows)
