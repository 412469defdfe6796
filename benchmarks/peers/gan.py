"""Common parts of the GANs of other projects that `ganctl bench quality` trains.

Each module of a peer has a function `train(training) -> Sampler`. It trains with the peer's own networks, losses and
hyperparameters. Only the device, the loading of the data, the time limit, and saves and sample images during the
training differ from the peer's own command.
"""

import importlib
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ganctl.benchmarks.quality.recorder import StepClock
from ganctl.training.data.base import ImageSet
from ganctl.training.images.pictures import straight
from ganctl.training.models.base import ImageShape, to_bytes

_CHUNK = 4096  # images converted at a time
_MIN_SIDE = 32  # pixels; some of the peers have no smaller networks


class BudgetUsedUp(Exception):
    """The time of the training is over."""


@dataclass(frozen=True)
class Training:
    """Inputs of a peer's training: the training split, a seed, the clock, and a folder for temporary files."""

    source: str  # `data.source`
    data: ImageSet
    seed: int
    clock: StepClock
    device: torch.device
    folder: Path

    @property
    def shape(self) -> ImageShape:
        """Shape of the images."""
        return ImageShape(*self.data.shape)


@dataclass(frozen=True)
class Sampler:
    """A peer's generator after the training.

    Attributes:
        network: the module whose weights are in the snapshots.
        generate: returns n images of the network, straight uint8 [n, C, H, W], from torch's global random numbers.
    """

    network: nn.Module
    generate: Callable[[int], Tensor]


@dataclass(frozen=True)
class Fit:
    """Conversion between the images of a data set and those that a peer's networks take.

    Smaller images are padded with copies of their edge pixels, and generated ones are cropped back: nothing is
    interpolated. If the peer takes 3 channels only, gray is copied to all, and generated colors are averaged.

    Attributes:
        shape: of the data set's images.
        side: of the peer's images in pixels.
        channels: of the peer's images.
        premultiplied: whether the peer gets colors multiplied with alpha, as our networks do, or as a PNG has them.
    """

    shape: ImageShape
    side: int
    channels: int
    premultiplied: bool = True

    def to_peer(self, images: Tensor) -> Tensor:
        """Converts images of an ImageSet to uint8 [N, channels, side, side]."""
        return torch.cat([torch.from_numpy(self._fit(chunk.numpy())) for chunk in images.split(_CHUNK)])

    def _fit(self, images: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        if not self.premultiplied:
            images = straight(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        (top, left), (_, height, width) = self._offsets, self.shape
        rows, columns = (top, self.side - height - top), (left, self.side - width - left)
        padded = np.pad(images, ((0, 0), (0, 0), rows, columns), mode="edge")
        return np.repeat(padded, self.channels, axis=1) if self._expands else np.ascontiguousarray(padded)

    def from_peer(self, images: Tensor) -> Tensor:
        """Converts the peer's images, float [N, channels, side, side] in [0, 1], to straight uint8 [N, C, H, W]."""
        top, left = self._offsets
        images = images[..., top : top + self.shape.height, left : left + self.shape.width].detach().cpu()
        if self._expands:
            images = images.mean(dim=1, keepdim=True)
        if self.premultiplied:
            return to_bytes(images * 2 - 1)
        return images.mul(255).round_().clamp_(0, 255).to(torch.uint8)

    @property
    def _expands(self) -> bool:
        return self.channels != self.shape.channels

    @property
    def _offsets(self) -> tuple[int, int]:
        return (self.side - self.shape.height) // 2, (self.side - self.shape.width) // 2


def power_of_two(shape: ImageShape) -> int:
    """Returns the smallest power of two, from 32 on, that the image fits in."""
    return max(_MIN_SIDE, 1 << (max(shape.height, shape.width) - 1).bit_length())


class FloatImages(Dataset[Tensor]):
    """Images in memory as floats in [0, 1], as torchvision's `ToTensor` returns them."""

    def __init__(self, images: Tensor) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        return self._images[index] / 255


def seed_all(seed: int) -> None:
    """Seeds every global generator of random numbers."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def import_without(name: str, *absent: str) -> Any:
    """Imports a module that asserts a CUDA device, or imports packages that its training does not use.

    Args:
        name: of the module.
        absent: modules that it imports for other purposes; each is replaced by one that has any attribute.
    """
    stand_ins = {module: _AnyModule(module) for module in absent}
    sys.modules.update(stand_ins)
    try:
        with mock.patch.object(torch.cuda, "is_available", return_value=True):
            return importlib.import_module(name)
    finally:
        for module in stand_ins:
            del sys.modules[module]


class _AnyModule(ModuleType):
    """Stands in for a module that is imported and not used."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []  # as a package has: its parts may be imported

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


def run_on_cpu(*modules: ModuleType) -> None:
    """Makes `.cuda(…)`, and `torch.device("cuda:…")` in these modules, mean the CPU, for this process."""
    for module in modules:
        module.torch = _TorchOnCPU("torch")  # type: ignore[attr-defined]  # the imported module is known at run time only
    for kind in (Tensor, nn.Module):
        kind.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]  # replaced on purpose: no GPU is here


class _TorchOnCPU(ModuleType):
    """The module torch, with one device."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def device(name: object) -> torch.device:
        return torch.device("cpu")
