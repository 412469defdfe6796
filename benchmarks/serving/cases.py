"""Requests that `ganctl bench serve` sends to every server: one image or 64, over 1 to 128 connections."""

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image

from ganctl.benchmarks.errors import BenchError
from ganctl.benchmarks.serving import load

GRID = 64  # images
SIZE = 28  # pixels, width and height of an image
LARGE_GRID, LARGE_GRID_CONNECTIONS = 256, 2
CONNECTIONS = {"GET": (1, 16, 64, 128), "POST": (1, 16, 64, 128), "JSON": (64,), "grid": (16,), "beside": (16,)}
DESCRIPTIONS = {
    "GET": "one image, without a body",
    "POST": 'one image, with {"digits": d}, d from 0 to 9 in turn',
    "JSON": "the same as POST, with JSON in the Accept header",
    "grid": f'{GRID} images in one PNG, with {{"count": {GRID}}}',
    "beside": f"the same as POST, while {LARGE_GRID_CONNECTIONS} other connections ask for grids of {LARGE_GRID}",
}
_BODIES: Mapping[str, list[dict[str, int]]] = {"GET": [], "grid": [{"count": GRID}]}
_DIGITS = [{"digits": digit} for digit in range(10)]


@dataclass(frozen=True)
class Case:
    """Requests of one kind (a key of `DESCRIPTIONS`) over a number of connections."""

    kind: str
    connections: int

    @property
    def images(self) -> int:
        """Images per request."""
        return GRID if self.kind == "grid" else 1

    def requests(self, path: str) -> list[bytes]:
        """Returns the requests to send in turn, as bytes."""
        bodies = [json.dumps(body).encode() for body in self._bodies]
        return [load.post(path, body, self._accept) for body in bodies] or [load.get(path, self._accept)]

    @property
    def background(self) -> list[bytes]:
        """Bodies that LARGE_GRID_CONNECTIONS other connections send at the same time."""
        return [json.dumps({"count": LARGE_GRID}).encode()] if self.kind == "beside" else []

    def check(self, url: str) -> None:
        """Sends one request and checks that the reply holds the requested images.

        Raises:
            BenchError: it does not.
        """
        body = self._bodies[0] if self._bodies else None
        reply = httpx.request(
            "POST" if body else "GET", url, json=body, headers={"Accept": self._accept}, timeout=30, trust_env=False
        )
        source = f"{self.kind} {url}"
        if reply.status_code != 200:
            raise BenchError(f"{source}: found status {reply.status_code}, expected 200: {reply.text[:200]}")
        if self.kind == "JSON":
            if not _has_one_image(reply):
                raise BenchError(f"{source}: expected one image in the JSON, found {reply.text[:200]}")
            return
        side = math.isqrt(self.images) * SIZE
        with Image.open(io.BytesIO(reply.content)) as image:
            if (image.format, *image.size) != ("PNG", side, side):
                raise BenchError(f"{source}: found {image.format}, {image.size}, expected a PNG of {side} × {side}")

    @property
    def _bodies(self) -> list[dict[str, int]]:
        return _BODIES.get(self.kind, _DIGITS)

    @property
    def _accept(self) -> str:
        return "application/json" if self.kind == "JSON" else "image/png"


def _has_one_image(reply: httpx.Response) -> bool:
    try:
        record: Any = reply.json()
        return len(record["images"]) == 1
    except (ValueError, KeyError, TypeError):
        return False


def cases() -> list[Case]:
    """Returns all cases: each kind with each of its numbers of connections."""
    return [Case(kind, connections) for kind, numbers in CONNECTIONS.items() for connections in numbers]
