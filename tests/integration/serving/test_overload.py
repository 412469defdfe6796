"""Overload: excess requests get a prompt 503, accepted ones are answered."""

import functools
import json
import os
import resource
import select
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ganctl.serving.client.client import Client
from ganctl.serving.handler.model import Limits
from tests import http
from tests.integration.serving.conftest import Running, stop
from tests.integration.serving.hostile_kinds import JSON
from tests.integration.serving.watch import Watch
from tests.integration.serving.wire import Wire, request
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

QUEUE, TAKEN = 1_024, 2 * 64  # what waits in the queue, and what two workers have taken out of it at most
EXCESS = 100
A_BATCH = Limits().max_batch  # of the largest requests, however the front end divides them among batches


@pytest.fixture
def many_files() -> Iterator[None]:
    """Room for some thousand connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4_096:
        pytest.skip(f"this system lets a process have {hard} files; the test needs 4,096")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4_096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_a_full_queue_refuses_the_excess_with_503_and_loses_nothing_that_it_took(own: Running) -> None:
    watch = Watch(own)
    workers = watch.workers()
    wires = [Wire(own.url) for _ in range(QUEUE + TAKEN + EXCESS)]
    try:
        for pid in workers:
            stop(pid)
        for seed, wire in enumerate(wires):
            wire.send(request(body=json.dumps({"seed": seed}).encode(), headers=[JSON]))
        refused = _refused_while_nobody_draws(wires)
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        replies = [wire.read() for wire in wires]
    finally:
        for wire in wires:
            wire.close()
    statuses = Counter(reply.status if reply else None for reply in replies)
    assert set(statuses) == {200, 503}, "each gets a whole reply"
    assert EXCESS <= refused <= statuses[503] <= EXCESS + TAKEN
    for seed, reply in enumerate(replies):
        assert reply is not None
        if reply.status == 200:
            assert reply.headers["x-seed"] == str(seed)
        else:
            assert reply.headers["content-type"] == "application/json"
            assert json.loads(reply.body)["code"] == 503
    assert http.get(f"{own.url}/predictions/digits").status_code == 200
    assert watch.workers() == workers


def _refused_while_nobody_draws(wires: list[Wire]) -> int:
    """How many have their answer although no worker moves, once the excess has."""
    poll = select.poll()
    for wire in wires:
        poll.register(wire.socket, select.POLLIN)

    def answered() -> int:
        many = len(poll.poll(0))
        return many if many >= EXCESS else 0

    return wait_for(answered, f"the excess of {EXCESS} is refused")


def test_many_large_replies_at_once_end_no_worker(own: Running) -> None:
    watch = Watch(own)
    workers = watch.workers()
    large = {"count": 256, "scale": 5, "seed": 1}  # five million bytes
    post = functools.partial(http.post, f"{own.url}/predictions/digits")
    with ThreadPoolExecutor(64) as threads:
        asked = [threads.submit(post, json=large, headers={"Accept": "application/x-npz"}) for _ in range(64)]
        replies = [future.result() for future in asked]
    statuses = Counter(reply.status_code for reply in replies)
    assert set(statuses) <= {200, 429}
    assert statuses[200] >= A_BATCH
    assert len({reply.content for reply in replies if reply.status_code == 200}) == 1
    assert watch.workers() == workers


def test_the_client_waits_for_its_turn_among_many_large_requests(own: Running) -> None:
    def ask(seed: int) -> int:
        with Client(own.url, timeout=PATIENCE) as client:
            return len(client.picture(count=256, scale=9, seed=seed))

    with ThreadPoolExecutor(32) as threads:
        assert min(threads.map(ask, range(32))) > 10_000
