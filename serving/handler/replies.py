"""Replies, and the encoders of a request's images, one for each media type."""

import base64
import io
import json
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import png
from .common.pixels import binary_alpha, enlarge, tile, to_npz_layout
from .model import Model
from .request import Request

_FRAME_MS = 50  # duration of an animation's frame: 20 frames per second

Pixels = NDArray[np.uint8]


class Reply(NamedTuple):  # a frozen dataclass takes a microsecond more for each reply
    """The HTTP reply to one request."""

    status: int
    media: str
    body: bytes
    headers: Mapping[str, str] = MappingProxyType({})
    error_fields: tuple[str, ...] = ()  # names of fields with errors; "unknown" for an unknown field


def encode(request: Request, images: Pixels, model: Model) -> bytes:
    """Encode images, uint8 [N, H, W, C], as a body of the type `request.media`."""
    return _ENCODERS[request.media](request, images, model)


def _png(request: Request, images: Pixels, model: Model) -> bytes:
    picture = images[0] if len(images) == 1 else tile(images, request.columns)
    return png.encode(enlarge(picture, request.scale))


def _json(request: Request, images: Pixels, model: Model) -> bytes:
    pngs = [base64.b64encode(png.encode(image)).decode() for image in enlarge(images, request.scale)]
    labels = request.labels or (None,) * len(images)
    members = [{"label": label, "png": data} for label, data in zip(labels, pngs, strict=True)]
    reply = {"model_version": model.version, "seed": request.seed, "images": members}
    return json.dumps(reply, separators=(",", ":")).encode()


def _npz(request: Request, images: Pixels, model: Model) -> bytes:
    """The arrays that `ganctl sample` writes, with `seed` and `model_version`.

    `images` is uint8 [N, H, W], or [N, C, H, W] with 3 or 4 channels. A conditional model has `labels`, int64 [N].
    """
    arrays: dict[str, Any] = {"images": to_npz_layout(enlarge(images, request.scale))}
    if request.labels is not None:
        arrays["labels"] = np.array(request.labels, np.int64)
    file = io.BytesIO()
    np.savez(file, seed=np.int64(request.seed), model_version=np.str_(model.version), **arrays)
    return file.getvalue()


def _pillow(request: Request, images: Pixels, model: Model, **options: Any) -> bytes:
    """One picture, or an endlessly looping animation if the request has `frames`; `options` are those of Pillow."""
    if request.media == "image/gif":
        images = binary_alpha(images)
    pictures = [
        Image.fromarray(np.squeeze(enlarge(tile(frame, request.columns), request.scale)))
        for frame in np.split(images, request.frames or 1)
    ]
    if request.frames:
        if request.media == "image/gif" and model.channels == 4:
            options["disposal"] = 2  # clears a frame before the next one is shown
        options |= {"save_all": True, "append_images": pictures[1:], "duration": _FRAME_MS, "loop": 0}
    file = io.BytesIO()
    pictures[0].save(file, **options)
    return file.getvalue()


_ENCODERS: dict[str, Callable[[Request, Pixels, Model], bytes]] = {
    "image/png": _png,
    "application/json": _json,
    # lossless at the lowest effort: a higher one takes ten times as long and saves a tenth of the bytes
    "image/webp": partial(_pillow, format="WEBP", lossless=True, quality=0, method=0),
    "image/gif": partial(_pillow, format="GIF"),
    "application/x-npz": _npz,
}
