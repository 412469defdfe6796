"""Synthetic data sets of any number of images, size and number of classes, as .npz files."""

from pathlib import Path

import numpy as np

_CHUNK = 10_000  # images
_TILE = 4  # pixels; each class has a pattern of tiles


def write_images(path: Path, *, images: int, size: int, classes: int) -> None:
    """Writes gray images, all different: the pattern of their class, with noise. The classes are equally frequent."""
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 128, (classes, size // _TILE, size // _TILE), dtype=np.uint8)
    patterns = tiles.repeat(_TILE, axis=1).repeat(_TILE, axis=2)
    labels = np.arange(images) % classes
    pixels = np.empty((images, size, size), np.uint8)
    for start in range(0, images, _CHUNK):
        part = pixels[start : start + _CHUNK]
        part[:] = np.frombuffer(rng.bytes(part.size), np.uint8).reshape(part.shape) >> 1
        part += patterns[labels[start : start + _CHUNK]]
    np.savez(path, images=pixels, labels=labels)
