"""Image set: one split of a data set in memory, its checks and a fixed permutation."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ganctl.common.text import nfc
from ganctl.training.errors import DataError
from ganctl.training.readers.tree import Split as Split  # part of the interface of custom data sets


@dataclass(frozen=True)
class ImageSet:
    """One split of a data set in memory."""

    images: Tensor  # uint8 [N, C, H, W]; with 4 channels the colors are premultiplied with alpha, the last channel
    labels: Tensor  # int64 [N]; 0 without labels
    class_names: tuple[str, ...]  # empty without labels

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """Number of classes; 1 without labels."""
        return max(1, len(self.class_names))

    def digest(self) -> str:
        """SHA-256 of shape, class names, labels and the sum of each image's pixels, as hexadecimal digits.

        A fast check: sets that differ only within images of equal sums have the same digest.
        """
        digest = hashlib.sha256(json.dumps([self.images.shape, self.class_names]).encode())
        digest.update(self.labels.numpy().tobytes())
        # not by torch, which sums a copy in int64, and takes three to eight times as long
        digest.update(self.images.numpy().sum(axis=(1, 2, 3), dtype=np.int64).tobytes())
        return digest.hexdigest()


def premultiply(images: Tensor) -> Tensor:
    """Multiplies colors with alpha: uint8 [N, 4, H, W]; images of other channels are returned unchanged."""
    if images.shape[1] != 4:
        return images
    alpha = images[:, 3:].to(torch.int32)
    colors = (images[:, :3] * alpha + 127) // 255
    return torch.cat([colors, alpha], dim=1).to(torch.uint8)


def put_on_white(images: Tensor) -> Tensor:
    """Puts premultiplied uint8 images [N, 4, H, W] on white, as most pages show them; returns [N, 3, H, W].

    Images of other channels are returned unchanged.
    """
    return images[:, :3] + (255 - images[:, 3:]) if images.shape[1] == 4 else images


def fixed_permutation(n: int) -> Tensor:
    """Permutation of 0 … n − 1 that is the same on every machine and in every version, int64 [n].

    It sorts raw output of the counter-based generator Philox, which NumPy guarantees to keep.
    """
    return torch.from_numpy(np.argsort(np.random.Philox(key=12).random_raw(n), kind="stable"))


def check_images(data: ImageSet, name: str) -> ImageSet:
    """Checks a data set and returns it with class names in Unicode form NFC.

    Args:
        data: the output of a reader, which may be the user's own.
        name: name of the data set for the error.

    Raises:
        DataError: types, shapes, labels or class names are not those of an ImageSet.
    """
    images, labels, classes = data.images, data.labels, data.num_classes
    errors = []
    if images.dtype != torch.uint8 or images.dim() != 4:
        errors.append(
            f"images are {images.dtype} {tuple(images.shape)}, expected uint8 [N, C, H, W] with pixels 0 … 255"
        )
    elif len(images) < 2:
        errors.append(f"found {len(images)} images, expected 2 or more (the scores need a covariance). Add images")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        errors.append(f"labels are {labels.dtype} {tuple(labels.shape)}, expected int64 [{len(images)}]")
    elif len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        errors.append(f"labels range from {int(labels.min())} to {int(labels.max())}, expected 0 to {classes - 1}")
    class_names = tuple(map(nfc, data.class_names))
    for class_name, count in Counter(class_names).items():
        if count > 1:
            errors.append(
                f"found the class name {class_name!r} {count} times (compared in Unicode form NFC), expected once."
                " Rename one"
            )
        if not class_name:
            errors.append("found an empty class name, expected text. Give the class a name")
    if errors:
        raise DataError(f"{name}: {'. '.join(errors)}")
    return replace(data, class_names=class_names)
