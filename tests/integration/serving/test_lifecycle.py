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


def test_the_ready_record_describes_the_running_server(served: Running) -> None:
    assert set(served.record) == {"url", "pid", "management_url", "metrics_url", "token_file"}
    assert served.record["pid"] == served.process.pid
    assert served.record["token_file"] is None
    assert http.get(f"{served.url}/predictions/digits").status_code == 200
    assert len(java_of(served.process.pid)) == (served.engine == "torchserve")


def test_java_has_one_thread_pool_and_no_parallel_garbage_collector(torchserve: Running) -> None:
    assert http.get(f"{torchserve.url}/predictions/digits").status_code == 200
    (java,) = java_of(torchserve.process.pid)
    threads = Path(f"/proc/{java}/task")
    names = []
    for thread in threads.iterdir():
        with contextlib.suppress(OSError):  # the thread has ended
            names.append((thread / "comm").read_text().strip())
    assert any(name.startswith("ForkJoinPool") for name in names), "a thread pool sends the batches"
    assert not [name for name in names if name.startswith("G1")], "no threads of the G1 garbage collector"


def test_java_starts_with_the_smallest_timer_slack(tmp_path: Path) -> None:
    # A script in place of Java prints its timer slack in ns: only root can read that of a running process.
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\ncat /proc/self/timerslack_ns\n")
    java.chmod(0o755)
    with private_folder() as folder:
        assert launch(java, folder, {"PATH": os.environ["PATH"]}).wait(PATIENCE) == 0
        assert (folder.path / "logs" / "java.log").read_text() == "1\n"


def test_workers_use_large_pages(torchserve: Running) -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.is_file() or "[never]" in setting.read_text() or platform.libc_ver() < ("glibc", "2.35"):
        pytest.skip("a kernel with transparent huge pages and glibc 2.35 or newer are needed")
    if large_pages_given(1 << 24) < 1 << 23:
        pytest.skip("the kernel has no large pages now: its memory is fragmented")
    (java,) = java_of(torchserve.process.pid)
    for worker in set(members(java)) - {java}:
        (line,) = re.findall(r"AnonHugePages: +(\d+) kB", Path(f"/proc/{worker}/smaps_rollup").read_text())
        assert int(line) > 2_048


def test_a_port_in_use_is_named_with_its_flag(export: Path, tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1] - 1  # --port needs five ports in a row: the second one is taken
        process = start_ganctl("serve", str(export), "--port", str(port), "--json", temporary=tmp_path)
        out, err = finish(process)
    assert process.returncode == 6
    taken = rf"{port + 1}\b.*127\.0\.0\.1.*\bmanagement|{port}\b"  # another program may have taken the first one
    assert re.search(rf"--port {port}: .*\b({taken})", err), err
    assert json.loads(out)["exit_code"] == 6
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_loaded_ends_the_start_with_the_workers_traceback(
    tmp_path: Path, temporary: Path
) -> None:
    export = write_export(tmp_path / "export")
    damaged = b"not an ONNX model"
    (export / "generator.onnx").write_bytes(damaged)
    manifest = json.loads((export / "manifest.json").read_text())
    manifest["files"]["generator.onnx"] = entry(damaged)
    (export / "manifest.json").write_text(json.dumps(manifest))
    process = start_ganctl("serve", str(export), "--port", "0", temporary=temporary)
    out, err = finish(process)  # a stock TorchServe would restart the worker for minutes
    assert process.returncode == 6
    assert out == ""
    assert "load the model" in err
    assert err.count("Traceback (most recent call last)") == 1
    assert "INVALID_PROTOBUF" in err or "InvalidProtobuf" in err
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "absent", "text"])
def test_a_bad_archive_is_refused_before_anything_starts(export: Path, tmp_path: Path, damage: str) -> None:
    mar = package(export, tmp_path)
    if damage == "cut":
        mar.write_bytes(mar.read_bytes()[:1000])
    elif damage == "text":
        mar.write_text("not an archive")
    else:
        mar.unlink()
    with pytest.raises(ServerError, match=re.escape(str(mar))) as caught, Server(mar, port=0):
        pass
    assert caught.value.exit_code == 6


@pytest.mark.parametrize(("source", "code"), [("absent", 4), ("file.txt", 4), ("absent.mar", 4)])
def test_a_source_of_an_unknown_kind_is_refused(tmp_path: Path, source: str, code: int) -> None:
    (tmp_path / "file.txt").write_text("x")
    process = start_ganctl("serve", str(tmp_path / source), temporary=tmp_path)
    _, err = finish(process)
    assert process.returncode == code
    assert re.search(rf"{re.escape(str(tmp_path / source))}: .*\.mar\b", err), err


def is_pending(pid: int, number: int) -> bool:
    """Returns whether a stopped process has got a signal, or has been killed."""
    try:
        (mask,) = re.findall(r"ShdPnd:\t(\w+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return True
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_ctrl_c_during_the_start_leaves_no_files_or_processes(gated: Path, gate: Gate, temporary: Path) -> None:
    gate.close("loading")
    process = start_ganctl("serve", str(gated), "--port", "0", "--json", temporary=temporary)
    wait_for(lambda: gate.waiting("loading"), "a worker loads the model", process=process)
    (java,) = java_of(process.pid)
    stop(java)  # so that it does not end before the second signal
    process.send_signal(signal.SIGINT)
    wait_for(lambda: is_pending(java, signal.SIGTERM), "Java has got SIGTERM")
    process.send_signal(signal.SIGINT)  # an impatient user presses Ctrl-C twice
    with contextlib.suppress(ProcessLookupError):
        os.kill(java, signal.SIGCONT)
    out, _ = finish(process)
    assert process.returncode == 0
    assert out == ""
    assert members(java) == []  # neither Java nor the worker, which does not notice that Java has ended
    assert list(temporary.iterdir()) == []


def test_java_does_not_survive_a_killed_ganctl(export: Path, tmp_path: Path) -> None:
    process = start_ganctl("serve", str(export), "--port", "0", temporary=tmp_path)
    (java,) = wait_for(lambda: java_of(process.pid), "Java starts", process=process)
    process.kill()
    finish(process)
    wait_for(lambda: java not in members(java), "Java ends")
    wait_for(lambda: not members(java), "its workers end, after their imports")
    for left in tmp_path.iterdir():
        shutil.rmtree(left)


def test_a_java_process_killed_during_the_start_ends_the_server_with_status_6(
    gated: Path, gate: Gate, temporary: Path
) -> None:
    gate.close("loading")
    process = start_ganctl("serve", str(gated), "--port", "0", temporary=temporary)
    wait_for(lambda: gate.waiting("loading"), "a worker loads the model", process=process)
    (java,) = java_of(process.pid)
    os.kill(java, signal.SIGKILL)
    _, err = finish(process)
    assert process.returncode == 6
    assert "TorchServe ended" in err
    wait_for(lambda: members(java) == [], "the killed worker ends")
    assert list(temporary.iterdir()) == []


def test_sigterm_ends_a_server_with_0_and_leaves_no_files_or_processes(
    export: Path, tmp_path: Path, temporary: Path
) -> None:
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
    assert out == "", "stdout is one line: the record that was read above"
    assert "Traceback" not in err
    assert members(java) == []
    assert list(temporary.iterdir()) == []
    assert mar.is_file()
