"""A limit of requests per second for each key, shared by all workers of a server."""

import hashlib
import math
import mmap
import struct
import time
from collections.abc import Callable
from pathlib import Path

_BUCKET = struct.Struct("<dd")  # tokens, and when they were counted
_SLOTS = 4096  # a key has the slot of its digest; two keys hardly ever share one


def create_rate_file(path: Path) -> None:
    """Writes the file that the workers share."""
    path.write_bytes(bytes(_BUCKET.size * _SLOTS))


class RateLimit:
    """Token buckets: a key may send `rate` requests per second, and as many at once.

    Workers change a bucket without a lock. Two of them may take the same token, so a key sometimes gets a little more.
    """

    def __init__(self, path: Path, rate: float, now: Callable[[], float] = time.monotonic) -> None:
        """Opens the file of `create_rate_file`.

        Args:
            path: the file.
            rate: requests per second.
            now: the time in seconds; the same clock in all workers.
        """
        self._rate, self._burst, self._now = rate, max(1.0, rate), now
        with path.open("r+b") as file:
            self._buckets = mmap.mmap(file.fileno(), 0)

    def seconds_to_wait(self, key: str) -> int:
        """Takes a token of the key; returns 0, or the whole seconds after which there is one."""
        slot = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % _SLOTS * _BUCKET.size
        tokens, counted = _BUCKET.unpack_from(self._buckets, slot)
        now = self._now()
        tokens = min(self._burst, tokens + (now - counted) * self._rate) if counted else self._burst
        allowed = tokens >= 1
        _BUCKET.pack_into(self._buckets, slot, tokens - allowed, now)
        return 0 if allowed else math.ceil((1 - tokens) / self._rate)
