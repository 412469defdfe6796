"""What `ganctl bench serve` asks of every server: one image or 64, over 1 to 128 connections."""

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
SIZE = 28  # pixels, of an image's side
CONNECTIONS = {"GET": (1, 16, 64, 128), "POST": (1, 16, 64, 128), "JSON": (64,), "grid": (16,)}
WHAT = {
    "GET": "one image, without a body",
    "POST": 'one image, with {"digits": d}, d in turn 0 … 9',
    "JSON": "the same as POST, as JSON by its Accept header",
    "grid": f'{GRID} images in one PNG, with {{"count": {GRID}}}',
}
_BODIES: Mapping[str, list[dict[str, int]]] = {"GET": [], "grid": [{"count": GRID}]}
_DIGITS = [{"digits": digit} for digit in range(10)]


@dataclass(frozen=True)
class Case:
    """Requests of one kind (of `WHAT`), over so many connections."""

    kind: str
    connections: int

    @property
    def images(self) -> int:
        """How many one request is for."""
        return GRID if self.kind == "grid" else 1

    def requests(self, path: str) -> list[bytes]:
        """The bytes to send, in turn."""
        bodies = [json.dumps(body).encode() for body in self._bodies]
        return [load.post(path, body, self._accept) for body in bodies] or [load.get(path, self._accept)]

    def check(self, url: str) -> None:
        """Asks once, and looks at the answer: what is measured must be images, not refusals.

        Raises:
            BenchError: they are not what was asked for.
        """
        body = self._bodies[0] if self._bodies else None
        reply = httpx.request(
            "POST" if body else "GET", url, json=body, headers={"Accept": self._accept}, timeout=30, trust_env=False
        )
        told = f"{self.kind} {url} was answered {reply.status_code}"
        if reply.status_code != 200:
            raise BenchError(f"{told}: {reply.text[:200]}")
        if self.kind == "JSON":
            if not _has_one_image(reply):
                raise BenchError(f"{told}, with no image in its JSON: {reply.text[:200]}")
            return
        side = math.isqrt(self.images) * SIZE
        with Image.open(io.BytesIO(reply.content)) as image:
            if (image.format, *image.size) != ("PNG", side, side):
                raise BenchError(f"{told} with {image.format}, {image.size}; expected a PNG of {side} × {side}")

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


def cases(kinds: Mapping[str, tuple[int, ...]] = CONNECTIONS) -> list[Case]:
    """All of them, each kind over all of its numbers of connections."""
    return [Case(kind, connections) for kind, numbers in kinds.items() for connections in numbers]
