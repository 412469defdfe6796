"""Sends hostile requests among valid ones, and collects every reply that breaks the contract."""

import contextlib
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.integration.serving.hostile import hostile, valid
from tests.integration.serving.hostile_kinds import Hostile
from tests.integration.serving.known_failures import is_known
from tests.integration.serving.wire import BrokenReply, Reply, Wire
from tests.waiting import PATIENCE

_THREADS = 4
_SHORT_WAIT = 0.1  # seconds; for a request that may get no reply


def fuzz(url: str, seed: int, count: int) -> list[str]:
    """Sends `count` requests, every fifth of them valid; returns a description of each violation."""
    with ThreadPoolExecutor(_THREADS) as threads:
        parts = [threads.submit(_fuzz, url, f"{seed}/{part}", count // _THREADS) for part in range(_THREADS)]
        return [violation for part in parts for violation in part.result()]


def _fuzz(url: str, seed: str, count: int) -> list[str]:
    rng = random.Random(seed)
    violations = []
    for index in range(count):
        sent = valid(rng) if index % 5 == 0 else hostile(rng)
        description = f"{sent.kind} of {seed}, request {index}: {sent.data[:200]!r}"
        violations += [f"{violation}; {description}" for violation in _violations(url, sent)]
    return violations


def _violations(url: str, sent: Hostile) -> Iterator[str]:
    try:
        reply = _exchange(url, sent)
    except BrokenReply as error:
        yield f"broken reply: {error}"
        return
    except TimeoutError:
        if sent.needs_reply:
            yield "no reply in time"
        return
    if reply is None:
        if sent.needs_reply:
            yield "closed without a reply"
    elif sent.kind == "valid" and reply.status != 200:
        yield f"status {reply.status} for a valid request: {reply.body[:200]!r}"
    elif reply.status >= 500 and not is_known(reply.status, reply.body):
        yield f"status {reply.status}: {reply.body[:200]!r}"


def _exchange(url: str, sent: Hostile) -> Reply | None:
    """Sends a request; returns the reply, or None if the server closed the connection without one."""
    with Wire(url, PATIENCE if sent.needs_reply else _SHORT_WAIT) as wire:
        with contextlib.suppress(ConnectionError):  # refused before all of it was read; there may still be a reply
            wire.send(sent.data)
        return wire.read()
