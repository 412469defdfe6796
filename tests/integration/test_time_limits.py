"""What is promised in seconds, measured on a machine that does nothing else: `make soak`.

The promises behind them are tested without a clock beside everything else.
"""

import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import http
from tests.conftest import Ganctl
from tests.integration.serving.conftest import finish, running
from tests.integration.serving.watch import Watch
from tests.unit.serving.small_export import write_export
from tests.waiting import wait_for

pytestmark = [pytest.mark.soak, pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write_export(tmp_path / "export")


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def test_help_comes_within_three_tenths_of_a_second(started_ganctl: Ganctl) -> None:
    assert statistics.median(seconds(lambda: started_ganctl("--help")) for _ in range(9)) < 0.3


def test_a_killed_worker_is_back_within_ten_seconds(export: Path, tmp_path: Path) -> None:
    with running(export, tmp_path) as server:
        watch = Watch(server)
        before = watch.workers()
        os.kill(min(before), signal.SIGKILL)

        def is_back() -> bool:
            return len(watch.workers() - before) == 1 and watch.ready() == 2

        assert seconds(lambda: wait_for(is_back, "the worker is back")) < 10


def test_an_idle_server_ends_within_five_seconds(export: Path, tmp_path: Path) -> None:
    with running(export, tmp_path) as server:
        assert http.get(f"{server.url}/predictions/digits").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert seconds(lambda: finish(server.process)) < 5
