"""Runs that start with the networks of a run on other images: `ganctl train --init-from`."""

from pathlib import Path

import pytest
import torch

from ganctl.training.checkpoint.format import read_checkpoint
from tests.any_images import disks, save_folder, untrained_run
from tests.conftest import Ganctl, one_object

SETTINGS = ("--preset", "quick", "--set", "model.base_channels=8", "--set", "model.generator_base_channels=8")


@pytest.mark.soak
def test_a_run_on_other_images_logs_what_it_took_resumes_bit_for_bit_and_starts_equally_on_ranks(
    ganctl: Ganctl, tmp_path: Path
) -> None:
    source = untrained_run(tmp_path / "source", save_folder(tmp_path / "labeled", disks(30, 28), labeled=True))
    data = save_folder(tmp_path / "unlabeled", disks(40, 40, seed=1)[..., :3])
    words = ("train", data, *SETTINGS, "--batch-size", 8, "--precision", "fp32", "--init-from", source)

    dry = one_object(ganctl(*words, "--dry-run", "--json").stdout)
    taken = dry["init_from"]
    assert isinstance(taken, dict)
    assert "discriminator.features.6.weight" in taken["adapted"]
    assert "discriminator.projection.weight" in taken["unused"]

    for folder, more in (("whole", ("--max-steps", 4)), ("parts", ("--max-steps", 2)), ("ranks", ("--max-steps", 2))):
        ranks = ("--nproc", 2) if folder == "ranks" else ()
        done = ganctl(*words, *more, *ranks, "--run-dir", tmp_path / folder)
        assert done.returncode == 0, done.stderr
    resumed = ganctl("train", "--run-dir", tmp_path / "parts", "--resume", "auto", "--max-steps", 4)
    assert resumed.returncode == 0, resumed.stderr
    assert "starts with the networks" not in resumed.stderr

    log = (tmp_path / "parts/log.txt").read_text("utf-8")
    lines = ("starts with the networks of", "from 4 to 3 channels", "from 28 × 28 to 40 × 40 pixels")
    for line in (*lines, "left out: generator.embedding"):
        assert log.count(line) == 1, line
        assert line in (tmp_path / "ranks/log.txt").read_text("utf-8")

    states = [
        read_checkpoint(tmp_path / folder / "checkpoints/last.safetensors").state for folder in ("whole", "parts")
    ]
    for name in ("generator", "discriminator", "ema"):
        for key, tensor in states[0]["networks"][name].items():
            assert torch.equal(states[1]["networks"][name][key], tensor), f"{name}.{key}"
