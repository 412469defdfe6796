"""A run that is killed at random moments, and continued each time, ends with the bits of one that was left alone."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import SMALL
from training.checkpoint import read_checkpoint

STEPS, KILLS = 120, 5
SETTINGS = [*SMALL, "train.batch_size=32", "train.horizon=8000 images", "evaluation.every=320 images"]


def start(run_dir: Path, preset: str) -> "subprocess.Popen[bytes]":
    words = ["--preset", preset, "--run-dir", str(run_dir), "--resume", "auto", "--max-steps", str(STEPS)]
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    command = [sys.executable, "-m", "ganctl", "train", *words, *settings]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("preset", ["conv", "lightning-basic-gan"])
def test_killed_runs_end_as_undisturbed_ones(preset: str, tmp_path: Path) -> None:
    assert start(tmp_path / "whole", preset).wait() == 0
    rng = random.Random(0)
    killed = 0
    for _ in range(KILLS):
        process = start(tmp_path / "killed", preset)
        time.sleep(rng.uniform(3, 9))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed > 0, "every run was done before its kill: make it longer"
    assert start(tmp_path / "killed", preset).wait() == 0
    first, second = (
        read_checkpoint(tmp_path / name / "checkpoints/last.safetensors").state["networks"]
        for name in ("whole", "killed")
    )
    for network in ("generator", "discriminator", "ema"):
        for name, tensor in first[network].items():
            assert torch.equal(tensor, second[network][name]), f"{network}.{name}"
