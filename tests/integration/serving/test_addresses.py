"""A server listens on IPv4 and IPv6 addresses, and `ganctl sample` and `ganctl deploy` reach it there."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests import http
from tests.integration.serving.conftest import PROJECT, Engine, finish, running, start_ganctl
from tests.waiting import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ends servers by draining them")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as listener:
            listener.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@needs_ipv6
def test_a_server_on_ipv6_answers_deploys_and_drains(engine: Engine, export: Path, tmp_path: Path) -> None:
    with running(export, tmp_path, "--host", "::1", engine=engine) as server:
        port = server.url.rpartition(":")[2]
        assert server.url == f"http://[::1]:{port}"
        assert server.record["token_file"] is None, "a server on loopback needs no token"
        for command in (
            ("sample", server.url, "--out", str(tmp_path / "x.png")),
            ("deploy", str(export), "--port", port),
        ):
            process = start_ganctl(*command, temporary=tmp_path)
            _, err = finish(process)
            assert process.returncode == 0, err
        assert http.get(server.record["metrics_url"]).status_code == 200
        server.process.terminate()
        _, err = finish(server.process)
        assert server.process.returncode == 0, err
        assert "Ended before all requests were answered" not in err


@needs_ipv6
@pytest.mark.soak_on_torchserve
def test_a_server_on_all_ipv6_addresses_also_listens_on_ipv4(engine: Engine, export: Path, tmp_path: Path) -> None:
    with running(export, tmp_path, "--host", "::", "--auth", "none", engine=engine) as server:
        port = server.url.rpartition(":")[2]
        assert server.url == f"http://[::1]:{port}"
        for host in ("[::1]", "127.0.0.1"):
            assert http.get(f"http://{host}:{port}/predictions/digits").status_code == 200


@pytest.mark.parametrize(
    ("host", "prepare", "message"),
    [
        ("127.0.0.1", "true", r"http://127\.0\.0\.1:\d+: .*\b127\.0\.0\.1\b"),  # even loopback is down
        ("::1", "true", "--host: .* ::1,.* IPv6"),
        ("::", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6", "--host: .* ::,.* IPv6"),
    ],
)
def test_an_address_that_the_machine_cannot_use_is_named_in_the_error(
    engine: Engine, host: str, prepare: str, message: str, export: Path, tmp_path: Path
) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("the program unshare is needed")
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    tried = subprocess.run([*unshare, "sh", "-c", prepare], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"this user may not make a network namespace ({tried.stderr.strip()})")
    serve = [sys.executable, "-m", "ganctl", "serve", str(export), "--engine", engine, "--port", "0", "--workers", "1"]
    done = subprocess.run(
        [*unshare, "sh", "-c", f'{prepare}; exec "$@"', "sh", *serve, "--host", host],
        env=os.environ | {"PYTHONPATH": str(PROJECT), "TMPDIR": str(tmp_path)}, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 6, done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
