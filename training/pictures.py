"""Images as pictures: tiles of a grid, pixels enlarged to squares that a person sees."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ENLARGEMENT = 2


def tile(images: NDArray[np.uint8], *, columns: int) -> NDArray[np.uint8]:
    """Images [N, C, H, W] row by row as one picture [rows · H, columns · W, C]; a last row may end in black."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    padded = np.zeros((rows * columns, channels, height, width), np.uint8)
    padded[:n] = images
    grid = padded.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    return grid.reshape(rows * height, columns * width, channels)


def to_picture(pixels: NDArray[np.uint8], enlargement: int = 1) -> Image.Image:
    """A Pillow image of pixels [H, W, C] with one or three channels, each pixel `enlargement` wide and high."""
    pixels = pixels.repeat(enlargement, axis=0).repeat(enlargement, axis=1)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
