"""A run that is killed at random moments, and continued each time, ends with the bits of one that was left alone."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import SMALL
from tests.states import assert_same_run

SETTINGS = [*SMALL, "train.batch_size=32", "train.horizon=40000 images", "evaluation.every=640 images"]


def start(run_dir: Path, preset: str, steps: int) -> "subprocess.Popen[bytes]":
    words = ["--preset", preset, "--run-dir", str(run_dir), "--resume", "auto", "--max-steps", str(steps)]
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    command = [sys.executable, "-m", "ganctl", "train", *words, *settings]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def begins(run_dir: Path) -> int:
    """How often a process has begun to train there."""
    log = run_dir / "log.txt"
    return log.read_text().count("begins at step") if log.exists() else 0


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("preset", ["conv", "lightning-basic-gan"])
@pytest.mark.parametrize(
    ("kills", "steps"), [(1, 150), pytest.param(20, 1000, marks=pytest.mark.soak)], ids=["one kill", "20 kills"]
)
def test_killed_runs_end_as_undisturbed_ones(preset: str, kills: int, steps: int, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole, preset, steps).wait() == 0
    rng = random.Random()
    moments = []
    for number in range(kills):
        process = start(broken, preset, steps)
        while process.poll() is None and begins(broken) == number:
            time.sleep(0.005)
        moments.append(rng.uniform(0, 1.2))
        time.sleep(moments[-1])
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, f"it was done before kill {number + 1}, after {moments} s"
    assert start(broken, preset, steps).wait() == 0
    assert_same_run(whole, broken)
