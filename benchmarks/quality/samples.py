"""The picture samples.png of `ganctl bench quality`: a row of images of each system, with its name."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ganctl.common.pixels import enlarge, tile
from ganctl.training.images.pictures import encode

_MIN_SIDE = 48  # pixels of an image in the picture
_FONT = 18
_GAP = 4  # pixels between rows and around names


def samples_picture(rows: Sequence[tuple[str, NDArray[np.uint8]]]) -> bytes:
    """Draws a PNG with the images of each name in a row.

    Args:
        rows: names, and images of one shape, straight uint8 [N, H, W, C]; images with alpha are shown on white.
    """
    font = ImageFont.load_default(_FONT)
    scale = -(-_MIN_SIDE // rows[0][1].shape[1])
    strips = [_strip(enlarge(images, scale)) for _, images in rows]
    margin = max(int(font.getlength(name)) for name, _ in rows) + 2 * _GAP
    height = strips[0].height + _GAP
    picture = Image.new("RGB", (margin + max(strip.width for strip in strips), height * len(rows) - _GAP), "white")
    draw = ImageDraw.Draw(picture)
    for i, ((name, _), strip) in enumerate(zip(rows, strips, strict=True)):
        draw.text((margin - _GAP, i * height + strip.height // 2), name, "black", font, anchor="rm")
        picture.paste(strip, (margin, i * height))
    return encode(picture, "PNG", optimize=True)


def _strip(images: NDArray[np.uint8]) -> Image.Image:
    """One row of images on white, in RGB."""
    row = tile(images, len(images))
    if row.shape[-1] < 4:
        return Image.fromarray(row if row.shape[-1] == 3 else row[..., 0]).convert("RGB")
    white = Image.new("RGBA", row.shape[1::-1], "white")
    white.alpha_composite(Image.fromarray(row))
    return white.convert("RGB")
