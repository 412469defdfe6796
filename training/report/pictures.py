"""Pictures inside the page: as WebP in a data URI, lossless where that is small enough."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from ganctl.training.errors import DataError
from ganctl.training.images.pictures import ENLARGEMENT, encode, encode_animation
from ganctl.training.report.html import Html, element

T = TypeVar("T")

_QUALITY = 90  # of a picture that would be too large without loss
_FAST = 2  # effort of the encoder, 0 to 6
_MIN_SIDE = 64  # pixels; a picture is not reduced further
_FRAME_MS, _LAST_FRAME_MS = 250, 2000
_MAX_FRAMES, _MIN_FRAMES = 60, 8
_WEBP_SIDE = 16_383  # pixels; limit of the format
_ENLARGED = 400  # pixels; a wider picture is shown in its own size
_SCROLLS = 1000  # pixels; a wider picture scrolls in its own box
_LOSSLESS_PIXELS = 400_000  # lossless encoding takes about a second per million pixels


def open_grid(path: Path) -> Image.Image:
    """Opens a grid of `samples/`, without the enlargement with which it was written.

    Raises:
        DataError: the file is damaged.
    """
    try:
        with Image.open(path) as picture:
            grid = picture.convert("RGBA" if "A" in picture.getbands() or "transparency" in picture.info else "RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a complete picture ({error})") from error
    if min(grid.size) < ENLARGEMENT:
        return grid
    small = grid.resize((grid.width // ENLARGEMENT, grid.height // ENLARGEMENT), Image.Resampling.NEAREST)
    restored = small.resize((small.width * ENLARGEMENT, small.height * ENLARGEMENT), Image.Resampling.NEAREST)
    return small if restored.size == grid.size and np.array_equal(np.asarray(restored), np.asarray(grid)) else grid


def picture_element(picture: Image.Image, alt: str, *, limit: int) -> Html:
    """Returns an `img` of a picture, of at most about `limit` bytes; a small picture is shown twice as large."""
    data, scale = _encode(picture, limit), _scale(picture)
    wide = picture.width * scale > _SCROLLS
    image = element(
        "img", src=_data_uri(data), alt=alt, width=picture.width * scale, height=picture.height * scale,
        class_="wide" if wide else None,
    )  # fmt: skip
    return element("div", image, class_="scroll", tabindex=0, role="region", aria_label=alt) if wide else image


def animation_element(paths: Sequence[Path], alt: str, *, limit: int) -> Html | None:
    """Returns a `picture` that shows grids of `samples/` one after the other; None for fewer than two equal sizes.

    A browser whose user wants less motion shows the last one.
    """
    chosen = _spread(paths, _MAX_FRAMES)
    frames = [open_grid(path) for path in chosen]
    while frames and max(frames[-1].size) > _WEBP_SIDE:
        frames = [frame.reduce(2) for frame in frames]
    frames = [frame for frame in frames if frame.size == frames[-1].size]
    if len(frames) < 2:
        return None
    while len(data := _encode_frames(frames)) > limit and min(frames[0].size) > _MIN_SIDE:
        if len(frames) > _MIN_FRAMES:
            frames = _spread(frames, max(_MIN_FRAMES, len(frames) * limit // len(data)))
        else:
            frames = [frame.reduce(2) for frame in frames]
    still = element(
        "source", srcset=_data_uri(_encode(frames[-1], limit)), media="(prefers-reduced-motion: reduce), print"
    )
    last = open_grid(chosen[-1])
    width, height = (side * _scale(last) for side in last.size)
    return element("picture", still, element("img", src=_data_uri(data), alt=alt, width=width, height=height))


def _scale(picture: Image.Image) -> int:
    return ENLARGEMENT if picture.width <= _ENLARGED else 1


def _encode(picture: Image.Image, limit: int) -> bytes:
    while max(picture.size) > _WEBP_SIDE:
        picture = picture.reduce(2)
    small = picture.width * picture.height <= _LOSSLESS_PIXELS
    data = encode(picture, "webp", method=_FAST) if small else b""
    if not data or len(data) > limit:
        data = _lossy(picture)
    while len(data) > limit and min(picture.size) > _MIN_SIDE:
        picture = picture.reduce(2)
        data = _lossy(picture)
    return data


def _lossy(picture: Image.Image) -> bytes:
    return encode(picture, "webp", lossless=False, quality=_QUALITY, method=_FAST)


def _encode_frames(frames: Sequence[Image.Image]) -> bytes:
    return encode_animation(frames, kind="WEBP", durations=[_FRAME_MS] * (len(frames) - 1) + [_LAST_FRAME_MS])


def _spread(items: Sequence[T], count: int) -> list[T]:
    """Returns `count` evenly spread items, the first and the last among them; all, if there are not more."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _data_uri(data: bytes) -> Html:
    return Html(f"data:image/webp;base64,{base64.b64encode(data).decode()}")
