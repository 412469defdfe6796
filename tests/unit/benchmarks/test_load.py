"""The load generator counts a server's replies and measures their latencies."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ganctl.benchmarks.serving.load import get, load, post

SLOW = 0.02  # seconds until a reply


class Handler(BaseHTTPRequestHandler):
    """Replies in two parts: to GET after SLOW seconds, to a POST of `no` with 400, after which it disconnects."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        time.sleep(SLOW)
        self._answer(200, b"x" * 100_000)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(400 if body == b"no" else 200, body)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        if status == 400:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body[:10])
        self.wfile.flush()
        self.wfile.write(body[10:])

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Ignores clients that disconnect, as the load generator does at its end."""

    def handle_error(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield "127.0.0.1", server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_latencies_include_the_whole_reply(address: tuple[str, int]) -> None:
    began = time.perf_counter()
    result = load(address, [get("/")], connections=4, seconds=0.2, warm_up=0.1, min_replies=40)
    wall = time.perf_counter() - began
    assert set(result.statuses) == {200}
    assert len(result.latencies) >= 40
    assert min(result.latencies) >= SLOW
    assert sum(result.latencies) <= 4 * wall, "each connection waits for one reply at a time"
    assert result.rate == pytest.approx(len(result.latencies) / result.seconds)
    assert result.failures == 0


def test_refused_requests_are_counted_separately(address: tuple[str, int]) -> None:
    result = load(
        address, [post("/", b"yes"), post("/", b"no")], connections=3, seconds=0.1, warm_up=0.0, min_replies=40
    )
    assert set(result.statuses) == {200, 400}
    assert len(result.latencies) == result.statuses[200] >= 40
    assert abs(result.statuses[400] - result.statuses[200]) <= 3, "every second request, except for pending ones"
    assert result.failures == 0
    assert result.percentile(0.99) >= result.percentile(0.5)
