"""Writes folders of random images, and reads them as a data set."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet
from ganctl.training.data.datasets import load_split

posix = pytest.mark.skipif(
    sys.platform != "linux", reason="needs Linux: file names that are not UTF-8, FIFOs, limits of open files"
)


def paint(path: Path, *, mode: str = "RGB", size: tuple[int, int] = (28, 28), seed: int = 0) -> None:
    """Writes an image of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], *channels), dtype=np.uint8)
    Image.fromarray(pixels, mode).save(path)


def fill(
    root: Path, *, classes: tuple[str, ...] = ("cat", "dog"), images: int = 20, mode: str = "RGB", seed: int = 0
) -> Path:
    """Writes `images` random images of each class below `root`, all different; returns `root`."""
    for label, name in enumerate(classes):
        for i in range(images):
            paint(root / name / f"{i}.png", mode=mode, seed=seed + 1000 * label + i)
    return root


def fill_flat(root: Path, *, images: int = 40, mode: str = "RGB", suffix: str = ".png") -> Path:
    """Writes `images` random images into one folder without classes; returns it."""
    for i in range(images):
        paint(root / f"{i:02}{suffix}", mode=mode, seed=i)
    return root


def of(root: Path, **settings: object) -> DataSettings:
    """Settings of the data set at `root`, read in this process."""
    return DataSettings.model_validate({"source": str(root), "num_workers": 0, "size": 28, **settings})


def read(root: Path, split: str = "train", **settings: object) -> ImageSet:
    """Reads one split."""
    return load_split(of(root, **settings), split)  # type: ignore[arg-type]


def read_all(root: Path, **settings: object) -> ImageSet:
    """Reads all splits as one set, in the order train, val, test."""
    parts = [read(root, split, **settings) for split in ("train", "val", "test")]
    images, labels = torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
    return ImageSet(images, labels, parts[0].class_names)


def count(root: Path, **settings: object) -> int:
    """Counts the images of all splits."""
    return len(read_all(root, **settings))
