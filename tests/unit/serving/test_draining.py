"""A drained server ends only when no worker draws and no reply waits, or when the time is over."""

import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from serving import draining
from serving.draining import drain


class FrontEnd(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - as it is called
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), FrontEnd) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def timed(url: str, state: Path, busy_until: float, seconds: float, hurry: threading.Event) -> tuple[bool, float]:
    """What comes of it, and how long it takes, where a worker draws for so many seconds."""
    began = time.monotonic()
    done = drain(
        os.getpid(), url, {}, state, busy=lambda: time.monotonic() < began + busy_until, seconds=seconds, hurry=hurry
    )
    return done, time.monotonic() - began


def test_it_waits_for_a_worker_that_draws(url: str, tmp_path: Path) -> None:
    done, seconds = timed(url, tmp_path, 1.0, 10.0, threading.Event())
    assert done
    assert 1.0 <= seconds < 3.0
    assert (tmp_path / "draining").exists()


def test_it_waits_for_replies_that_are_on_their_way(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = time.monotonic() + 1.0
    monkeypatch.setattr(draining, "_unsent", lambda port: time.monotonic() < ends)
    done, seconds = timed(url, tmp_path, 0.0, 10.0, threading.Event())
    assert done
    assert seconds > 0.9


def test_it_gives_up_when_the_time_is_over_or_nobody_can_wait(url: str, tmp_path: Path) -> None:
    done, seconds = timed(url, tmp_path, 60.0, 0.5, threading.Event())
    assert not done
    assert seconds < 3.0
    hurry = threading.Event()
    hurry.set()
    done, seconds = timed(url, tmp_path, 60.0, 60.0, hurry)
    assert not done
    assert seconds < 3.0


def test_new_connections_are_refused_and_open_ones_stay(url: str) -> None:
    port = int(url.rpartition(":")[2])
    with httpx.Client() as client:
        assert client.get(url).status_code == 200
        assert draining.shut(os.getpid(), port)
        assert client.get(url).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
