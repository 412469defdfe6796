"""Clients that are slow, or stop in the middle, cost nobody else anything."""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from .conftest import Running
from .hostile_kinds import JSON
from .watch import Watch
from .wire import Wire, request

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

SLOW, HALF, DEAF = 80, 60, 60
SECONDS = 6
BODY = json.dumps({"digits": 7, "seed": 3}).encode()


def test_two_hundred_slow_and_half_open_clients_keep_nobody_waiting(own: Running) -> None:
    watch = Watch(own)
    workers = watch.workers()
    with ExitStack() as stack:
        slow = [stack.enter_context(Wire(own.url)) for _ in range(SLOW)]
        for _ in range(HALF):
            stack.enter_context(Wire(own.url)).send(request(body=BODY, headers=[JSON])[:-5])
        for _ in range(DEAF):
            stack.enter_context(Wire(own.url, buffer=4_096)).send(_large_request())
        stack.enter_context(_a_byte_a_second(slow))
        time.sleep(3)  # what the deaf ones ask for is drawn all the same
        latencies = _latencies_of_a_good_client(own.url)
    assert len(latencies) > 50
    assert max(latencies) < 3  # a busy machine may be slow; the slow clients take a minute and more
    assert watch.workers() == workers


def test_who_breaks_off_in_the_middle_harms_nobody(served: Running) -> None:
    workers = Watch(served).workers()
    whole = request(body=BODY, headers=[JSON])
    for cut in range(1, len(whole) + 1, 7):
        with Wire(served.url) as wire:
            wire.send(whole[:cut])
    for _ in range(20):
        with Wire(served.url, buffer=4_096) as wire:
            wire.send(_large_request())  # gone before the reply is
    assert httpx.post(f"{served.url}/predictions/digits", content=BODY).status_code == 200
    assert Watch(served).workers() == workers


def _large_request() -> bytes:
    return request(body=b'{"count": 256, "scale": 3}', headers=[JSON, ("Accept", "application/x-npz")])


@contextlib.contextmanager
def _a_byte_a_second(wires: list[Wire]) -> Iterator[None]:
    """Each sends one byte of a request's head in every second of the block."""
    over = threading.Event()

    def send() -> None:
        for byte in request(body=BODY, headers=[JSON]):
            for wire in wires:
                wire.send(bytes([byte]))
            if over.wait(1):
                return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _latencies_of_a_good_client(url: str) -> list[float]:
    """Seconds from request to reply, each on a connection of its own."""
    latencies = []
    ends = time.monotonic() + SECONDS
    while (start := time.monotonic()) < ends:
        assert httpx.post(f"{url}/predictions/digits", json={"digits": 7}, timeout=20).status_code == 200
        latencies.append(time.monotonic() - start)
    return latencies
