"""Commands that are ended by a signal end what they have started, and leave nothing half made."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import held
from tests.conftest import train_small
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def start(*words: object, **variables: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "ganctl", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


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


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.soak)])
def test_a_demo_that_is_ended_ends_its_stage_which_saves(number: signal.Signals, tmp_path: Path) -> None:
    """Another demo in the same folder is refused meanwhile."""
    process = start("demo", "--out", tmp_path / "demo", "--train-seconds", "600")
    stats = tmp_path / "demo/run/stats.jsonl"
    wait_for(lambda: stats.exists() and stats.read_text(), "the first steps are done", process=process)
    second = start("demo", "--out", tmp_path / "demo", "--train-seconds", "600")
    _, err = second.communicate(timeout=PATIENCE)
    assert second.returncode == 2
    assert "another demo uses it" in err
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert "and saved at step" in err
    assert f"Error: ended by {number.name}" in err
    assert processes_with(str(tmp_path)) == []


def test_an_export_that_is_hung_up_leaves_nothing(tmp_path: Path) -> None:
    run, out, hold = tmp_path / "run", tmp_path / "out", held.Hold(tmp_path / "hold", held.EXPORT)
    train_small(run, max_steps=1, extra=(held.GENERATOR,))
    process = start("export", run, "--out", out / "export", **hold.environment)
    hold.wait(process)
    assert list(out.iterdir()) != []
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGHUP
    assert not out.exists()
