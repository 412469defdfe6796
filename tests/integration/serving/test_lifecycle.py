"""How `ganctl serve` starts, fails and ends: promptly, with the reason, and without remains."""

import json
import os
import platform
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from serving.archive import package
from serving.errors import ServerError
from serving.launch import launch
from serving.server import Server

from ...unit.serving.small_export import entry, write_export
from .conftest import Running, java_of, members, start_ganctl

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def temporary() -> Iterator[Path]:
    """An empty folder with a short path: the workers' sockets lie in it, and the path of a socket has little room."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as name:
        yield Path(name)


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_what_is_told_when_ready_is_true(served: Running) -> None:
    assert set(served.record) == {"url", "pid", "management_url", "metrics_url", "token_file"}
    assert served.record["pid"] == served.process.pid
    assert served.record["token_file"] is None
    assert httpx.get(f"{served.url}/predictions/digits").status_code == 200
    assert len(java_of(served.process.pid)) == 1


def test_java_leaves_the_cores_to_the_workers(served: Running) -> None:
    assert httpx.get(f"{served.url}/predictions/digits").status_code == 200
    (java,) = java_of(served.process.pid)
    threads = Path(f"/proc/{java}/task")
    names = [(thread / "comm").read_text().strip() for thread in threads.iterdir()]
    assert any(name.startswith("ForkJoinPool") for name in names), "batches are sent by a pool, not by a thread each"
    assert not [name for name in names if name.startswith("G1")], "no threads that collect garbage beside the others"


def test_java_waits_no_longer_than_it_is_told_to(tmp_path: Path) -> None:
    java = tmp_path / "java"  # one that tells how late its timers may be, ns; a running Java's are told to root only
    java.write_text("#!/bin/sh\ncat /proc/self/timerslack_ns\n")
    java.chmod(0o755)
    (tmp_path / "logs").mkdir()
    assert launch(java, tmp_path, {"PATH": os.environ["PATH"]}).wait(20) == 0
    assert (tmp_path / "logs" / "java.log").read_text() == "1\n"


def test_workers_hold_what_they_have_loaded_in_large_pages(served: Running) -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.is_file() or "[never]" in setting.read_text() or platform.libc_ver() < ("glibc", "2.35"):
        pytest.skip("a kernel that gives large pages is needed, and glibc from 2.35 on, which can ask for them")
    (java,) = java_of(served.process.pid)
    for worker in set(members(java)) - {java}:
        (line,) = re.findall(r"AnonHugePages: +(\d+) kB", Path(f"/proc/{worker}/smaps_rollup").read_text())
        assert int(line) > 2_048


def test_a_port_in_use_is_named_with_its_flag(export: Path, tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1] - 1  # the second of the five
        process = start_ganctl("serve", str(export), "--port", str(port), "--json", temporary=tmp_path)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 6
    assert f"--port {port}" in err
    assert f"port {port + 1} on 127.0.0.1, for management" in err or f"port {port} " in err
    assert json.loads(out)["exit_code"] == 6
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_loaded_is_told_promptly_in_the_workers_own_words(
    tmp_path: Path, temporary: Path
) -> None:
    export = write_export(tmp_path / "export")
    broken = b"no ONNX at all"
    (export / "generator.onnx").write_bytes(broken)
    manifest = json.loads((export / "manifest.json").read_text())
    manifest["files"]["generator.onnx"] = entry(broken)
    (export / "manifest.json").write_text(json.dumps(manifest))
    process = start_ganctl("serve", str(export), "--port", "0", temporary=temporary)
    out, err = process.communicate(timeout=110)  # TorchServe itself would try again and again, for minutes
    assert process.returncode == 6
    assert out == ""
    assert "a worker could not load the model" in err
    assert err.count("Traceback (most recent call last)") == 1
    assert "INVALID_PROTOBUF" in err or "InvalidProtobuf" in err
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "absent", "text"])
def test_a_bad_archive_is_refused_before_anything_starts(export: Path, tmp_path: Path, damage: str) -> None:
    mar = package(export, tmp_path)
    if damage == "cut":
        mar.write_bytes(mar.read_bytes()[:1000])
    elif damage == "text":
        mar.write_text("no archive")
    else:
        mar.unlink()
    with pytest.raises(ServerError, match=r"digits\.mar") as caught:
        Server(mar, port=0).start()
    assert caught.value.exit_code == 6


@pytest.mark.parametrize(("source", "code"), [("absent", 4), ("file.txt", 4), ("absent.mar", 4)])
def test_a_source_that_is_nothing_of_ours_is_refused(tmp_path: Path, source: str, code: int) -> None:
    (tmp_path / "file.txt").write_text("x")
    process = start_ganctl("serve", str(tmp_path / source), temporary=tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "expected an archive (.mar), an export or a run's folder" in err


def test_ctrl_c_while_starting_leaves_nothing(export: Path, tmp_path: Path, temporary: Path) -> None:
    process = start_ganctl("serve", str(export), "--port", "0", "--json", temporary=tmp_path)
    wait_for(lambda: java_of(process.pid))
    java = java_of(process.pid)[0]
    wait_for(lambda: len(members(java)) > 1)  # a worker imports torch, and would not notice that Java has gone
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)  # the impatient press it twice
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out == ""
    assert members(java) == []
    assert list(tmp_path.iterdir()) == []


def test_java_does_not_survive_a_killed_ganctl(export: Path, tmp_path: Path) -> None:
    process = start_ganctl("serve", str(export), "--port", "0", temporary=tmp_path)
    wait_for(lambda: java_of(process.pid))
    java = java_of(process.pid)[0]
    process.kill()
    process.communicate(timeout=30)
    wait_for(lambda: java not in members(java))
    wait_for(lambda: not members(java), 30)  # its workers notice when they have done importing
    for left in tmp_path.iterdir():
        shutil.rmtree(left)


def test_java_killed_under_us_is_told_and_ends_with_status_6(export: Path, tmp_path: Path) -> None:
    process = start_ganctl("serve", str(export), "--port", "0", temporary=tmp_path)
    wait_for(lambda: java_of(process.pid))
    java = java_of(process.pid)[0]
    wait_for(lambda: len(members(java)) > 1)
    os.kill(java, signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 6
    assert "TorchServe ended while starting" in err
    assert members(java) == []
    assert list(tmp_path.iterdir()) == []


def test_sigterm_ends_a_serving_server_with_0_and_leaves_nothing(export: Path, tmp_path: Path, temporary: Path) -> None:
    mar = package(export, tmp_path / "mar")
    process = start_ganctl("serve", str(mar), "--port", "0", "--workers", "1", "--json", temporary=temporary)
    assert process.stdout is not None
    record = json.loads(process.stdout.readline())
    java = java_of(process.pid)[0]
    assert httpx.get(f"{record['url']}/predictions/digits").status_code == 200
    assert len(members(java)) == 2  # Java and its worker
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out == "", "one line, and that was read when it was ready"
    assert "Traceback" not in err
    assert members(java) == []
    assert list(temporary.iterdir()) == []
    assert mar.is_file()
