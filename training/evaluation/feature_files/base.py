"""Interface of a loaded network, the usual input of networks for photos, and the errors of a feature file."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ganctl.training.errors import DataError

FLAG = "--features FILE"
SIZE = 224  # pixels; the usual input of networks that were trained on ImageNet
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colors


class LoadedNetwork(NamedTuple):
    """A network that was read from a file.

    Attributes:
        run: maps uint8 images [N, 3, H, W] of any size, on the device of the network, to an output that
            `FileFeatures` turns into features. It may raise any exception.
        description: for messages.
        further_files: that the file refers to.
    """

    run: Callable[[Tensor], object]
    description: str
    further_files: tuple[Path, ...] = ()


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes uint8 images [N, 3, H, W] to float32 images of 0 … 255.

    The filter is bicubic, and wide enough to leave no aliasing: filters without that change Fréchet distances more than
    generators do (Parmar et al. 2022, arXiv:2104.11222).
    """
    values = images.float()
    if tuple(values.shape[2:]) == size:
        return values
    return interpolate(values, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 255)


def normalize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes uint8 images [N, 3, H, W], and normalizes them by the mean and the deviation of ImageNet's colors."""
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (_MEAN, _STD))
    return (resize(images, size) / 255 - mean) / std


def unusable(path: Path, fault: str, expected: str) -> DataError:
    """The error for a file that cannot give features.

    Args:
        path: the file.
        fault: what was found.
        expected: what would be usable.
    """
    return DataError(f"{FLAG}: {path}: {fault}, expected {expected}. docs/evaluation.md says how to make a file")


def reason(error: Exception) -> str:
    """The first line of an exception's text, with the second if the first only introduces it.

    TorchScript puts the reason into the last line, after its stack.
    """
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    if "TorchScript interpreter" in lines[0]:
        return lines[-1]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(".")
