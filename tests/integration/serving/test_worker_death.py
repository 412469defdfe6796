"""A worker dies under load: only its current batch is lost, it restarts, and clients retry unnoticed."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from ganctl.serving.client.client import Client
from tests import http
from tests.integration.serving.conftest import running
from tests.integration.serving.repeated import repeated
from tests.integration.serving.watch import Watch
from tests.unit.serving.gates import Gate
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

CLIENTS = 6  # of either kind
LOST_AFTER = 30.0  # seconds without a reply, after which a request counts as one that TorchServe has lost


def test_a_killed_worker_costs_its_own_requests_and_comes_back(gated: Path, gate: Gate, tmp_path: Path) -> None:
    failures: list[list[str]] = []  # of each client that asks once

    def asks_once() -> Callable[[], None]:
        client, mine = http.Client(base_url=server.url, timeout=LOST_AFTER), list[str]()
        failures.append(mine)

        def ask() -> None:
            try:
                reply = client.post("/predictions/digits", json={"digits": 7, "count": 16})
            except httpx.ReadTimeout:  # TorchServe has lost it (docs/service.md): no reply comes
                mine.append("lost")
                return
            if reply.status_code != 200:
                mine.append(reply.text)

        return ask

    def asks_again_where_it_helps() -> Callable[[], None]:
        client = Client(server.url, timeout=PATIENCE)

        def ask() -> None:
            assert client.sample(digits=3, count=16).labels.tolist() == [3] * 16

        return ask

    def kill_one_that_answers() -> set[int]:
        """Kills a worker with requests in its hands; gives the workers that there were."""
        before = watch.workers()
        gate.close("answering")
        victim, *_ = wait_for(lambda: gate.waiting("answering") & before, "a worker has requests in hand")
        os.kill(victim, signal.SIGKILL)
        gate.open("answering")
        return before

    def is_back(before: set[int]) -> bool:
        return len(watch.workers() - before) == 1 and watch.ready() == 2

    (tmp_path / "t").mkdir()
    with running(gated, tmp_path / "t") as server:
        watch = Watch(server)
        with repeated(CLIENTS, asks_again_where_it_helps) as patient:
            patient.wait_for_more(1)
            before = kill_one_that_answers()
            patient.wait_for_more(3)  # none sees a failure
            wait_for(lambda: is_back(before), "both serve again")

        with repeated(CLIENTS, asks_once) as plain:
            plain.wait_for_more(1)
            gate.close("loading")  # the next worker does not come back before the other one was seen to serve
            before = kill_one_that_answers()
            wait_for(lambda: gate.waiting("loading"), "another worker starts in its place")
            assert watch.ready() == 1
            plain.wait_for_more(3)
            gate.open("loading")
            wait_for(lambda: is_back(before), "both serve again")
            lost = sum(map(len, failures))
            plain.wait_for_more(3)
        assert len(watch.workers() & before) == 1, "the other one goes on"
    assert sum(map(len, failures)) == lost > 0, "nothing is lost any more"
    assert max(map(len, failures)) <= 1, "each loses at most the request that the worker had taken with it"
    for failure in sum(failures, list[str]()):
        assert failure == "lost" or "Worker died" in failure
