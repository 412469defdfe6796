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
from tests.integration.serving.conftest import finish, java_of, members, running
from tests.integration.serving.doors import received
from tests.integration.serving.hostile_kinds import JSON
from tests.integration.serving.wire import Wire, request
from tests.machine import may_copy_sockets
from tests.unit.serving.gates import HELD, Gate
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shuts a socket of another process")

PATIENT = ("--drain-seconds", str(PATIENCE))  # no slow machine ends these servers before all is answered
LARGE = request(
    body=b'{"count": 256, "scale": 2}', headers=[JSON, HELD, ("Accept", "application/x-npz")]
)  # a reply of 800,000 bytes, so that twelve of them fit into a batch


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """The servers' folder for temporary files, empty."""
    (tmp_path / "t").mkdir()
    return tmp_path / "t"


@pytest.mark.skipif(not may_copy_sockets(), reason="no socket of another process can be had here (docs/operating.md)")
def test_what_is_in_hand_is_answered_and_the_rest_is_refused(gated: Path, gate: Gate, temporary: Path) -> None:
    with running(gated, temporary, *PATIENT) as server:
        java, metrics = java_of(server.process.pid)[0], str(server.record["metrics_url"])
        before = received(metrics)
        gate.close("drawing")
        with _wires(server.url, 12) as wires:
            for wire in wires:
                wire.send(LARGE)
            wait_for(lambda: received(metrics) == before + len(wires), "TorchServe has all requests")
            wait_for(lambda: gate.waiting("drawing"), "a worker has some of them in hand")
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: _refuses(server.url), "new connections are refused")
            answered, _, _ = select.select([wire.socket for wire in wires], [], [], 0)
            assert not answered, "new connections are refused while the old ones still wait for their answers"
            gate.open("drawing")
            replies = [wire.read() for wire in wires]
        _, err = finish(server.process)
    assert [reply and reply.status for reply in replies] == [200] * len(wires)
    assert server.process.returncode == 0
    assert "Draining" in err
    assert "Ended before" not in err
    assert members(java) == []
    assert list(temporary.iterdir()) == []


@contextlib.contextmanager
def _wires(url: str, many: int) -> Iterator[list[Wire]]:
    """Connections that wait for their replies as long as a test may take."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Wire(url)) for _ in range(many)]


def _refuses(url: str) -> bool:
    """Whether new connections are refused."""
    try:
        with Wire(url):
            return False
    except ConnectionRefusedError:
        return True


def test_clients_that_never_pause_get_a_clean_503_and_a_closed_connection(
    gated: Path, gate: Gate, temporary: Path
) -> None:
    seen: list[list[httpx.Response]] = [[] for _ in range(8)]

    def ask_on(replies: list[httpx.Response]) -> None:
        with http.Client() as client:
            while not replies or replies[-1].status_code == 200:
                replies.append(client.post(f"{server.url}/predictions/digits", json={"digits": 7}))

    with running(gated, temporary, *PATIENT) as server:
        gate.close("drawing")
        with _wires(server.url, 1) as (held,):
            held.send(LARGE)  # one worker has it in hand until all clients have been told: the server cannot end before
            wait_for(lambda: gate.waiting("drawing"), "a worker has the request in hand")
            asking = [threading.Thread(target=ask_on, args=(replies,)) for replies in seen]
            for thread in asking:
                thread.start()
            wait_for(lambda: all(seen), "every client has been answered")
            server.process.send_signal(signal.SIGTERM)
            for thread in asking:
                thread.join(PATIENCE)
            time.sleep(1)  # long enough for a server that does not wait to end
            assert server.process.poll() is None
            gate.open("drawing")
            reply = held.read()
        _, err = finish(server.process)
    assert reply is not None
    assert reply.status == 200
    for *answered, refused in seen:
        assert {reply.status_code for reply in answered} == {200}
        assert refused.status_code == 503, "each connection was told"
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["connection"] == "close"
    assert server.process.returncode == 0
    assert "Ended before" not in err


def test_ending_takes_no_longer_than_it_may(gated: Path, gate: Gate, temporary: Path) -> None:
    with running(gated, temporary, "--drain-seconds", "1") as server:
        java = java_of(server.process.pid)[0]
        gate.close("drawing")  # and it stays so: who waited for the workers would wait for ever
        with _wires(server.url, 8) as wires:
            for wire in wires:
                wire.send(LARGE)
            wait_for(lambda: gate.waiting("drawing"), "a worker has some of them in hand")
            server.process.send_signal(signal.SIGTERM)
            _, err = finish(server.process)
    assert "Ended before all requests were answered." in err
    assert server.process.returncode == 0
    assert members(java) == []
    assert list(temporary.iterdir()) == []


def test_a_key_that_has_ended_is_renewed_for_the_end(export: Path, tmp_path: Path) -> None:
    with Server(package(export, tmp_path), port=0, workers=1, auth="token") as server:
        assert server.token_file is not None
        keys = json.loads(server.token_file.read_text())
        before = keys["inference"]["key"]
        keys["inference"]["expiration time"] = "2026-01-01T00:00:00.123456789Z"
        server.token_file.write_text(json.dumps(keys))
        assert server.drain(PATIENCE)
        assert json.loads(server.token_file.read_text())["inference"]["key"] != before
