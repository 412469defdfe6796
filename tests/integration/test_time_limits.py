"""Promised time limits, measured on an otherwise idle machine: `make soak`.

Other tests check the same features without a clock.
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


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def test_help_is_printed_within_300_milliseconds(started_ganctl: Ganctl) -> None:
    assert statistics.median(seconds(lambda: started_ganctl("--help")) for _ in range(9)) < 0.3


@pytest.mark.parametrize("line", ["ganctl tr", "ganctl train --set train.", "ganctl evaluate "])
def test_a_completion_is_answered_within_300_milliseconds(line: str, started_ganctl: Ganctl) -> None:
    shell = {**os.environ, "_GANCTL_COMPLETE": "bash_complete", "COMP_LINE": line, "COMP_WORD": line.split(" ")[-1]}
    assert statistics.median(seconds(lambda: started_ganctl(env=shell)) for _ in range(9)) < 0.3


def test_a_killed_worker_is_replaced_within_ten_seconds(export: Path, tmp_path: Path) -> None:
    with running(export, tmp_path) as server:
        watch = Watch(server)
        workers = watch.workers()
        os.kill(min(workers), signal.SIGKILL)

        def is_replaced() -> bool:
            return len(watch.workers() - workers) == 1 and watch.ready() == 2

        assert seconds(lambda: wait_for(is_replaced, "a new worker is ready")) < 10


def test_an_idle_server_ends_within_five_seconds(export: Path, tmp_path: Path) -> None:
    with running(export, tmp_path) as server:
        assert http.get(f"{server.url}/predictions/digits").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert seconds(lambda: finish(server.process)) < 5
