"""Start, failure and end of `ganctl serve`: prompt, with the reason, and without files or processes left."""

import contextlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ganctl.serving.archive.mar import package
from ganctl.serving.errors import ServerError
from ganctl.serving.hosts.torchserve.launch import launch
from ganctl.serving.hosts.torchserve.private_folder import private_folder
from ganctl.serving.hosts.torchserve.server import Server
from tests import http
from tests.integration.serving.conftest import Running, finish, java_of, members, start_ganctl, stop
from tests.machine import large_pages_given
from tests.unit.serving.gates import Gate
from tests.unit.serving.small_export import entry, write_export
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def temporary() -> Iterator[Path]:
    """An empty folder with a short path: the workers' sockets lie in it, and the path of a socket has little room."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as name:
        yield Path(name)


def test_what_is_told_when_ready_is_true(served: Running) -> None:
    assert set(served.record) == {"url", "pid", "management_url", "metrics_url", "token_file"}
    assert served.record["pid"] == served.process.pid
    assert served.record["token_file"] is None
    assert http.get(f"{served.url}/predictions/digits").status_code == 200
    assert len(java_of(served.process.pid)) == 1


def test_java_leaves_the_cores_to_the_workers(served: Running) -> None:
    assert http.get(f"{served.url}/predictions/digits").status_code == 200
    (java,) = java_of(served.process.pid)
    threads = Path(f"/proc/{java}/task")
    names = []
    for thread in threads.iterdir():
        with contextlib.suppress(OSError):  # ended meanwhile
            names.append((thread / "comm").read_text().strip())
    assert any(name.startswith("ForkJoinPool") for name in names), "batches are sent by a pool, not by a thread each"
    assert not [name for name in names if name.startswith("G1")], "no threads that collect garbage beside the others"


def test_java_waits_no_longer_than_it_is_told_to(tmp_path: Path) -> None:
    java = tmp_path / "java"  # one that tells how late its timers may be, ns; a running Java's are told to root only
    java.write_text("#!/bin/sh\ncat /proc/self/timerslack_ns\n")
    java.chmod(0o755)
    with private_folder() as folder:
        assert launch(java, folder, {"PATH": os.environ["PATH"]}).wait(PATIENCE) == 0
        assert (folder.path / "logs" / "java.log").read_text() == "1\n"


def test_workers_hold_what_they_have_loaded_in_large_pages(served: Running) -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.is_file() or "[never]" in setting.read_text() or platform.libc_ver() < ("glibc", "2.35"):
        pytest.skip("a kernel that gives large pages is needed, and glibc from 2.35 on, which can ask for them")
    if large_pages_given(1 << 24) < 1 << 23:
        pytest.skip("the kernel has no large pages to give just now: its memory is in small pieces")
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
        out, err = finish(process)
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
    out, err = finish(process)  # TorchServe itself would try again and again, for minutes
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
    with pytest.raises(ServerError, match=r"digits\.mar") as caught, Server(mar, port=0):
        pass
    assert caught.value.exit_code == 6


@pytest.mark.parametrize(("source", "code"), [("absent", 4), ("file.txt", 4), ("absent.mar", 4)])
def test_a_source_that_is_nothing_of_ours_is_refused(tmp_path: Path, source: str, code: int) -> None:
    (tmp_path / "file.txt").write_text("x")
    process = start_ganctl("serve", str(tmp_path / source), temporary=tmp_path)
    _, err = finish(process)
    assert process.returncode == code
    assert "expected an archive (.mar), an export or a run's folder" in err


def is_pending(pid: int, number: int) -> bool:
    """Whether a process, which is stopped, has been sent a signal; or was killed, as who is told to end may be."""
    try:
        (mask,) = re.findall(r"ShdPnd:\t(\w+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return True
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_ctrl_c_while_starting_leaves_nothing(gated: Path, gate: Gate, temporary: Path) -> None:
    gate.close("loading")
    process = start_ganctl("serve", str(gated), "--port", "0", "--json", temporary=temporary)
    wait_for(lambda: gate.waiting("loading"), "a worker loads the model", process=process)
    (java,) = java_of(process.pid)
    stop(java)  # it does not end before the second signal has come
    process.send_signal(signal.SIGINT)
    wait_for(lambda: is_pending(java, signal.SIGTERM), "Java is told to end")
    process.send_signal(signal.SIGINT)  # the impatient press it twice
    with contextlib.suppress(ProcessLookupError):
        os.kill(java, signal.SIGCONT)
    out, _ = finish(process)
    assert process.returncode == 0
    assert out == ""
    assert members(java) == []  # nor the worker, which does not notice that Java has gone
    assert list(temporary.iterdir()) == []


def test_java_does_not_survive_a_killed_ganctl(export: Path, tmp_path: Path) -> None:
    process = start_ganctl("serve", str(export), "--port", "0", temporary=tmp_path)
    (java,) = wait_for(lambda: java_of(process.pid), "Java starts", process=process)
    process.kill()
    finish(process)
    wait_for(lambda: java not in members(java), "Java ends")
    wait_for(lambda: not members(java), "its workers end: they notice when they have done importing")
    for left in tmp_path.iterdir():
        shutil.rmtree(left)


def test_java_killed_under_us_is_told_and_ends_with_status_6(gated: Path, gate: Gate, temporary: Path) -> None:
    gate.close("loading")
    process = start_ganctl("serve", str(gated), "--port", "0", temporary=temporary)
    wait_for(lambda: gate.waiting("loading"), "a worker loads the model", process=process)
    (java,) = java_of(process.pid)
    os.kill(java, signal.SIGKILL)
    _, err = finish(process)
    assert process.returncode == 6
    assert "TorchServe ended while starting" in err
    assert members(java) == []
    assert list(temporary.iterdir()) == []


def test_sigterm_ends_a_serving_server_with_0_and_leaves_nothing(export: Path, tmp_path: Path, temporary: Path) -> None:
    mar = package(export, tmp_path / "mar")
    process = start_ganctl("serve", str(mar), "--port", "0", "--workers", "1", "--json", temporary=temporary)
    assert process.stdout is not None
    record = json.loads(process.stdout.readline())
    java = java_of(process.pid)[0]
    assert http.get(f"{record['url']}/predictions/digits").status_code == 200
    assert len(members(java)) == 2  # Java and its worker
    process.terminate()
    out, err = finish(process)
    assert process.returncode == 0
    assert out == "", "one line, and that was read when it was ready"
    assert "Traceback" not in err
    assert members(java) == []
    assert list(temporary.iterdir()) == []
    assert mar.is_file()
