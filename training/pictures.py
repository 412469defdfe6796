"""Images as pictures: tiles of a grid, pixels enlarged to squares that a person sees, and films of pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

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


def save_film(
    frames: Sequence[Image.Image], to: Path | IO[bytes], *, kind: str = "GIF", durations: int | list[int]
) -> None:
    """Writes pictures of one size as a film that begins anew for ever.

    Args:
        frames: one or more; a GIF has 256 colours a frame (greys stay exact), a WebP is lossless.
        kind: GIF or WEBP.
        durations: milliseconds of each frame, or of all.
    """
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    first, *others = frames
    first.save(to, kind, save_all=True, append_images=others, duration=durations, loop=0, **options)
