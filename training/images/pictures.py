"""Images as pictures: tiles of a grid, pixels enlarged to squares that a person sees, and films of pictures."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ganctl.common import pixels

ENLARGEMENT = 2


def tile(images: NDArray[np.uint8], *, columns: int) -> NDArray[np.uint8]:
    """Images [N, C, H, W] row by row as one picture [rows · H, columns · W, C]; a last row may end in black."""
    return pixels.tile(images.transpose(0, 2, 3, 1), columns)


def to_picture(image: NDArray[np.uint8], enlargement: int = 1) -> Image.Image:
    """A Pillow image of pixels [H, W, C] with one or three channels, each pixel `enlargement` wide and high."""
    image = pixels.enlarge(image, enlargement)
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def encode(picture: Image.Image, kind: str) -> bytes:
    """A picture as the bytes of a PNG or a lossless WebP file.

    In memory: Pillow's own writing to a file does not say why the disk refused it.
    """
    buffer = io.BytesIO()
    options: dict[str, Any] = {"lossless": True} if kind.upper() == "WEBP" else {}
    picture.save(buffer, kind.upper(), **options)
    return buffer.getvalue()


def encode_film(frames: Sequence[Image.Image], *, kind: str = "GIF", durations: int | list[int]) -> bytes:
    """Pictures of one size as the bytes of a film that begins anew for ever.

    Args:
        frames: one or more; a GIF has 256 colours a frame (greys stay exact), a WebP is lossless.
        kind: GIF or WEBP.
        durations: milliseconds of each frame, or of all.
    """
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    first, *others = frames
    buffer = io.BytesIO()
    first.save(buffer, kind, save_all=True, append_images=others, duration=durations, loop=0, **options)
    return buffer.getvalue()
