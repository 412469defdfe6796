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

SLOW, INCOMPLETE, NOT_READING = 80, 60, 60  # clients that send byte by byte, send half a request, read no reply
BODY = json.dumps({"digits": 7, "seed": 3}).encode()


@pytest.mark.soak_on_torchserve
def test_two_hundred_slow_clients_do_not_delay_another_client(own: Running) -> None:
    """The slow clients send their next byte only after the other client has its reply; if the reply had to wait for
    them, it would never come."""
    watch = Watch(own)
    workers = watch.workers()
    with ExitStack() as stack:
        slow = [stack.enter_context(Wire(own.url)) for _ in range(SLOW)]
        incomplete = [stack.enter_context(Wire(own.url)) for _ in range(INCOMPLETE)]
        not_reading = [stack.enter_context(Wire(own.url, buffer=4_096)) for _ in range(NOT_READING)]
        for wire in incomplete:
            wire.send(request(body=BODY, headers=[JSON])[:-5])
        for wire in not_reading:
            wire.send(_large_request())
        for wire in not_reading:  # their replies are sent, and wait to be read
            assert select.select([wire.socket], [], [], PATIENCE)[0]
        for byte in request(body=BODY, headers=[JSON])[:-5]:
            for wire in slow:
                wire.send(bytes([byte]))
            assert http.post(f"{own.url}/predictions/digits", json={"digits": 7}).status_code == 200
        assert not select.select([wire.socket for wire in (*slow, *incomplete)], [], [], 0)[0], (
            "no connection was closed or answered"
        )
    assert watch.workers() == workers


def test_aborted_requests_restart_no_worker(served: Running) -> None:
    workers = Watch(served).workers()
    complete = request(body=BODY, headers=[JSON])
    for cut in range(1, len(complete) + 1, 7):
        with Wire(served.url) as wire:
            wire.send(complete[:cut])
    for _ in range(20):
        with Wire(served.url, buffer=4_096) as wire:
            wire.send(_large_request())  # the client closes the connection before the reply
    assert http.post(f"{served.url}/predictions/digits", content=BODY).status_code == 200
    assert Watch(served).workers() == workers


def _large_request() -> bytes:
    return request(body=b'{"count": 256, "scale": 3}', headers=[JSON, ("Accept", "application/x-npz")])
