"""Sends hostile requests among valid ones, and collects every reply that breaks the contract."""

import contextlib
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.integration.serving.hostile import hostile, valid
from tests.integration.serving.hostile_kinds import Hostile
from tests.integration.serving.known_failures import is_known
from tests.integration.serving.wire import Broken, Reply, Wire
from tests.waiting import PATIENCE

_THREADS = 4
_A_MOMENT = 0.1  # seconds; how long is waited for an answer that need not come


def fuzz(url: str, seed: int, count: int) -> list[str]:
    """Sends `count` requests, every fifth of them a good one, and gives what was wrong with the answers."""
    with ThreadPoolExecutor(_THREADS) as threads:
        parts = [threads.submit(_fuzz, url, f"{seed}/{part}", count // _THREADS) for part in range(_THREADS)]
        return [complaint for part in parts for complaint in part.result()]


def _fuzz(url: str, seed: str, count: int) -> list[str]:
    rng = random.Random(seed)
    complaints = []
    for place in range(count):
        sent = valid(rng) if place % 5 == 0 else hostile(rng)
        told = f"{sent.kind} of {seed}, request {place}: {sent.data[:200]!r}"
        complaints += [f"{complaint}; {told}" for complaint in _complaints(url, sent)]
    return complaints


def _complaints(url: str, sent: Hostile) -> Iterator[str]:
    try:
        reply = _exchange(url, sent)
    except Broken as error:
        yield f"broken reply: {error}"
        return
    except TimeoutError:
        if sent.answered:
            yield "no reply in time"
        return
    if reply is None:
        if sent.answered:
            yield "closed without a reply"
    elif sent.kind == "valid" and reply.status != 200:
        yield f"status {reply.status} for a good request: {reply.body[:200]!r}"
    elif reply.status >= 500 and not is_known(reply.status, reply.body):
        yield f"status {reply.status}: {reply.body[:200]!r}"


def _exchange(url: str, sent: Hostile) -> Reply | None:
    """The reply; None where the connection was closed instead."""
    with Wire(url, PATIENCE if sent.answered else _A_MOMENT) as wire:
        with contextlib.suppress(ConnectionError):  # refused before it was read to its end; that is read all the same
            wire.send(sent.data)
        return wire.read()
