"""`ganctl board`: a real TensorBoard on real runs."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import http
from tests.conftest import train_small
from tests.waiting import PATIENCE


@pytest.fixture(scope="module")
def logged_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with TensorBoard events, in a folder of runs."""
    folder = tmp_path_factory.mktemp("logged") / "runs" / "00000-conv"
    return train_small(folder, max_steps=10, extra=("log.tensorboard=true",))


@contextmanager
def board(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, object]]]:
    """Starts `ganctl board --json` in a folder; yields the process and its JSON object."""
    command = [sys.executable, "-m", "ganctl", "board", *words, "--port", "0", "--json"]
    environment = os.environ | {"TMPDIR": str(folder)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def stop(process: "subprocess.Popen[str]", number: signal.Signals) -> int:
    process.send_signal(number)
    return process.wait(PATIENCE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_runs_have_short_names_until_a_signal_ends_the_board(
    number: signal.Signals, logged_run: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "a,b:c" / "run, one:two"
    shutil.copytree(logged_run, odd)
    with board(tmp_path, str(logged_run), str(odd)) as (process, record):
        assert http.get(f"{record['url']}data/environment").status_code == 200
        assert sorted(http.get(f"{record['url']}data/runs").json()) == ["00000-conv", "run, one:two"]
        assert record["runs"] == {"00000-conv": str(logged_run), "run, one:two": str(odd)}
        assert record["pid"] == process.pid
        assert len(list(tmp_path.glob("ganctl-*"))) == 1
        assert stop(process, number) == 0
    assert list(tmp_path.glob("ganctl-*")) == []
    assert (odd / "config.toml").exists()


SLOW_END = """
import contextlib, time
from pathlib import Path
from ganctl.training.cli import board
from ganctl.training.report import logdir

@contextlib.contextmanager
def linked_runs(paths):
    try:
        yield Path(), {}
    finally:
        print("ending", flush=True)
        time.sleep(600)

logdir.linked_runs, board._launch, board.REPEAT_WINDOW = linked_runs, lambda *words: "url", 0.0
board.board(["run"])
"""


def test_a_second_signal_ends_a_board_whose_end_takes_long() -> None:
    with subprocess.Popen([sys.executable, "-c", SLOW_END], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "url" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "ending\n"
        try:
            assert stop(process, signal.SIGTERM) == -signal.SIGTERM
        finally:
            process.kill()


def test_the_default_is_the_folder_runs_in_which_new_runs_appear(logged_run: Path, tmp_path: Path) -> None:
    shutil.copytree(logged_run, tmp_path / "runs" / "00000-first")
    with board(tmp_path) as (process, record):
        assert record["runs"] == {"runs": str(tmp_path / "runs")}
        assert http.get(f"{record['url']}data/runs").json() == ["00000-first"]
        assert stop(process, signal.SIGTERM) == 0


def test_a_port_in_use_exits_with_6_and_names_the_flag(logged_run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = str(used.getsockname()[1])
        command = [sys.executable, "-m", "ganctl", "board", str(logged_run), "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 6
    assert f"Error: --port {port}: the port is in use." in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("name", ["nothing", "other"])
def test_a_folder_without_runs_exits_with_4(name: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    command = [sys.executable, "-m", "ganctl", "board", str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 4
    assert f"{name}: found " in done.stderr
    assert "expected a run or a folder that holds runs. Name the folder of a run" in done.stderr
