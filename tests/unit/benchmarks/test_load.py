"""The load generators count a server's replies and measure their latencies."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ganctl.benchmarks.errors import BenchError
from ganctl.benchmarks.serving import wrk
from ganctl.benchmarks.serving.load import Result, get, load, post

with_wrk = pytest.mark.skipif(not wrk.is_installed(), reason="no wrk on the PATH; Debian: apt-get install wrk")
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


def run_load(generator: str, address: tuple[str, int], requests: list[bytes], connections: int) -> Result:
    if generator == "wrk":
        return wrk.load(address, requests, connections=connections, seconds=1)
    return load(address, requests, connections=connections, seconds=0.2, warm_up=0.1, min_replies=40)


@pytest.mark.parametrize("generator", [pytest.param("wrk", marks=with_wrk), "ours"])
def test_latencies_include_the_whole_reply(generator: str, address: tuple[str, int]) -> None:
    result = run_load(generator, address, [get("/")], connections=4)
    assert result.accepted >= 40
    assert SLOW <= result.p50 <= result.p99
    assert result.rate * result.p50 <= 4 * 1.2, "each connection waits for one reply at a time"
    assert result.refused == 0


@pytest.mark.parametrize("generator", [pytest.param("wrk", marks=with_wrk), "ours"])
def test_refused_requests_are_counted_separately(generator: str, address: tuple[str, int]) -> None:
    result = run_load(generator, address, [post("/", b"yes"), post("/", b"no")], connections=3)
    assert result.accepted >= 40
    assert abs(result.refused - result.accepted) <= 3, "every second request, except for pending ones"


@with_wrk
def test_a_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(BenchError, match="wrk ended with status 1"):
        wrk.load(("127.0.0.1", 1), [get("/")], connections=1, seconds=1)
