"""A worker dies under load: only its current batch is lost, it is restarted, and `Client` retries."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from ganctl.serving.client.client import Client
from tests import http
from tests.integration.serving.conftest import Engine, running
from tests.integration.serving.repeated import repeated
from tests.integration.serving.watch import Watch
from tests.unit.serving.gates import Gate
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

CLIENTS = 6  # with retries, and as many without
LOST_AFTER = 30.0  # seconds without a reply, after which a request counts as lost by TorchServe


@pytest.mark.soak_on_torchserve
def test_a_killed_worker_loses_only_its_batch_and_is_restarted(
    engine: Engine, gated: Path, gate: Gate, temporary: Path
) -> None:
    failures: list[list[str]] = []  # of each client without retries

    def client_without_retries() -> Callable[[], None]:
        client, own_failures = http.Client(base_url=server.url, timeout=LOST_AFTER), list[str]()
        failures.append(own_failures)

        def send() -> None:
            try:
                reply = client.post("/predictions/digits", json={"digits": 7, "count": 16})
            except httpx.ReadTimeout:  # TorchServe has lost the request (docs/service.md)
                own_failures.append("lost")
                return
            except httpx.TransportError:  # the native host: the killed worker had the connection
                own_failures.append("lost")
                return
            if reply.status_code != 200:
                own_failures.append(reply.text)

        return send

    def client_with_retries() -> Callable[[], None]:
        client = Client(server.url, timeout=PATIENCE)

        def send() -> None:
            assert client.sample(digits=3, count=16).labels.tolist() == [3] * 16

        return send

    def kill_busy_worker() -> set[int]:
        """Kills a worker that has a batch; returns the pids of all workers before."""
        before = watch.workers()
        gate.close("answering")
        victim, *_ = wait_for(lambda: gate.waiting("answering") & before, "a worker has a batch")
        os.kill(victim, signal.SIGKILL)
        gate.open("answering")
        return before

    def is_restarted(before: set[int]) -> bool:
        return len(watch.workers() - before) == 1 and watch.ready() == 2

    with running(gated, temporary, engine=engine) as server:
        watch = Watch(server)
        with repeated(CLIENTS, client_with_retries) as clients:
            clients.wait_for_more(1)
            before = kill_busy_worker()
            clients.wait_for_more(3)  # a failed request would raise here
            wait_for(lambda: is_restarted(before), "both workers are ready again")

        with repeated(CLIENTS, client_without_retries) as clients:
            clients.wait_for_more(1)
            gate.close("loading")  # delays the restart, until the other worker has answered alone
            before = kill_busy_worker()
            wait_for(lambda: gate.waiting("loading"), "the new worker loads the model")
            assert watch.ready() == 1
            clients.wait_for_more(3)
            gate.open("loading")
            wait_for(lambda: is_restarted(before), "both workers are ready again")
            lost = sum(map(len, failures))
            clients.wait_for_more(3)
        assert len(watch.workers() & before) == 1, "the other worker was not restarted"
    assert sum(map(len, failures)) == lost > 0, "nothing is lost after the restart"
    # The kernel may close a connection of the killed process before its listening socket. A client that connects
    # again in between loses one more request.
    assert max(map(len, failures)) <= 2, "each client loses its request in the batch of the killed worker"
    for failure in sum(failures, list[str]()):
        assert failure == "lost" or "Worker died" in failure
