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
    """Arranges images [N, C, H, W] row by row in one picture [rows · H, columns · W, C].

    Empty tiles are black, or transparent with four channels.
    """
    return pixels.tile(images.transpose(0, 2, 3, 1), columns)


def straight(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Divides the colors of pixels [H, W, C] by alpha, if they have four channels; the inverse of premultiplication."""
    if image.shape[-1] != 4:
        return image
    alpha = image[..., 3:].astype(np.int32)
    colors = np.minimum((image[..., :3].astype(np.int32) * 255 + alpha // 2) // np.maximum(alpha, 1), 255)
    return np.concatenate([colors, alpha], axis=-1).astype(np.uint8)


def to_picture(image: NDArray[np.uint8], enlargement: int = 1) -> Image.Image:
    """Converts pixels [H, W, 1, 3 or 4] to a Pillow image; each pixel becomes a square of `enlargement` pixels."""
    image = pixels.enlarge(image, enlargement)
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def encode(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """Encodes a picture as a PNG, GIF or lossless WebP file, with options of Pillow.

    In memory, because Pillow hides the cause of a failed write to a file.
    """
    buffer = io.BytesIO()
    picture.save(buffer, kind.upper(), **(({"lossless": True} if kind.upper() == "WEBP" else {}) | options))
    return buffer.getvalue()


def encode_animation(frames: Sequence[Image.Image], *, kind: str = "GIF", durations: int | list[int]) -> bytes:
    """Encodes pictures of one size as an endlessly repeated animation.

    Args:
        frames: one or more pictures; a GIF has 256 colors per frame (grays stay exact) and no partial transparency, a
            WebP is lossless.
        kind: GIF or WEBP.
        durations: milliseconds of each frame, or of all frames.
    """
    options: dict[str, Any] = {"save_all": True, "duration": durations, "loop": 0}
    if kind.upper() == "GIF" and frames[0].mode == "RGBA":
        frames = [Image.fromarray(pixels.binary_alpha(np.asarray(frame))) for frame in frames]
        options["disposal"] = 2  # clears a frame before the next one is shown
    return encode(frames[0], kind, append_images=frames[1:], **options)
