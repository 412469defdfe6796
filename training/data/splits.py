"""Splits of a data set that has none of its own: a tenth of each class for val and test, chosen by the pixels alone.

Equal images stay in one split: otherwise a generator that copies its training images would be scored on copies.
"""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from ganctl.training.config.schema import DataSettings
from ganctl.training.errors import DataError
from ganctl.training.readers.base import NO_SPLIT, Source
from ganctl.training.readers.tree import SPLITS, printable

_TRAIN = SPLITS.index("train")
_MIN_CLASS_IMAGES = 3  # one for each split
_MIN_IMAGES = 2  # of a split, for the covariance of the scores
_HELD_OUT = 10  # a tenth of each class becomes the validation split, another one the test split


def assign_splits(source: Source, kept: NDArray[np.int64], digests: NDArray[np.uint64]) -> tuple[NDArray[np.int8], str]:
    """Assigns the splits that a source lacks.

    Args:
        source: the data set. Its images without a split, and its training images, may become val or test.
        kept: indices of the images that could be read, int64 [N].
        digests: digests of their pixels, uint64 [N, 2].

    Returns:
        The split of each kept image, int8 [N], an index into SPLITS.
        A log line if equal images are in several splits, or held-out ones among the training images; else an empty
        string.
    """
    splits, labels = source.splits[kept].copy(), source.labels[kept]
    missing = [number for number in range(len(SPLITS)) if number != _TRAIN and not (splits == number).any()]
    pool = (splits == NO_SPLIT) | (splits == _TRAIN)
    splits[pool] = _TRAIN
    if not missing:
        return splits, _shared_with_training(splits, digests)
    split_of: dict[bytes, int] = {}  # by digest; also of images that occur in several classes
    classes, with_copies = np.unique(labels), list[int]()
    least = -(-_MIN_IMAGES // max(1, len(classes)))  # a split has two images or more
    for label in classes:
        members = np.flatnonzero(pool & (labels == label))
        members = members[np.lexsort(digests[members].T)]
        tenth = max(least if len(members) >= least * len(SPLITS) else 1, len(members) // _HELD_OUT)
        keys = [digests[member].tobytes() for member in members]
        if _fill(missing, tenth, Counter(keys), split_of) or len(members) <= len(missing) * tenth:
            splits[members] = [split_of[key] for key in keys]
        else:
            with_copies.append(int(label))
            for number, split in enumerate(missing):
                splits[members[number * tenth : (number + 1) * tenth]] = split
    if not with_copies:
        return splits, _shared_with_training(splits, digests)
    names = [printable(source.class_names[label]) for label in with_copies] if source.class_names else ["all images"]
    found = "too few different images for each split, so that equal images are in several"
    return splits, f"data.source: {found}: {', '.join(names)}"


def _shared_with_training(splits: NDArray[np.int8], digests: NDArray[np.uint64]) -> str:
    """Returns a log line if images of a given val or test split are training images, too; else an empty string."""
    train = {digest.tobytes() for digest in digests[splits == _TRAIN]}
    found = []
    for number, split in enumerate(SPLITS):
        held_out = [digest.tobytes() for digest in digests[splits == number]] if number != _TRAIN else []
        if shared := sum(digest in train for digest in held_out):
            found.append(f"{shared:,} of {len(held_out):,} {split} images")
    return f"data.source: {' and '.join(found)} are training images, too: scores favor copies of them" if found else ""


def _fill(missing: list[int], tenth: int, groups: Counter[bytes], split_of: dict[bytes, int]) -> bool:
    """Assigns the groups of equal images of one class, in the order of their digests; adds them to `split_of`.

    Args:
        missing: the splits to fill.
        tenth: images that each of them needs.
        groups: digest → number of equal images.
        split_of: digest → split, of all classes so far.

    Returns:
        Whether each of the splits has images of the class.
    """
    free = dict.fromkeys(missing, tenth)
    new = [digest for digest in groups if digest not in split_of]
    for digest, images in groups.items():
        if digest not in split_of:
            emptiest = max(missing, key=free.__getitem__)
            split_of[digest] = emptiest if free[emptiest] >= images else _TRAIN
        if split_of[digest] != _TRAIN:
            free[split_of[digest]] = free.get(split_of[digest], 0) - images
    for split in missing:
        # an empty split takes the smallest group of the training images, though it has more than a tenth
        in_train = [digest for digest in new if split_of[digest] == _TRAIN]
        if free[split] == tenth and len(in_train) > 1:
            digest = min(in_train, key=groups.__getitem__)
            split_of[digest], free[split] = split, tenth - groups[digest]
    return tenth not in free.values()


def check_splits(
    source: Source, settings: DataSettings, labels: NDArray[np.int64], splits: NDArray[np.int8], skipped: str
) -> None:
    """Checks that each split has two images or more, and each class an image in each split.

    Raises:
        DataError: it has not.
    """
    for number, split in enumerate(SPLITS):
        present = labels[splits == number]
        absent = set(range(len(source.class_names))) - set(present.tolist())
        if absent:
            label = min(absent)
            count = int((labels == label).sum())
            found = (
                f"class {label} ({printable(source.class_names[label])}) has no {split} image and {count} in all,"
                f" expected 1 or more in each split ({_MIN_CLASS_IMAGES} in all)"
            )
        elif len(present) < _MIN_IMAGES:
            found = f"found {len(present)} {split} images of {len(labels)} in all, expected {_MIN_IMAGES} or more"
        else:
            continue
        raise DataError(f"data.source: {printable(settings.source)}: {found}. Add images{skipped}")
