"""Slow and stalled clients do not delay other clients."""

import json
import select
import sys
from contextlib import ExitStack

import pytest

from tests import http
from tests.integration.serving.conftest import Running
from tests.integration.serving.hostile_kinds import JSON
from tests.integration.serving.watch import Watch
from tests.integration.serving.wire import Wire, request
from tests.waiting import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

SLOW, HALF, DEAF = 80, 60, 60
BODY = json.dumps({"digits": 7, "seed": 3}).encode()


def test_two_hundred_slow_and_half_open_clients_keep_nobody_waiting(own: Running) -> None:
    """The slow ones move on only when the good client has been answered: did it have to wait for them, it would do so
    for ever."""
    watch = Watch(own)
    workers = watch.workers()
    with ExitStack() as stack:
        slow = [stack.enter_context(Wire(own.url)) for _ in range(SLOW)]
        half = [stack.enter_context(Wire(own.url)) for _ in range(HALF)]
        deaf = [stack.enter_context(Wire(own.url, buffer=4_096)) for _ in range(DEAF)]
        for wire in half:
            wire.send(request(body=BODY, headers=[JSON])[:-5])
        for wire in deaf:
            wire.send(_large_request())
        for wire in deaf:  # what they ask for is drawn all the same, and waits to be read
            assert select.select([wire.socket], [], [], PATIENCE)[0]
        for byte in request(body=BODY, headers=[JSON])[:-5]:
            for wire in slow:
                wire.send(bytes([byte]))
            assert http.post(f"{own.url}/predictions/digits", json={"digits": 7}).status_code == 200
        assert not select.select([wire.socket for wire in (*slow, *half)], [], [], 0)[0], "none was closed or answered"
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
    assert http.post(f"{served.url}/predictions/digits", content=BODY).status_code == 200
    assert Watch(served).workers() == workers


def _large_request() -> bytes:
    return request(body=b'{"count": 256, "scale": 3}', headers=[JSON, ("Accept", "application/x-npz")])
