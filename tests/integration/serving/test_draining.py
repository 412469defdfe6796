"""A server that is told to end answers what it has been asked, takes nothing new, and ends in time."""

import contextlib
import json
import signal
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from benchmarks.load import load, post
from serving.archive import package
from serving.server import Server

from .conftest import java_of, members, start_ganctl

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shuts a socket of another process")


def test_what_is_in_hand_is_answered_and_the_rest_is_refused(export: Path, tmp_path: Path) -> None:
    process = start_ganctl("serve", str(export), "--port", "0", "--workers", "2", "--json", temporary=tmp_path)
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    java = java_of(process.pid)[0]
    answered: list[int] = []
    connected = threading.Barrier(13)

    def ask_for_much() -> None:
        # a second or two of work for one of the workers, all of it in hand before the end is told
        body, headers = {"count": 256, "scale": 4}, {"Accept": "image/webp"}
        with httpx.Client(timeout=60) as client:
            client.get(f"{url}/ping")  # so that all are connected
            connected.wait()
            answered.append(client.post(f"{url}/predictions/digits", json=body, headers=headers).status_code)

    asking = [threading.Thread(target=ask_for_much) for _ in range(12)]
    for thread in asking:
        thread.start()
    connected.wait()
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _wait_until_refused(url)
    assert len(answered) < 12, "new connections are refused while the old ones are still being answered"
    for thread in asking:
        thread.join()
    _, err = process.communicate(timeout=30)
    assert answered == [200] * 12
    assert process.returncode == 0
    assert "Draining" in err
    assert "Ended before" not in err
    assert members(java) == []
    assert list(tmp_path.iterdir()) == []


def _wait_until_refused(url: str) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            with httpx.Client() as client:
                client.get(f"{url}/ping", timeout=0.5)
        except httpx.ConnectError:
            return
        except httpx.TimeoutException:
            continue
    pytest.fail("new connections are still taken")


def test_clients_that_never_pause_get_a_clean_503_and_a_closed_connection(export: Path, tmp_path: Path) -> None:
    process = start_ganctl("serve", str(export), "--port", "0", "--json", temporary=tmp_path)
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    seen: list[int] = []

    def ask_on() -> None:
        with httpx.Client() as client:
            while True:
                reply = client.post(f"{url}/predictions/digits", json={"digits": 7}, timeout=20)
                seen.append(reply.status_code)
                if reply.status_code != 200:
                    assert reply.headers["content-type"] == "application/problem+json"
                    assert reply.headers["retry-after"] == "1"
                    assert reply.headers["connection"] == "close"
                    return

    asking = [threading.Thread(target=ask_on) for _ in range(8)]
    for thread in asking:
        thread.start()
    time.sleep(0.5)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    for thread in asking:
        thread.join(30)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert set(seen) == {200, 503}
    assert seen.count(503) == 8, "each connection was told"
    assert process.returncode == 0
    assert "Ended before" not in err


def test_ending_takes_no_longer_than_it_may(export: Path, tmp_path: Path) -> None:
    words = ("serve", str(export), "--port", "0", "--workers", "1", "--drain-seconds", "1", "--json")
    process = start_ganctl(*words, temporary=tmp_path)
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    heavy = [post("/predictions/digits", b'{"count": 256, "scale": 8}')]
    address = "127.0.0.1", int(url.rpartition(":")[2])

    def ask_for_too_much() -> None:
        with contextlib.suppress(OSError):  # it is gone meanwhile, as it should be
            load(address, heavy, connections=200, seconds=6.0, warm_up=0.0)

    asking = threading.Thread(target=ask_for_too_much)
    asking.start()
    time.sleep(1.5)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    asking.join()
    assert time.monotonic() - began < 12
    assert "Ended before all requests were answered." in err
    assert process.returncode == 0


def test_a_key_that_has_ended_is_renewed_for_the_end(export: Path, tmp_path: Path) -> None:
    with Server(package(export, tmp_path), port=0, workers=1, auth="token") as server:
        assert server.token_file is not None
        keys = json.loads(server.token_file.read_text())
        before = keys["inference"]["key"]
        keys["inference"]["expiration time"] = "2026-01-01T00:00:00.123456789Z"
        server.token_file.write_text(json.dumps(keys))
        assert server.drain()
        assert json.loads(server.token_file.read_text())["inference"]["key"] != before
