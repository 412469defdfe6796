"""The load generator counts what a server answers, and how long that takes."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ganctl.benchmarks.serving.load import get, load, post

SLOW = 0.02  # seconds that an answer takes


class Handler(BaseHTTPRequestHandler):
    """Answers 200 after a while, in two pieces; POST of `no` gets a 400, and the connection is closed."""

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
    """Says nothing where the other side goes away, as a load generator does at its end."""

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


def test_latencies_are_those_of_whole_answers(address: tuple[str, int]) -> None:
    began = time.perf_counter()
    result = load(address, [get("/")], connections=4, seconds=0.2, warm_up=0.1, min_replies=40)
    wall = time.perf_counter() - began
    assert set(result.statuses) == {200}
    assert len(result.latencies) >= 40
    assert min(result.latencies) >= SLOW
    assert sum(result.latencies) <= 4 * wall, "each connection waits for one answer at a time"
    assert result.rate == pytest.approx(len(result.latencies) / result.seconds)
    assert result.failures == 0


def test_refusals_are_counted_apart_and_do_not_end_it(address: tuple[str, int]) -> None:
    result = load(
        address, [post("/", b"yes"), post("/", b"no")], connections=3, seconds=0.1, warm_up=0.0, min_replies=40
    )
    assert set(result.statuses) == {200, 400}
    assert len(result.latencies) == result.statuses[200] >= 40
    assert abs(result.statuses[400] - result.statuses[200]) <= 3, "every other one, but for those on their way"
    assert result.failures == 0
    assert result.summary()["p99_ms"] >= result.summary()["p50_ms"]
