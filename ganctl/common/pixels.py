"""Pixels as NumPy arrays: rounding to 8 bits, tiling, enlarging."""

import numpy as np
from numpy.typing import NDArray


def to_uint8(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Float images in [0, 1], any shape → uint8, rounded to the nearest level."""
    levels = images.clip(0.0, 1.0)
    levels *= np.float32(255.0)
    levels += np.float32(0.5)
    return levels.astype(np.uint8)


def tile(images: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """uint8 [N, H, W, C] → one picture [rows·H, columns·W, C], filled row by row; cells left over are black."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    if rows * columns > count:
        blank = np.zeros((rows * columns - count, height, width, channels), np.uint8)
        images = np.concatenate((images, blank))
    cells = images.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return cells.reshape(rows * height, columns * width, channels)


def enlarge(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Repeats every pixel of [H, W, C] `scale` times in both directions."""
    return image if scale == 1 else image.repeat(scale, axis=0).repeat(scale, axis=1)
