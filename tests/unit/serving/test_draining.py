"""A drained server ends only when no worker draws and no reply waits, or when the time is over."""

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

MANY = 20  # looks at what the server does; more than are needed to take it for idle
UNREAD = 1 << 24  # bytes; more than the system takes from a server whose client does not read


class FrontEnd(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        size = UNREAD if self.path == "/large" else 0
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(bytes(size))

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - as it is called
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), FrontEnd) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Looks:
    """Whether a worker draws: at the first so many looks it does."""

    def __init__(self, busy: float) -> None:
        self.count, self._busy = 0, busy

    def __call__(self) -> bool:
        self.count += 1
        return self.count <= self._busy


def drained(
    url: str, state: Path, looks: Looks, *, seconds: float = PATIENCE, abort: threading.Event | None = None
) -> bool:
    return drain(os.getpid(), url, {}, state, busy=looks, seconds=seconds, abort=abort or threading.Event())


def unsent(port: int) -> bool:
    """Whether bytes wait to be sent from this port, by the kernel's table."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(
        fields[1].endswith(f":{port:04X}") and fields[3] == "01" and fields[4].partition(":")[0] != "00000000"
        for fields in lines
    )


def test_it_waits_for_a_worker_that_draws(url: str, tmp_path: Path) -> None:
    looks = Looks(busy=MANY)
    assert drained(url, tmp_path, looks)
    assert MANY < looks.count < 2 * MANY, "it ends soon after the worker has"
    assert (tmp_path / "draining").exists()


def test_it_waits_for_replies_that_are_on_their_way(url: str, tmp_path: Path) -> None:
    class Reads(Looks):
        """No worker draws, and at the last of many looks the client reads its reply."""

        def __call__(self) -> bool:
            if super().__call__() or self.count != MANY:
                return False
            while self.count == MANY and client.recv(1 << 20):
                pass
            return False

    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        wait_for(lambda: unsent(port), "bytes of the reply wait to be sent")
        looks = Reads(busy=0)
        assert drained(url, tmp_path, looks)
    assert looks.count > MANY


def test_it_gives_up_when_the_time_is_over_or_nobody_can_wait(url: str, tmp_path: Path) -> None:
    assert not drained(url, tmp_path, Looks(busy=float("inf")), seconds=0.5)
    abort = threading.Event()
    abort.set()
    looks = Looks(busy=float("inf"))
    assert not drained(url, tmp_path, looks, abort=abort)
    assert looks.count <= 1, "at once"


def test_a_front_end_that_does_not_answer_takes_no_new_connections_and_no_longer_than_the_time(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = listener.getsockname()[1]
        assert not drained(f"http://127.0.0.1:{port}", tmp_path, Looks(busy=0), seconds=0.5)
        if may_copy_sockets():
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()


@pytest.mark.skipif(not may_copy_sockets(), reason="no socket of another process can be had here (docs/operating.md)")
def test_new_connections_are_refused_and_open_ones_stay(url: str) -> None:
    port = int(url.rpartition(":")[2])
    with http.Client() as client:
        assert client.get(url).status_code == 200
        assert draining.stop_listening(os.getpid(), port)
        assert client.get(url).status_code == 200
        with pytest.raises(httpx.ConnectError):
            http.get(url)
