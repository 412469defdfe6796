"""A server keeps answering when the disk of its logs is full."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import http
from tests.integration.serving.conftest import Running, running
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
            pytest.skip("there is no mount here")
        if mounted.returncode != 0:
            pytest.skip(f"may not mount a file system here: {mounted.stderr.strip()}")
        yield Path(name)
        subprocess.run(["umount", name], check=True)


def test_a_server_that_cannot_write_its_logs_goes_on(export: Path, small_disk: Path) -> None:
    with running(export, small_disk) as server:
        expected = _seeded(server)
        logs = next(small_disk.glob("ganctl-*/logs"))
        _fill(small_disk / "filler")
        before = _bytes(logs)
        for _ in range(30):
            _make_it_log(server)
            assert _seeded(server) == expected
        assert _bytes(logs) - before < 30_000, "thirty stack traces have more bytes: the disk was not full"

        watch = Watch(server)
        killed = watch.workers()
        os.kill(min(killed), signal.SIGKILL)
        wait_for(
            lambda: watch.workers() - killed and watch.ready() == 2,
            "a worker that died while the disk was full comes back",
        )
        assert _seeded(server) == expected

        (small_disk / "filler").unlink()
        _make_it_log(server)
        wait_for(lambda: _bytes(logs) > before, "it logs again once there is room")


def _seeded(server: Running) -> bytes:
    reply = http.post(f"{server.url}/predictions/digits", json={"digits": 7, "seed": 3, "count": 9})
    assert reply.status_code == 200, reply.text
    return reply.content


def _make_it_log(server: Running) -> None:
    """TorchServe logs a stack trace for a form that it cannot decode."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert http.post(f"{server.url}/predictions/digits", content=b"seed=%zz", headers=form).status_code == 500


def _fill(path: Path) -> None:
    disk = os.statvfs(path.parent)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize)
    assert os.statvfs(path.parent).f_bavail == 0


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
