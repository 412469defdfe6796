"""On SIGTERM a server answers all accepted requests, refuses new ones, and ends within the time limit."""

import contextlib
import json
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ganctl.serving.archive.mar import package
from ganctl.serving.hosts.torchserve.server import Server
from tests import http
from tests.integration.serving.conftest import Engine, finish, running
from tests.integration.serving.doors import received
from tests.integration.serving.hostile_kinds import JSON
from tests.integration.serving.watch import Watch
from tests.integration.serving.wire import Wire, request
from tests.machine import may_copy_sockets
from tests.unit.serving.gates import HELD, Gate
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shuts a socket of another process")

LONG_DRAIN = ("--drain-seconds", str(PATIENCE))  # so that a slow machine does not reach the limit
# Its reply has 800,000 bytes, so that twelve of them fit into a batch.
LARGE = request(body=b'{"count": 256, "scale": 2}', headers=[JSON, HELD, ("Accept", "application/x-npz")])


def test_sigterm_answers_accepted_requests_and_refuses_new_connections(
    engine: Engine, gated: Path, gate: Gate, temporary: Path
) -> None:
    if engine == "torchserve" and not may_copy_sockets():
        pytest.skip("this system forbids pidfd_getfd (docs/operating.md)")
    with running(gated, temporary, *LONG_DRAIN, engine=engine) as server:
        watch, before = Watch(server), received(server)
        gate.close("drawing")
        with _wires(server.url, 12) as wires:
            for wire in wires:
                wire.send(LARGE)
            wait_for(lambda: received(server) == before + len(wires), "the server has all requests")
            wait_for(lambda: gate.waiting("drawing"), "a worker has some of the requests")
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: _refuses(server.url), "new connections are refused")
            answered, _, _ = select.select([wire.socket for wire in wires], [], [], 0)
            assert not answered, "new connections are refused before the accepted requests are answered"
            gate.open("drawing")
            replies = [wire.read() for wire in wires]
        _, err = finish(server.process)
    assert [reply and reply.status for reply in replies] == [200] * len(wires)
    assert server.process.returncode == 0
    assert "Draining" in err
    assert "Ended before" not in err
    assert watch.processes() == set()
    assert list(temporary.iterdir()) == []


@contextlib.contextmanager
def _wires(url: str, count: int) -> Iterator[list[Wire]]:
    """Opens `count` connections."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Wire(url)) for _ in range(count)]


def _refuses(url: str) -> bool:
    """Returns whether the server refuses a new connection."""
    try:
        with Wire(url):
            return False
    except ConnectionRefusedError:
        return True


def test_draining_answers_busy_keep_alive_clients_with_503_and_closes_their_connections(
    gated: Path, gate: Gate, temporary: Path
) -> None:
    replies_of_clients: list[list[httpx.Response]] = [[] for _ in range(8)]

    def send_until_refused(replies: list[httpx.Response]) -> None:
        with http.Client() as client:
            while not replies or replies[-1].status_code == 200:
                replies.append(client.post(f"{server.url}/predictions/digits", json={"digits": 7}))

    with running(gated, temporary, *LONG_DRAIN) as server:
        gate.close("drawing")
        with _wires(server.url, 1) as (held,):
            held.send(LARGE)  # held until every client has got its 503, so that the server cannot end before
            wait_for(lambda: gate.waiting("drawing"), "a worker has the request")
            threads = [threading.Thread(target=send_until_refused, args=(each,)) for each in replies_of_clients]
            for thread in threads:
                thread.start()
            wait_for(lambda: all(replies_of_clients), "every client has got a reply")
            server.process.send_signal(signal.SIGTERM)
            for thread in threads:
                thread.join(PATIENCE)
            time.sleep(1)  # enough for a server that does not wait for the held request to end
            assert server.process.poll() is None
            gate.open("drawing")
            reply = held.read()
        _, err = finish(server.process)
    assert reply is not None
    assert reply.status == 200
    for *answered, refused in replies_of_clients:
        assert {reply.status_code for reply in answered} == {200}
        assert refused.status_code == 503, "the last reply of every connection"
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["connection"] == "close"
    assert server.process.returncode == 0
    assert "Ended before" not in err


@pytest.mark.soak_on_torchserve
def test_drain_seconds_limits_the_wait_for_workers(engine: Engine, gated: Path, gate: Gate, temporary: Path) -> None:
    with running(gated, temporary, "--drain-seconds", "1", engine=engine) as server:
        watch = Watch(server)
        gate.close("drawing")  # for good: a server that waited for the workers would never end
        with _wires(server.url, 8) as wires:
            for wire in wires:
                wire.send(LARGE)
            wait_for(lambda: gate.waiting("drawing"), "a worker has some of the requests")
            server.process.send_signal(signal.SIGTERM)
            _, err = finish(server.process)
    assert "Ended before" in err
    assert server.process.returncode == 0
    assert watch.processes() == set()
    assert list(temporary.iterdir()) == []


def test_draining_renews_an_expired_key(export: Path, tmp_path: Path) -> None:
    with Server(package(export, tmp_path), port=0, workers=1, auth="token") as server:
        assert server.token_file is not None
        keys = json.loads(server.token_file.read_text())
        before = keys["inference"]["key"]
        keys["inference"]["expiration time"] = "2026-01-01T00:00:00.123456789Z"
        server.token_file.write_text(json.dumps(keys))
        assert server.drain(PATIENCE)
        assert json.loads(server.token_file.read_text())["inference"]["key"] != before
