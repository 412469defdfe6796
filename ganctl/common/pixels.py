"""Rounding to 8 bits, tiling, enlarging, the layout of .npz files, and the transparency of GIF, in NumPy."""

import numpy as np
from numpy.typing import NDArray


def to_uint8(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round images in [0, 1], float32 of any shape, to the nearest of 256 levels, uint8 of the same shape."""
    levels = images.clip(0.0, 1.0)
    levels *= np.float32(255.0)
    levels += np.float32(0.5)
    return levels.astype(np.uint8)


def tile(images: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Tile images, uint8 [N, H, W, C], row by row into one grid, uint8 [rows·H, columns·W, C].

    Empty cells at the end are black, or transparent with four channels.
    """
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    if rows * columns > count:
        blank = np.zeros((rows * columns - count, height, width, channels), np.uint8)
        images = np.concatenate((images, blank))
    cells = images.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return cells.reshape(rows * height, columns * width, channels)


def to_npz_layout(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert images, uint8 [N, H, W, C], to the layout of .npz files: [N, H, W], or [N, C, H, W] if C is not 1."""
    return images[..., 0] if images.shape[-1] == 1 else images.transpose(0, 3, 1, 2)


def binary_alpha(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Round the alpha of images, uint8 [..., 4], to 0 or 255, since GIF has no other; transparent colors become 0.

    Images of other channels are returned unchanged.
    """
    if images.shape[-1] != 4:
        return images
    opaque = images[..., 3:] >= 128
    return np.concatenate([images[..., :3] * opaque, opaque * np.uint8(255)], axis=-1)


def enlarge(images: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Repeat each pixel of images, uint8 [..., H, W, C], `scale` times in both directions."""
    return images if scale == 1 else images.repeat(scale, axis=-3).repeat(scale, axis=-2)
