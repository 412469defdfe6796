"""The serving image's health check passes exactly when every worker is READY."""

import json
import os
import re
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import PATIENCE

DOCKER = Path(__file__).parents[3] / "docker"
SCRIPT = DOCKER / "healthcheck.py"


class FakeManagement:
    """A management API on a free loopback port: replies with `status` and `body`; with `hangs`, only at the test's end.

    With `key_file` it requires tokens as TorchServe does: 400 for a wrong one, and a new one for the key `API`.
    """

    def __init__(self) -> None:
        self.status, self.body, self.hangs = 200, b"", False
        self.end = threading.Event()
        self.key_file: Path | None = None
        self.valid_key = ""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if fake.hangs:
                    fake.end.wait(PATIENCE)
                status, body = fake.answer(self.path, self.headers.get("Authorization", ""))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                """Logs nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/models/digits"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def set_workers(self, *statuses: str, min_workers: int = 1) -> None:
        """Sets TorchServe's reply for one model version whose workers have these statuses."""
        workers = [{"id": str(9000 + i), "status": status, "gpu": False} for i, status in enumerate(statuses)]
        model = {"modelName": "digits", "modelVersion": "1.0", "minWorkers": min_workers, "workers": workers}
        self.body = json.dumps([model]).encode()

    def require_tokens(self, temporary: Path, expired: bool = False) -> None:
        """Writes a server's key file below `temporary`; with `expired`, its management key is refused."""
        self.key_file = temporary / "ganctl-x7" / "key_file.json"
        self.key_file.parent.mkdir()
        self.write_keys("old-key")
        self.valid_key = "another" if expired else "old-key"

    def write_keys(self, management: str) -> None:
        assert self.key_file is not None
        self.key_file.write_text(json.dumps({"management": {"key": management}, "API": {"key": "api-key"}}))

    def answer(self, path: str, authorization: str) -> tuple[int, bytes]:
        if self.key_file is None:
            return self.status, self.body
        if path == "/token?type=management" and authorization == "Bearer api-key":
            self.valid_key = "new-key"
            self.write_keys("new-key")
            return 200, b""
        if authorization != f"Bearer {self.valid_key}":
            return 400, b'{"code": 400, "type": "InvalidKeyException"}'
        return self.status, self.body


@pytest.fixture
def management() -> Iterator[FakeManagement]:
    fake = FakeManagement()
    yield fake
    fake.end.set()
    fake.server.shutdown()
    fake.server.server_close()


@pytest.fixture
def run_check(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs the script as the image does, without site-packages; returns its exit status and its line of output."""

    def run(*arguments: str, **environment: str) -> tuple[int, str]:
        command = [sys.executable, "-I", "-S", str(SCRIPT), *arguments]
        environment |= {"TMPDIR": str(tmp_path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.stderr == ""
        assert done.stdout.count("\n") == 1, "an engine shows one line"
        return done.returncode, done.stdout.strip()

    return run


Check = Callable[..., tuple[int, str]]


def test_all_workers_ready_is_healthy(management: FakeManagement, run_check: Check) -> None:
    management.set_workers("READY", "READY", min_workers=2)
    code, message = run_check(management.url)
    assert code == 0
    assert "READY" in message


def test_the_address_may_come_from_the_environment(management: FakeManagement, run_check: Check) -> None:
    management.set_workers("READY")
    assert run_check(GANCTL_HEALTH_URL=management.url)[0] == 0


@pytest.mark.parametrize("text", ["tcp://10.0.0.1:80", "127.0.0.1:8081/models/digits", "x"])
def test_the_error_of_an_invalid_address_names_the_variable(text: str, run_check: Check) -> None:
    code, message = run_check(GANCTL_HEALTH_URL=text)
    assert code == 1
    assert re.match(rf"GANCTL_HEALTH_URL: .*'{re.escape(text)}'.*\bhttp://127\.0\.0\.1:8081\b", message)


def test_proxies_of_the_environment_are_ignored(management: FakeManagement, run_check: Check) -> None:
    management.set_workers("READY")
    assert run_check(GANCTL_HEALTH_URL=management.url, http_proxy="http://127.0.0.1:1")[0] == 0


@pytest.mark.parametrize("status", ["UNLOADED", "LOADING", "UNLOADING"])
def test_one_worker_that_is_not_ready_is_unhealthy_and_named(
    management: FakeManagement, run_check: Check, status: str
) -> None:
    management.set_workers("READY", status, min_workers=2)
    code, reason = run_check(management.url)
    assert code == 1
    assert re.search(rf"\b9001 .*\b{status}\b", reason)
    assert "9000" not in reason


def test_a_model_without_workers_is_unhealthy(management: FakeManagement, run_check: Check) -> None:
    management.set_workers(min_workers=0)
    code, reason = run_check(management.url)
    assert code == 1
    assert re.search(r"\b0 of 1\b", reason)


def test_fewer_workers_than_the_model_must_have_is_unhealthy(management: FakeManagement, run_check: Check) -> None:
    management.set_workers("READY", min_workers=2)
    code, reason = run_check(management.url)
    assert code == 1
    assert re.search(r"\b1 of 2\b", reason)


def test_the_token_of_the_server_is_sent(management: FakeManagement, run_check: Check, tmp_path: Path) -> None:
    management.require_tokens(tmp_path)
    management.set_workers("READY")
    assert run_check(management.url)[0] == 0
    management.set_workers("UNLOADED")
    code, reason = run_check(management.url)
    assert code == 1
    assert re.search(r"\b9000 .*\bUNLOADED\b", reason)


def test_an_expired_token_is_renewed(management: FakeManagement, run_check: Check, tmp_path: Path) -> None:
    management.require_tokens(tmp_path, expired=True)
    management.set_workers("READY")
    assert run_check(management.url)[0] == 0
    assert management.valid_key == "new-key"


def test_tokens_of_an_earlier_server_are_not_used(management: FakeManagement, run_check: Check, tmp_path: Path) -> None:
    (tmp_path / "ganctl-dead").mkdir()
    stale = tmp_path / "ganctl-dead" / "key_file.json"
    stale.write_text('{"management": {"key": "stale"}, "API": {"key": "stale"}}')
    os.utime(stale, (0, 0))
    management.require_tokens(tmp_path)
    management.set_workers("READY")
    assert run_check(management.url)[0] == 0


def make_unknown(fake: FakeManagement) -> None:
    fake.status, fake.body = 404, b'{"code": 404, "type": "ModelNotFoundException"}'


def make_locked(fake: FakeManagement) -> None:
    fake.status, fake.body = 400, b'{"code": 400, "type": "InvalidKeyException"}'


def make_empty(fake: FakeManagement) -> None:
    fake.body = b"[]"


def make_html(fake: FakeManagement) -> None:
    fake.body = b"<html>some other server</html>"


def make_foreign(fake: FakeManagement) -> None:
    fake.body = b'[{"name": "digits"}]'


def make_ping(fake: FakeManagement) -> None:
    fake.body = b'{"status": "Healthy"}'


@pytest.mark.parametrize("set_reply", [make_unknown, make_locked, make_empty, make_html, make_foreign, make_ping])
def test_any_other_reply_is_unhealthy(
    management: FakeManagement, run_check: Check, set_reply: Callable[[FakeManagement], None]
) -> None:
    set_reply(management)
    code, reason = run_check(management.url)
    assert code == 1
    assert reason


def test_a_closed_port_is_unhealthy(management: FakeManagement, run_check: Check) -> None:
    management.server.shutdown()
    management.server.server_close()
    code, reason = run_check(management.url)
    assert code == 1
    assert management.url in reason


def test_a_server_that_hangs_is_unhealthy_before_the_engines_timeout(
    management: FakeManagement, run_check: Check
) -> None:
    management.set_workers("READY")
    management.hangs = True
    code, reason = run_check(management.url)
    assert code == 1
    assert "timed out" in reason
    limit = re.search(r"^HEALTHCHECK .*--timeout=(\d+)s", (DOCKER / "serve.Dockerfile").read_text(), re.MULTILINE)
    assert limit is not None
    assert 2 * runpy.run_path(str(SCRIPT))["TIMEOUT_SECONDS"] < int(limit[1])
