"""The serving image's health check says healthy when every worker is READY, and only then."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "docker" / "healthcheck.py"


class FakeManagement:
    """A management API on a free loopback port that answers every request with `status` and `body`, after `delay` s."""

    def __init__(self) -> None:
        self.status, self.body, self.delay = 200, b"", 0.0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                time.sleep(fake.delay)
                self.send_response(fake.status)
                self.send_header("Content-Length", str(len(fake.body)))
                self.end_headers()
                self.wfile.write(fake.body)

            def log_message(self, *args: Any) -> None:
                """Quiet: the test's own output is enough."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/models/digits"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def has(self, *statuses: str, min_workers: int = 1) -> None:
        """Answers as TorchServe does for one model version whose workers have these statuses."""
        workers = [{"id": str(9000 + i), "status": status, "gpu": False} for i, status in enumerate(statuses)]
        model = {"modelName": "digits", "modelVersion": "1.0", "minWorkers": min_workers, "workers": workers}
        self.body = json.dumps([model]).encode()


@pytest.fixture
def management() -> Iterator[FakeManagement]:
    fake = FakeManagement()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


def run_check(url: str, **environment: str) -> tuple[int, str]:
    """Runs the script as the image does, isolated and without site-packages; its exit status and its one line."""
    command = [sys.executable, "-I", "-S", str(SCRIPT), *([] if environment else [url])]
    done = subprocess.run(command, env=environment or None, capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1, "one line, because that is what an engine shows"
    return done.returncode, done.stdout.strip()


def test_all_workers_ready_is_healthy(management: FakeManagement) -> None:
    management.has("READY", "READY", min_workers=2)
    assert run_check(management.url) == (0, "all workers are READY")


def test_the_address_may_come_from_the_environment(management: FakeManagement) -> None:
    management.has("READY")
    assert run_check("", GANCTL_HEALTH_URL=management.url)[0] == 0


def test_a_proxy_in_the_environment_is_not_asked_for_the_loopback(management: FakeManagement) -> None:
    management.has("READY")
    assert run_check("", GANCTL_HEALTH_URL=management.url, http_proxy="http://127.0.0.1:1")[0] == 0


@pytest.mark.parametrize("status", ["UNLOADED", "LOADING", "UNLOADING"])
def test_one_worker_that_is_not_ready_is_unhealthy_and_named(management: FakeManagement, status: str) -> None:
    management.has("READY", status, min_workers=2)
    assert run_check(management.url) == (1, f"worker 9001 is {status}")


def test_a_model_without_workers_is_unhealthy(management: FakeManagement) -> None:
    management.has(min_workers=0)
    assert run_check(management.url) == (1, "0 of 1 workers are there")


def test_fewer_workers_than_the_model_must_have_is_unhealthy(management: FakeManagement) -> None:
    management.has("READY", min_workers=2)
    assert run_check(management.url) == (1, "1 of 2 workers are there")


def make_unknown(fake: FakeManagement) -> None:
    fake.status, fake.body = 404, b'{"code": 404, "type": "ModelNotFoundException"}'


def make_empty(fake: FakeManagement) -> None:
    fake.body = b"[]"


def make_html(fake: FakeManagement) -> None:
    fake.body = b"<html>some other server</html>"


def make_foreign(fake: FakeManagement) -> None:
    fake.body = b'[{"name": "digits"}]'


def make_ping(fake: FakeManagement) -> None:
    fake.body = b'{"status": "Healthy"}'


@pytest.mark.parametrize("answer", [make_unknown, make_empty, make_html, make_foreign, make_ping])
def test_any_other_answer_is_unhealthy(management: FakeManagement, answer: Callable[[FakeManagement], None]) -> None:
    answer(management)
    code, reason = run_check(management.url)
    assert code == 1
    assert reason


def test_nobody_listening_is_unhealthy(management: FakeManagement) -> None:
    management.server.shutdown()
    management.server.server_close()
    code, reason = run_check(management.url)
    assert code == 1
    assert management.url in reason


def test_a_server_that_hangs_is_unhealthy_before_the_engine_loses_patience(management: FakeManagement) -> None:
    management.has("READY")
    management.delay = 6.0
    started = time.monotonic()
    code, reason = run_check(management.url)
    assert code == 1
    assert "timed out" in reason
    assert time.monotonic() - started < 5.0, "the HEALTHCHECK's own limit"
