"""Hostile requests as raw bytes, reproducible by seed.

A connection sends one request at a time: TorchServe does not support pipelining (docs/service.md).
"""

import json
import random
from collections.abc import Callable

from tests.integration.serving import hostile_bodies, hostile_heads
from tests.integration.serving.hostile_kinds import JSON, Hostile, fields
from tests.integration.serving.wire import request

MEDIA = ("image/png", "image/webp", "image/gif", "application/json", "application/x-npz", "application/openapi+json")


def hostile(rng: random.Random) -> Hostile:
    """A random request of any kind."""
    return rng.choice((*_KINDS, _mutated))(rng)


def valid(rng: random.Random) -> Hostile:
    """A small valid request for a random media type."""
    headers = [JSON, ("Accept", rng.choice(MEDIA))]
    return Hostile("valid", request(body=json.dumps(fields(rng)).encode(), headers=headers))


def _mutated(rng: random.Random) -> Hostile:
    """A valid or hostile request in which some bytes are changed, removed, repeated or inserted."""
    original = valid(rng) if rng.random() < 0.5 else rng.choice(_KINDS)(rng)
    data = bytearray(original.data[:20_000])
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) - 8)
        part = slice(at, at + rng.randint(1, 8))
        match rng.randrange(4):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                del data[part]
            case 2:
                data[at:at] = data[part] * rng.randint(1, 20)
            case 3:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
    return Hostile("mutated", bytes(data), needs_reply=False)


_KINDS: tuple[Callable[[random.Random], Hostile], ...] = (*hostile_bodies.KINDS, *hostile_heads.KINDS)
