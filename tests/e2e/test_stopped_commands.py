"""A signal that ends a command also ends the processes that it started, and leaves no partial output."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import held
from tests.conftest import train_small
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def start(*words: object, **variables: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "ganctl", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def processes_with(text: str) -> list[int]:
    """Returns the ids of the processes whose command line contains `text`."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (folder / "cmdline").read_bytes():
                pids.append(int(folder.name))
        except OSError:  # the process has ended
            continue
    return pids


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_a_demo_saves_its_training_and_ends_all_its_processes(
    number: signal.Signals, tmp_path: Path
) -> None:
    """Before the signal, a second demo in the same folder is refused."""
    process = start("demo", "--out", tmp_path / "demo", "--train-seconds", "600")
    stats = tmp_path / "demo/run/stats.jsonl"
    wait_for(lambda: stats.exists() and stats.read_text(), "the first steps are done", process=process)
    second = start("demo", "--out", tmp_path / "demo", "--train-seconds", "600")
    _, err = second.communicate(timeout=PATIENCE)
    assert second.returncode == 2
    assert f"--out {tmp_path / 'demo'}: another demo" in err
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert re.search(r"\bsaved at step \d", err), err
    assert re.search(rf"^Error: .*\b{number.name}\b", err, re.MULTILINE), err
    assert processes_with(str(tmp_path)) == []


def test_sighup_during_an_export_leaves_no_output_folder(tmp_path: Path) -> None:
    run, out, hold = tmp_path / "run", tmp_path / "out", held.Hold(tmp_path / "hold", held.EXPORT)
    train_small(run, max_steps=1, extra=(held.GENERATOR,))
    process = start("export", run, "--out", out / "export", **hold.environment)
    hold.wait(process)
    assert list(out.iterdir()) != []
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGHUP
    assert not out.exists()
