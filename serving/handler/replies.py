"""Encoders of a request's images, one for each media type."""

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import png
from .common.pixels import enlarge, tile
from .model import Model
from .request import Request

_FRAME_MS = 50  # duration of a film's frame: 20 frames per second

Pixels = NDArray[np.uint8]


def encode(request: Request, images: Pixels, model: Model) -> bytes:
    """Encode images, uint8 [N, H, W, C], as a body of the type `request.media`."""
    return _ENCODERS[request.media](request, images, model)


def _png(request: Request, images: Pixels, model: Model) -> bytes:
    return png.encode(enlarge(tile(images, request.columns), request.scale))


def _json(request: Request, images: Pixels, model: Model) -> bytes:
    labels = request.labels or (None,) * len(images)
    pngs = [base64.b64encode(png.encode(enlarge(image, request.scale))).decode() for image in images]
    members = [{"label": label, "png": data} for label, data in zip(labels, pngs, strict=True)]
    record = {"model_version": model.version, "seed": request.seed, "images": members}
    return json.dumps(record, separators=(",", ":")).encode()


def _npz(request: Request, images: Pixels, model: Model) -> bytes:
    """The arrays that `ganctl sample` writes, with `seed` and `model_version`.

    `images` is uint8 [N, H, W] or [N, H, W, 3]. A conditional model has `labels`, int64 [N].
    """
    large = images.repeat(request.scale, axis=1).repeat(request.scale, axis=2)
    arrays: dict[str, Any] = {"images": large[..., 0] if model.channels == 1 else large}
    if request.labels is not None:
        arrays["labels"] = np.array(request.labels, np.int64)
    file = io.BytesIO()
    np.savez(file, seed=np.int64(request.seed), model_version=np.str_(model.version), **arrays)
    return file.getvalue()


def _webp(request: Request, images: Pixels, model: Model) -> bytes:
    # lossless at the lowest effort: a higher one takes ten times as long and saves a tenth of the bytes
    return _pillow(request, images, "WEBP", lossless=True, quality=0, method=0)


def _gif(request: Request, images: Pixels, model: Model) -> bytes:
    return _pillow(request, images, "GIF")


def _pillow(request: Request, images: Pixels, file_format: str, **options: object) -> bytes:
    """One picture, or an endlessly looping film if the request has `frames`."""
    pictures = [
        Image.fromarray(np.squeeze(enlarge(tile(frame, request.columns), request.scale)))
        for frame in np.split(images, request.frames or 1)
    ]
    if request.frames:
        options |= {"save_all": True, "append_images": pictures[1:], "duration": _FRAME_MS, "loop": 0}
    file = io.BytesIO()
    pictures[0].save(file, file_format, **options)
    return file.getvalue()


_ENCODERS: dict[str, Callable[[Request, Pixels, Model], bytes]] = {
    "image/png": _png,
    "application/json": _json,
    "image/webp": _webp,
    "image/gif": _gif,
    "application/x-npz": _npz,
}
