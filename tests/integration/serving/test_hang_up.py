"""A closed terminal (SIGHUP) drains a server, as SIGTERM does; under nohup it keeps answering."""

import fcntl
import http.client
import json
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http import get
from tests.integration.serving.conftest import Engine, Running, finish, start_ganctl, stop
from tests.integration.serving.doors import received
from tests.integration.serving.watch import Watch
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def ignores_hang_ups() -> Iterator[None]:
    """Processes that the test starts ignore SIGHUP, as under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, before)


def start(engine: Engine, export: Path, temporary: Path, *arguments: str) -> Running:
    """Starts a server with one worker."""
    command = ("serve", str(export), "--engine", engine, "--port", "0", "--workers", "1", "--json", *arguments)
    process = start_ganctl(*command, temporary=temporary)
    assert process.stdout is not None
    return Running(process, json.loads(process.stdout.readline()), temporary, engine)


@pytest.mark.soak_on_torchserve
def test_two_hang_ups_of_every_process_drain_the_server(engine: Engine, export: Path, temporary: Path) -> None:
    server = start(engine, export, temporary, "--drain-seconds", str(PATIENCE))
    process, url, watch = server.process, server.url, Watch(server)
    assert process.stderr is not None
    before = received(server)
    (worker,) = watch.workers()
    connection = http.client.HTTPConnection("127.0.0.1", int(url.rpartition(":")[2]), timeout=PATIENCE)
    connection.request("GET", "/ping")
    connection.getresponse().read()
    stop(worker)  # so that it holds the request until SIGCONT
    connection.request("GET", "/predictions/digits")
    if engine == "torchserve":  # the native host has no process before the worker
        wait_for(lambda: received(server) == before + 1, "TorchServe has the request")
    for pid in (*watch.processes(), process.pid):
        os.kill(pid, signal.SIGHUP)
    while "Draining" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGHUP)  # for a closed terminal, the kernel and the shell send one each
    os.kill(worker, signal.SIGCONT)
    assert connection.getresponse().status == 200
    _, err = finish(process)
    assert process.returncode == 0, err
    assert "Ended before" not in err
    assert watch.processes() == set()
    assert list(temporary.iterdir()) == []


@pytest.mark.soak_on_torchserve
def test_a_closed_terminal_drains_the_server(engine: Engine, export: Path, temporary: Path) -> None:
    controller, terminal = os.openpty()
    command = [sys.executable, "-m", "ganctl", "serve", str(export), "--engine", engine]
    command += ["--port", "0", "--workers", "1", "--json"]
    process = subprocess.Popen(
        command,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        text=True,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(terminal, termios.TIOCSCTTY, 0),
    )
    os.close(terminal)
    with process:
        assert process.stdout is not None
        record = json.loads(process.stdout.readline())
        watch = Watch(Running(process, record, temporary, engine))
        os.close(controller)  # nothing can be written to the terminal any more
        assert process.wait(timeout=PATIENCE) == 0
    assert watch.processes() == set()
    assert list(temporary.iterdir()) == []


@pytest.mark.usefixtures("ignores_hang_ups")
@pytest.mark.soak_on_torchserve
def test_a_server_under_nohup_ignores_hang_ups_of_every_process(engine: Engine, export: Path, temporary: Path) -> None:
    server = start(engine, export, temporary)
    process = server.process
    for pid in (process.pid, *Watch(server).processes()):
        os.kill(pid, signal.SIGHUP)
    assert get(f"{server.url}/predictions/digits").status_code == 200
    process.terminate()
    _, err = finish(process)
    assert process.returncode == 0, err
    assert "Draining" in err, "SIGTERM ended it, not SIGHUP"
