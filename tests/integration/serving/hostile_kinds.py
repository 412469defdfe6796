"""The type of a hostile request, and the valid fields that hostile requests start from."""

import random
from dataclasses import dataclass
from typing import Any

JSON = ("Content-Type", "application/json")
FIELDS = ("digits", "labels", "text", "count", "seed", "truncation", "scale", "layout", "frames")


@dataclass(frozen=True)
class Hostile:
    """The bytes of a request."""

    kind: str
    data: bytes
    needs_reply: bool = True  # False if the request may be incomplete, so that no reply need come


def fields(rng: random.Random) -> dict[str, Any]:
    """Random fields of a valid request."""
    body: dict[str, Any] = {"digits": rng.randrange(10), "seed": rng.randrange(2**53)}
    if rng.random() < 0.5:
        body |= {"count": rng.randint(1, 9), "scale": rng.randint(1, 3)}
    return body
