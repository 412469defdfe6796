"""Draining ends when no worker is busy and no reply waits to be sent, or at the time limit."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from ganctl.serving.hosts.torchserve import draining
from ganctl.serving.hosts.torchserve.draining import drain
from tests import http
from tests.machine import may_copy_sockets
from tests.waiting import PATIENCE, wait_for

MANY = 20  # polls of `busy`; more than drain() needs to see an idle server
UNREAD = 1 << 24  # bytes; more than the socket buffers hold for a client that does not read


class FrontEnd(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        size = UNREAD if self.path == "/large" else 0
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(bytes(size))

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name in the base class
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), FrontEnd) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class BusyPolls:
    """A callable for drain(busy=…) that returns True at the first `busy` polls and counts all polls."""

    def __init__(self, busy: float) -> None:
        self.count, self._busy = 0, busy

    def __call__(self) -> bool:
        self.count += 1
        return self.count <= self._busy


def drained(
    url: str, state: Path, polls: BusyPolls, *, seconds: float = PATIENCE, abort: threading.Event | None = None
) -> bool:
    return drain(os.getpid(), url, {}, state, busy=polls, seconds=seconds, abort=abort or threading.Event())


def has_unsent_bytes(port: int) -> bool:
    """Returns whether a connection of this port has bytes that wait to be sent, according to /proc/net/tcp."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(
        fields[1].endswith(f":{port:04X}") and fields[3] == "01" and fields[4].partition(":")[0] != "00000000"
        for fields in lines
    )


def test_draining_waits_for_a_busy_worker(url: str, tmp_path: Path) -> None:
    polls = BusyPolls(busy=MANY)
    assert drained(url, tmp_path, polls)
    assert MANY < polls.count < 2 * MANY, "it ends soon after the worker is idle"
    assert (tmp_path / "draining").exists()


def test_draining_waits_for_replies_that_are_being_sent(url: str, tmp_path: Path) -> None:
    class IdlePolls(BusyPolls):
        """No worker is busy; the client reads its reply at the poll with number MANY."""

        def __call__(self) -> bool:
            if super().__call__() or self.count != MANY:
                return False
            while self.count == MANY and client.recv(1 << 20):
                pass
            return False

    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        wait_for(lambda: has_unsent_bytes(port), "bytes of the reply wait to be sent")
        polls = IdlePolls(busy=0)
        assert drained(url, tmp_path, polls)
    assert polls.count > MANY


def test_draining_ends_at_the_time_limit_or_when_aborted(url: str, tmp_path: Path) -> None:
    assert not drained(url, tmp_path, BusyPolls(busy=float("inf")), seconds=0.5)
    abort = threading.Event()
    abort.set()
    polls = BusyPolls(busy=float("inf"))
    assert not drained(url, tmp_path, polls, abort=abort)
    assert polls.count <= 1, "it ends at once"


def test_an_unresponsive_front_end_is_drained_within_the_time_limit(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = listener.getsockname()[1]
        assert not drained(f"http://127.0.0.1:{port}", tmp_path, BusyPolls(busy=0), seconds=0.5)
        if may_copy_sockets():
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()


@pytest.mark.skipif(
    not may_copy_sockets(), reason="the kernel does not allow copying sockets of other processes (docs/operating.md)"
)
def test_new_connections_are_refused_and_open_ones_stay(url: str) -> None:
    port = int(url.rpartition(":")[2])
    with http.Client() as client:
        assert client.get(url).status_code == 200
        draining.stop_listening(os.getpid(), port)
        assert client.get(url).status_code == 200
        with pytest.raises(httpx.ConnectError):
            http.get(url)
