"""A split of a data set in memory, and its checks."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ganctl.common.text import nfc
from ganctl.training.errors import DataError

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class ImageSet:
    """One split of a data set, in memory."""

    images: Tensor  # uint8 [N, C, H, W]
    labels: Tensor  # int64 [N]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def digest(self) -> str:
        """SHA-256 of shape, class names, labels and each image's sum of pixels: tells another set from this one in a
        moment, though not one whose images keep their sums."""
        digest = hashlib.sha256(json.dumps([self.images.shape, self.class_names]).encode())
        for numbers in (self.labels, self.images.flatten(1).sum(dim=1, dtype=torch.int64)):
            digest.update(numbers.numpy().tobytes())
        return digest.hexdigest()


def shuffled(n: int) -> Tensor:
    """The numbers 0 … n − 1 in an order that is the same for everybody and forever, int64 [n].

    From the raw words of a counter-based generator, which NumPy promises never to change.
    """
    return torch.from_numpy(np.argsort(np.random.Philox(key=12).random_raw(n), kind="stable"))


def check_images(data: ImageSet, what: str) -> ImageSet:
    """The data set with its class names in NFC.

    Args:
        what: names the data set in the error.

    Raises:
        DataError: types, shapes, labels or class names are not those of an ImageSet.
    """
    images, labels, classes = data.images, data.labels, len(data.class_names)
    faults = []
    if images.dtype != torch.uint8 or images.dim() != 4:
        faults.append(
            f"images are {images.dtype} {tuple(images.shape)}, expected uint8 [N, C, H, W] with pixels 0 … 255"
        )
    elif len(images) < 2:
        faults.append(f"{len(images)} in all, expected 2 or more (the scores need their covariance); add images")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        faults.append(f"labels are {labels.dtype} {tuple(labels.shape)}, expected int64 [{len(images)}]")
    elif len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        faults.append(f"labels go from {int(labels.min())} to {int(labels.max())}, expected 0 to {classes - 1}")
    names = tuple(map(nfc, data.class_names))
    if fault := _fault_of_names(names):
        faults.append(fault)
    if faults:
        raise DataError(f"{what}: {'; '.join(faults)}")
    return data if names == data.class_names else replace(data, class_names=names)


def _fault_of_names(names: Sequence[str]) -> str | None:
    """What is wrong with class names in NFC, None where nothing is."""
    name, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        return (
            f"the class name {name!r} is given to {times} classes (compared in Unicode's form NFC), expected a name of"
            " its own for each; rename one"
        )
    return "a class name is empty, expected a name for each class; give it one" if "" in names else None
