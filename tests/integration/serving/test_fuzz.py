"""Hostile requests get a correct reply and have no lasting effect on the server."""

import json
import sys

import pytest

from tests import http
from tests.integration.serving.conftest import PROJECT, Running
from tests.integration.serving.fuzz import fuzz
from tests.integration.serving.known_failures import KNOWN
from tests.integration.serving.watch import Watch
from tests.integration.serving.wire import Wire, request

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

SEEDED = {"digits": [3, 1, 4], "count": 9, "seed": 2_026, "scale": 2}


@pytest.mark.parametrize(
    ("first", "then"),
    [(1_000, 3_000), pytest.param(40_000, 90_000, marks=[pytest.mark.soak, pytest.mark.timeout(3_600)])],
)
def test_hostile_requests_make_no_5xx_and_leave_the_server_as_it_was(own: Running, first: int, then: int) -> None:
    watch = Watch(own)
    workers, expected = watch.workers(), _seeded(own)
    assert fuzz(own.url, 1, first) == []
    before = watch.memory()  # from here on: caches are full, and memory that comes in large pages of 2 MiB is there
    assert fuzz(own.url, 2, then) == []
    after = watch.memory()
    assert watch.workers() == workers, "none was started anew"
    assert watch.ready() == 2
    assert _seeded(own) == expected
    assert after.heap - before.heap < 2, "MiB; 40,000 requests leave 0.1"
    assert after.worker - before.worker < 8, "MiB; 18,000 requests leave 0.5"
    assert after.java - before.java < 256


def test_the_services_page_lists_what_torchserve_fails_on() -> None:
    page = (PROJECT / "docs/service.md").read_text("utf-8")
    assert [name for name in KNOWN if f"`{name}`" not in page] == []


def test_the_list_of_torchserves_failures_holds_nothing_that_it_masters(served: Running) -> None:
    form = "application/x-www-form-urlencoded"
    part = b"--\r\nContent-Disposition: form-data\r\n\r\n--"
    failing = {
        "ErrorDataDecoderException": request(body=b"seed=%zz", headers=[("Content-Type", form)]),
        "StringIndexOutOfBoundsException": request(
            body=part, headers=[("Content-Type", "multipart/form-data; boundary=; charset=utf-8")]
        ),
        "ArrayIndexOutOfBoundsException": request(target="*"),
    }
    assert set(failing) == set(KNOWN)
    for name, data in failing.items():
        with Wire(served.url) as wire:
            wire.send(data)
            reply = wire.read()
            assert reply is not None
            assert (reply.status, json.loads(reply.body).get("type")) == (500, name)


def _seeded(server: Running) -> bytes:
    reply = http.post(f"{server.url}/predictions/digits", json=SEEDED)
    assert reply.status_code == 200
    return reply.content
