"""`python -m ganctl.benchmarks.few_images` and `….fine_tuning` from the images to their tables, with real trainings."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.any_images import disks, save_folder

pytestmark = pytest.mark.soak


def run(name: str, *words: object, out: Path) -> tuple[list[str], dict[str, Any]]:
    """Runs a benchmark with small networks; returns the rows of its table, and its results."""
    command = [sys.executable, "-m", f"ganctl.benchmarks.{name}", *map(str, words), "--out", str(out)]
    command += ["--set", "model.base_channels=8", "--set", "train.precision=fp32"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads((out / "results.json").read_text("utf-8"))
    return done.stdout.splitlines()[2:], results


def test_few_images_are_trained_with_and_without_augmentation_and_searched_for_copies(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "disks", disks(400, 16), labeled=True)
    rows, results = run("few_images", source, "--images", "30,all", "--seconds", 2, out=tmp_path / "out")
    assert [row.split(" | ")[1] for row in rows] == ["none", "adaptive"] * 2
    assert [made["train_images"] for made in results["runs"]] == [30, 30, 322, 322]
    assert len({made["scores"]["num_images"] for made in results["runs"]}) == 1, "all are scored on all test images"
    assert all(made["scores"]["fd"] > 0 and "flagged" in made["copies"] for made in results["runs"])


def test_fine_tuning_is_compared_with_training_from_nothing(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "disks", disks(300, 16), labeled=True)
    target = save_folder(tmp_path / "others", disks(300, 16, seed=1), labeled=True)
    words = ("--source", source, "--target", target, "--images", 80, "--seconds", 2, "--source-seconds", 2)
    batch = ("--set", "train.batch_size=64")  # fewer than the images
    rows, results = run("fine_tuning", *words, *batch, out=tmp_path / "out")
    assert [row.split(" | ")[0] for row in rows] == ["| from nothing", "| fine-tuned"]
    assert [made["start"] for made in results["runs"]] == ["from nothing", "fine-tuned"]
    assert (tmp_path / "out/source").is_dir()
