"""A measured server has its own folder; all its processes are found, measured and ended."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ganctl.benchmarks.errors import BenchError
from ganctl.benchmarks.serving.process import Launch, Process, process_tree, run_server
from tests.waiting import wait_for

SLEEP = "import time; time.sleep(3600)"  # longer than any test
TWO = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


def printed(output: Path) -> str | None:
    return output.read_text().strip() or None


def test_a_process_tree_holds_all_descendants() -> None:
    with subprocess.Popen([sys.executable, "-c", TWO], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert [process.pid for process in process_tree(parent.pid)] == [parent.pid, child]
        assert {parent.pid, child} <= {process.pid for process in process_tree(os.getpid())}
        os.kill(child, 9)


def test_child_processes_in_other_sessions_are_measured_and_ended() -> None:
    with run_server("two", lambda folder: Launch([sys.executable, "-c", TWO], printed)) as server:
        child = int(server.url)
        folder = Path(f"/proc/{child}/cwd").readlink()
        assert folder.is_dir()
        assert server.seconds > 0
        processes = process_tree(server.pid)
        assert child in [process.pid for process in processes]
        memory = server.memory()
    assert memory["workers"] == 1
    assert 1 < memory["pss"] < memory["rss"] < memory["pss"] + 100
    assert memory["pss_all"] > memory["pss"]
    wait_for(  # the child's new parent may not have reaped it yet
        lambda: not any(process in process_tree(process.pid) for process in processes), "nothing of the server is left"
    )
    assert not folder.exists()


def test_servers_do_not_inherit_thread_and_torchserve_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("TS_NUMBER_OF_NETTY_THREADS", "7")
    code = f"import os; print(sorted(os.environ), flush=True); {SLEEP}"
    launch = Launch([sys.executable, "-c", code], printed, {"GIVEN": "1"})
    with run_server("environment", lambda folder: launch) as server:
        assert "'GIVEN'" in server.url
        assert "OMP_NUM_THREADS" not in server.url
        assert "TS_NUMBER_OF_NETTY_THREADS" not in server.url


def test_the_error_of_a_failed_start_has_the_name_the_exit_status_and_the_last_output() -> None:
    launch = Launch([sys.executable, "-c", "raise SystemExit('the model is missing')"], lambda output: None)
    facts = r"^peer\b.* 1\b.*\n +the model is missing"
    with pytest.raises(BenchError, match=facts), run_server("peer", lambda folder: launch):
        raise AssertionError("the server cannot start")


def test_processes_with_a_reused_pid_differ() -> None:
    (own,) = [process for process in process_tree(os.getpid()) if process.pid == os.getpid()]
    assert own != Process(own.pid, own.start_time + 1)
