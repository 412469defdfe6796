"""Requests that no client should send, byte by byte; the same ones for the same seed.

One at a time: several on their way at once are more than TorchServe can take (docs/service.md).
"""

import json
import random
from collections.abc import Callable

from tests.integration.serving import hostile_bodies, hostile_heads
from tests.integration.serving.hostile_kinds import JSON, Hostile, fields
from tests.integration.serving.wire import request

MEDIA = ("image/png", "image/webp", "image/gif", "application/json", "application/x-npz", "application/openapi+json")


def hostile(rng: random.Random) -> Hostile:
    """One of all kinds, drawn by `rng`."""
    return rng.choice((*_KINDS, _mutated))(rng)


def valid(rng: random.Random) -> Hostile:
    """A request as clients send it, small and of any type."""
    headers = [JSON, ("Accept", rng.choice(MEDIA))]
    return Hostile("valid", request(body=json.dumps(fields(rng)).encode(), headers=headers))


def _mutated(rng: random.Random) -> Hostile:
    """A valid request, or a hostile one, some bytes of which were changed, lost, repeated or added."""
    whole = valid(rng) if rng.random() < 0.5 else rng.choice(_KINDS)(rng)
    data = bytearray(whole.data[:20_000])
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) - 8)
        some = slice(at, at + rng.randint(1, 8))
        match rng.randrange(4):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                del data[some]
            case 2:
                data[at:at] = data[some] * rng.randint(1, 20)
            case 3:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
    return Hostile("mutated", bytes(data), answered=False)


_KINDS: tuple[Callable[[random.Random], Hostile], ...] = (*hostile_bodies.KINDS, *hostile_heads.KINDS)
