"""A run that is killed at random times, and resumed each time, ends bitwise equal to an uninterrupted one."""

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
FINAL_STEPS = 45  # after the last kill


def start(run_dir: Path, preset: str, *words: str) -> "subprocess.Popen[bytes]":
    options = ["--preset", preset, "--run-dir", str(run_dir), "--resume", "auto", *words]
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    command = [sys.executable, "-m", "ganctl", "train", *options, *settings]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_after_a_save(run_dir: Path, preset: str, seconds: float) -> None:
    """Resumes the run, waits for its next save, and kills it `seconds` later."""
    last = run_dir / "checkpoints/last.safetensors"
    before = last.stat().st_mtime_ns if last.exists() else 0
    process = start(run_dir, preset)
    while not last.exists() or last.stat().st_mtime_ns == before:
        assert process.poll() is None, "the run ended before the kill"
        time.sleep(0.002)
    time.sleep(seconds)  # the kill may hit a step, an evaluation or a save
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.timeout(1200)
@pytest.mark.soak
@pytest.mark.parametrize("preset", ["conv", "lightning-basic-gan"])
@pytest.mark.parametrize("kills", [1, 20])
def test_a_killed_and_resumed_run_ends_bitwise_equal_to_an_uninterrupted_one(
    preset: str, kills: int, tmp_path: Path
) -> None:
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    seed = random.randrange(1 << 32)
    print(f"times of the kills: random.Random({seed})")
    rng = random.Random(seed)
    for _ in range(kills):
        kill_after_a_save(killed, preset, rng.uniform(0, 0.8))
    steps = str(read_checkpoint(killed / "checkpoints/last.safetensors").step + FINAL_STEPS)
    assert start(killed, preset, "--max-steps", steps).wait() == 0
    assert start(uninterrupted, preset, "--max-steps", steps).wait() == 0
    first_steps = [int(step) for step in re.findall(r"begins at step (\d+)", (killed / "log.txt").read_text())]
    assert len(first_steps) == kills + 1
    assert first_steps[0] == 0 < first_steps[1], "the run resumes from a checkpoint"
    assert first_steps == sorted(first_steps)
    assert_same_run(uninterrupted, killed)
    assert_same_events(uninterrupted, killed)
