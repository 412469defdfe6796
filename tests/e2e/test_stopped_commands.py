"""Commands that are ended by a signal end what they have started, and leave nothing half made."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def start(*words: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "ganctl", *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def processes_with(word: str) -> list[int]:
    """The living processes that have `word` in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # gone meanwhile
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_ended_ends_its_stage_which_saves(number: signal.Signals, tmp_path: Path) -> None:
    process = start("demo", "--out", tmp_path / "demo", "--train-seconds", "600")
    stats = tmp_path / "demo/run/stats.jsonl"
    while not stats.exists() or not stats.read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert "and saved at step" in err
    assert f"Error: ended by {number.name}" in err
    assert processes_with(str(tmp_path)) == []


def test_an_export_that_is_hung_up_leaves_nothing(small_run: Path, tmp_path: Path) -> None:
    process = start("export", small_run, "--out", tmp_path / "out/export")
    while not list((tmp_path / "out").glob(".*/export")) if (tmp_path / "out").exists() else True:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGHUP
    assert list((tmp_path / "out").iterdir()) == []
