"""Overload: excess requests get a prompt 503, accepted ones are answered."""

import functools
import json
import os
import resource
import select
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ganctl.serving.client.client import Client
from ganctl.serving.handler.model import Limits
from tests import http
from tests.integration.serving.conftest import Running, running, stop
from tests.integration.serving.hostile_kinds import JSON
from tests.integration.serving.watch import Watch
from tests.integration.serving.wire import Reply, Wire, request
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

QUEUE, TAKEN = 1_024, 2 * 64  # requests in the full queue; requests that two workers have taken from it, at most
EXCESS = 100
A_BATCH = Limits().max_batch  # requests; at least one full batch is answered, however large they are


@pytest.fixture
def many_files() -> Iterator[None]:
    """Raises the limit of open files for some thousand connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4_096:
        pytest.skip(f"RLIMIT_NOFILE is {hard}; the test needs 4,096")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4_096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def flood(server: Running, until: Callable[[list[Wire]], int]) -> tuple[list[Reply | None], int]:
    """Sends more requests than TorchServe's queue takes while the workers are stopped, on a connection each.

    Args:
        server: the server.
        until: is called before the workers go on.

    Returns:
        the replies, and the result of `until`.
    """
    workers = Watch(server).workers()
    wires = [Wire(server.url) for _ in range(QUEUE + TAKEN + EXCESS)]
    try:
        for pid in workers:
            stop(pid)
        for seed, wire in enumerate(wires):
            wire.send(request(body=json.dumps({"seed": seed}).encode(), headers=[JSON]))
        result = until(wires)
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        replies = [wire.read() for wire in wires]
    finally:
        for wire in wires:
            wire.close()
    assert Watch(server).workers() == workers
    return replies, result


@pytest.mark.usefixtures("many_files")
@pytest.mark.soak
def test_a_full_queue_of_torchserve_refuses_excess_requests_with_503_and_answers_the_others(
    export: Path, tmp_path: Path
) -> None:
    with running(export, tmp_path) as server:
        replies, refused = flood(server, _wait_for_refusals)
        assert http.get(f"{server.url}/predictions/digits").status_code == 200
    statuses = Counter(reply.status if reply else None for reply in replies)
    assert set(statuses) == {200, 503}, "every request gets a complete reply"
    assert EXCESS <= refused <= statuses[503] <= EXCESS + TAKEN
    for seed, reply in enumerate(replies):
        assert reply is not None
        if reply.status == 200:
            assert reply.headers["x-seed"] == str(seed)
        else:
            assert reply.headers["content-type"] == "application/json"
            assert json.loads(reply.body)["code"] == 503


@pytest.mark.usefixtures("many_files")
def test_requests_of_many_connections_wait_for_the_native_host_and_are_all_answered(
    export: Path, tmp_path: Path
) -> None:
    with running(export, tmp_path, engine="native") as server:
        replies, _ = flood(server, len)
    assert [reply and reply.headers.get("x-seed") for reply in replies] == [str(seed) for seed in range(len(replies))]


def _wait_for_refusals(wires: list[Wire]) -> int:
    """Returns how many connections have a reply, once EXCESS have one; the workers are stopped meanwhile."""
    poll = select.poll()
    for wire in wires:
        poll.register(wire.socket, select.POLLIN)

    def answered() -> int:
        count = len(poll.poll(0))
        return count if count >= EXCESS else 0

    return wait_for(answered, f"{EXCESS} requests are refused")


@pytest.mark.soak_on_torchserve
def test_many_large_replies_at_once_restart_no_worker(own: Running) -> None:
    watch = Watch(own)
    workers = watch.workers()
    large = {"count": 256, "scale": 5, "seed": 1}  # a reply of five million bytes
    post = functools.partial(http.post, f"{own.url}/predictions/digits")
    with ThreadPoolExecutor(64) as threads:
        futures = [threads.submit(post, json=large, headers={"Accept": "application/x-npz"}) for _ in range(64)]
        replies = [future.result() for future in futures]
    statuses = Counter(reply.status_code for reply in replies)
    assert set(statuses) <= {200, 429}
    assert statuses[200] >= A_BATCH
    assert len({reply.content for reply in replies if reply.status_code == 200}) == 1
    assert watch.workers() == workers


@pytest.mark.soak_on_torchserve
def test_clients_retry_until_many_large_requests_are_answered(own: Running) -> None:
    def picture_size(seed: int) -> int:
        with Client(own.url, timeout=PATIENCE) as client:
            return len(client.picture(count=256, scale=9, seed=seed))

    with ThreadPoolExecutor(32) as threads:
        assert min(threads.map(picture_size, range(32))) > 10_000
