"""A worker that dies under load: only what it was drawing is lost, it comes back, and clients do not notice."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from serving.client import Client

from .conftest import Running
from .watch import Watch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

CLIENTS = 6  # of either kind


def test_a_killed_worker_costs_its_own_requests_and_is_back_within_ten_seconds(own: Running) -> None:
    watch, over = Watch(own), threading.Event()
    before = watch.workers()
    failures: list[tuple[float, httpx.Response]] = []
    lost_at: list[float] = []  # when requests were sent that TorchServe has lost (docs/service.md): no reply comes
    served_at: list[float] = []

    def ask_once_each() -> None:
        with httpx.Client(base_url=own.url, timeout=5) as client:
            while not over.is_set():
                sent_at = time.monotonic()
                try:
                    reply = client.post("/predictions/digits", json={"digits": 7, "count": 16})
                except httpx.ReadTimeout:
                    lost_at.append(sent_at)
                    continue
                if reply.status_code == 200:
                    served_at.append(time.monotonic())
                else:
                    failures.append((time.monotonic(), reply))

    def ask_again_and_again() -> int:
        answered = 0
        with Client(own.url, timeout=10) as client:
            while not over.is_set():
                assert client.sample(digits=3, count=16).labels.tolist() == [3] * 16
                answered += 1
        return answered

    with ThreadPoolExecutor(2 * CLIENTS) as threads:
        patient = [threads.submit(ask_again_and_again) for _ in range(CLIENTS)]
        plain = [threads.submit(ask_once_each) for _ in range(CLIENTS)]
        try:
            time.sleep(1)
            killed_at = time.monotonic()
            os.kill(min(before), signal.SIGKILL)
            back_after = _seconds_until(lambda: len(watch.workers() - before) == 1 and watch.ready() == 2)
            time.sleep(0.5)
        finally:
            over.set()
        assert min(future.result() for future in patient) > 10, "each was served all the time, and none saw a failure"
        for future in plain:
            future.result()

    assert back_after < 10
    assert len(watch.workers() & before) == 1, "the other one goes on"
    assert len(failures) + len(lost_at) <= CLIENTS, "each loses at most the request that the worker had taken with it"
    for when, reply in failures:
        assert "Worker died" in reply.text
        assert 0 < when - killed_at < 1
    for when in lost_at:
        assert abs(when - killed_at) < 1
    alone = [when for when in served_at if killed_at + 0.1 < when < killed_at + back_after]
    assert len(alone) > 10, "the other one serves meanwhile"


def _seconds_until(condition: Callable[[], bool], limit: float = 30.0) -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < limit, "waited too long"
        time.sleep(0.05)
    return time.monotonic() - start
