"""Types and helpers of all kinds of hostile requests."""

import random
from dataclasses import dataclass
from typing import Any

JSON = ("Content-Type", "application/json")
FIELDS = ("digits", "labels", "text", "count", "seed", "truncation", "scale", "layout", "frames")


@dataclass(frozen=True)
class Hostile:
    """A request as it goes over the wire."""

    kind: str
    data: bytes
    answered: bool = True  # whether there must be a reply; else there may be none, as the request may have no end


def fields(rng: random.Random) -> dict[str, Any]:
    """What a good client asks for."""
    asked: dict[str, Any] = {"digits": rng.randrange(10), "seed": rng.randrange(2**53)}
    if rng.random() < 0.5:
        asked |= {"count": rng.randint(1, 9), "scale": rng.randint(1, 3)}
    return asked
