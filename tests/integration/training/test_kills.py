"""A run that is killed at random moments, and continued each time, ends with the bits of one that was left alone."""

import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ganctl.training.checkpoint.format import read_checkpoint
from tests.conftest import SMALL
from tests.states import assert_same_events, assert_same_run

SETTINGS = [
    *SMALL, "log.tensorboard=true", "train.batch_size=32", "train.duration=100 epochs",
    "evaluation.every=640 images", "checkpoint.every=224 images", "early_stopping.patience=10000",
]  # fmt: skip
MORE = 45  # steps after the last kill


def start(run_dir: Path, preset: str, *words: str) -> "subprocess.Popen[bytes]":
    options = ["--preset", preset, "--run-dir", str(run_dir), "--resume", "auto", *words]
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    command = [sys.executable, "-m", "ganctl", "train", *options, *settings]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_after_a_save(run_dir: Path, preset: str, seconds: float) -> None:
    """Lets the run go on until it has saved once more, and then so many seconds."""
    last = run_dir / "checkpoints/last.safetensors"
    before = last.stat().st_mtime_ns if last.exists() else 0
    process = start(run_dir, preset)
    while not last.exists() or last.stat().st_mtime_ns == before:
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.002)
    time.sleep(seconds)  # steps, an evaluation or a save: whatever comes then
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("preset", ["conv", pytest.param("lightning-basic-gan", marks=pytest.mark.soak)])
@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.soak)])
def test_killed_runs_end_as_undisturbed_ones(preset: str, kills: int, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    seed = random.randrange(1 << 32)
    print(f"moments by random.Random({seed})")
    rng = random.Random(seed)
    for _ in range(kills):
        kill_after_a_save(broken, preset, rng.uniform(0, 0.8))
    steps = str(read_checkpoint(broken / "checkpoints/last.safetensors").step + MORE)
    assert start(broken, preset, "--max-steps", steps).wait() == 0
    assert start(whole, preset, "--max-steps", steps).wait() == 0
    begins = [int(step) for step in re.findall(r"begins at step (\d+)", (broken / "log.txt").read_text())]
    assert len(begins) == kills + 1
    assert begins[0] == 0 < begins[1], "it went on from a checkpoint"
    assert begins == sorted(begins)
    assert_same_run(whole, broken)
    assert_same_events(whole, broken)
