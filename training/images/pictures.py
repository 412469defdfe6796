"""Converts image arrays into picture and animation files: tiles, enlarges and encodes them."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ganctl.common import pixels

ENLARGEMENT = 2


def tile(images: NDArray[np.uint8], *, columns: int) -> NDArray[np.uint8]:
    """Arranges images [N, C, H, W] row by row in one picture [rows · H, columns · W, C]; empty tiles are black."""
    return pixels.tile(images.transpose(0, 2, 3, 1), columns)


def to_picture(image: NDArray[np.uint8], enlargement: int = 1) -> Image.Image:
    """Converts pixels [H, W, 1 or 3] to a Pillow image; each pixel becomes a square of `enlargement` pixels."""
    image = pixels.enlarge(image, enlargement)
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def encode(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """Encodes a picture as a PNG, GIF or lossless WebP file, with options of Pillow.

    In memory, because Pillow hides the cause of a failed write to a file.
    """
    buffer = io.BytesIO()
    picture.save(buffer, kind.upper(), **({"lossless": True} if kind.upper() == "WEBP" else {}), **options)
    return buffer.getvalue()


def encode_animation(frames: Sequence[Image.Image], *, kind: str = "GIF", durations: int | list[int]) -> bytes:
    """Encodes pictures of one size as an endlessly repeated animation.

    Args:
        frames: one or more pictures; a GIF has 256 colors per frame (grays stay exact), a WebP is lossless.
        kind: GIF or WEBP.
        durations: milliseconds of each frame, or of all frames.
    """
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=durations, loop=0)
