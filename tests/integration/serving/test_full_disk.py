"""A server of either engine keeps answering when the disk of its logs is full."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import http
from tests.conftest import Ganctl
from tests.integration.serving.conftest import Running, native_workers_of, running
from tests.integration.serving.doors import seeded_image
from tests.integration.serving.watch import Watch
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs, looks into /proc")


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """An empty file system of 16 MiB."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as name:
        command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", name]
        try:
            mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("the program mount is needed")
        if mounted.returncode != 0:
            pytest.skip(f"this user may not mount a file system: {mounted.stderr.strip()}")
        yield Path(name)
        subprocess.run(["umount", name], check=True)


@pytest.mark.soak
def test_a_server_answers_while_the_disk_of_its_logs_is_full(export: Path, small_disk: Path) -> None:
    with running(export, small_disk) as server:
        expected = seeded_image(server)
        logs = next(small_disk.glob("ganctl-*/logs"))
        _fill(small_disk / "filler")
        before = _bytes(logs)
        for _ in range(30):
            _log_stack_trace(server)
            assert seeded_image(server) == expected
        assert _bytes(logs) - before < 30_000, "thirty stack traces are longer: the disk was not full"

        watch = Watch(server)
        killed = watch.workers()
        os.kill(min(killed), signal.SIGKILL)
        wait_for(
            lambda: watch.workers() - killed and watch.ready() == 2,
            "a worker that died while the disk was full is restarted",
        )
        assert seeded_image(server) == expected

        (small_disk / "filler").unlink()
        _log_stack_trace(server)
        wait_for(lambda: _bytes(logs) > before, "the server logs again once the disk has space")


def test_the_native_host_answers_restarts_workers_and_refuses_a_deployment_while_its_disk_is_full(
    export: Path, small_disk: Path, ganctl: Ganctl
) -> None:
    log = small_disk / "access"
    with running(export, small_disk, "--access-log", str(log), engine="native") as server:
        expected = seeded_image(server)
        port = server.url.rpartition(":")[2]
        wait_for(lambda: _bytes(log) > 0, "the access log has the request")
        _fill(small_disk / "filler")
        for _ in range(100):
            assert seeded_image(server) == expected
        full = _bytes(log)

        killed = set(native_workers_of(server.process.pid))
        os.kill(min(killed), signal.SIGKILL)
        wait_for(
            lambda: len(set(native_workers_of(server.process.pid)) - {min(killed)}) == len(killed),
            "a worker that died while the disk was full is restarted",
        )
        assert seeded_image(server) == expected
        done = ganctl("deploy", export, "--port", port, env=os.environ | {"TMPDIR": str(small_disk)})
        assert done.returncode == 1, done.stderr
        assert "No space left" in done.stderr
        assert seeded_image(server) == expected

        (small_disk / "filler").unlink()
        assert seeded_image(server) == expected
        wait_for(lambda: _bytes(log) > full, "requests are logged again once the disk has space")
        assert ganctl("deploy", export, "--port", port).returncode == 0


def _log_stack_trace(server: Running) -> None:
    """Makes TorchServe log a stack trace, by a form that it cannot decode."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert http.post(f"{server.url}/predictions/digits", content=b"seed=%zz", headers=form).status_code == 500


def _fill(path: Path) -> None:
    """Writes a file that takes all free space of its file system."""
    disk = os.statvfs(path.parent)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize)
    assert os.statvfs(path.parent).f_bavail == 0


def _bytes(folder: Path) -> int:
    """The size of all files of a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())
