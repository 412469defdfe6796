"""Hostile requests get a correct reply and have no lasting effect on the server."""

import json
import sys

import pytest

from tests.integration.serving.conftest import PROJECT, Running
from tests.integration.serving.doors import seeded_image
from tests.integration.serving.fuzz import fuzz
from tests.integration.serving.known_failures import KNOWN
from tests.integration.serving.watch import Watch
from tests.integration.serving.wire import Wire, request

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.mark.parametrize(
    ("warm_up", "count"),
    [(500, 1_500), pytest.param(40_000, 90_000, marks=[pytest.mark.soak, pytest.mark.timeout(3_600)])],
)
@pytest.mark.soak_on_torchserve
def test_hostile_requests_cause_no_5xx_no_restart_and_no_memory_growth(own: Running, warm_up: int, count: int) -> None:
    watch = Watch(own)
    workers, expected = watch.workers(), seeded_image(own)
    assert fuzz(own.url, 1, warm_up) == []
    before = watch.memory()  # measured after the warm-up has filled caches and large pages of 2 MiB
    assert fuzz(own.url, 2, count) == []
    after = watch.memory()
    assert watch.workers() == workers, "no worker was restarted"
    assert watch.ready() == 2
    assert seeded_image(own) == expected
    assert after.heap - before.heap < 2, "MiB; 40,000 requests add about 0.1"
    assert after.worker - before.worker < 8, "MiB; 18,000 requests add about 0.5"
    assert after.java - before.java < 256


def test_the_service_page_lists_every_known_failure_of_torchserve() -> None:
    page = (PROJECT / "docs/service.md").read_text("utf-8")
    assert [name for name in KNOWN if f"`{name}`" not in page] == []


def test_every_known_failure_of_torchserve_still_occurs(torchserve: Running) -> None:
    form = "application/x-www-form-urlencoded"
    part = b"--\r\nContent-Disposition: form-data\r\n\r\n--"
    requests = {
        "ErrorDataDecoderException": request(body=b"seed=%zz", headers=[("Content-Type", form)]),
        "StringIndexOutOfBoundsException": request(
            body=part, headers=[("Content-Type", "multipart/form-data; boundary=; charset=utf-8")]
        ),
        "ArrayIndexOutOfBoundsException": request(target="*"),
    }
    assert set(requests) == set(KNOWN)
    for name, data in requests.items():
        with Wire(torchserve.url) as wire:
            wire.send(data)
            reply = wire.read()
            assert reply is not None
            assert (reply.status, json.loads(reply.body).get("type")) == (500, name)
