"""Measures how step time and memory change over a long run of many small epochs.

    python -m ganctl.benchmarks.speed.run_length [--epochs 600]

A tiny network with ten steps per epoch; an evaluation, sample images and a checkpoint every ten epochs. Compares step
time and memory of the last quarter of the run with those of the second quarter.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import click

from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet, Split
from ganctl.training.data.datasets import load_split
from ganctl.training.loop.session import Session

_STEPS = 10  # per epoch
_SETTINGS = (
    "data.source=ganctl.benchmarks.speed.run_length:few_images", "model.base_channels=4", "model.latent_dim=8",
    "train.batch_size=64", "evaluation.every=10 epochs", "evaluation.num_images=200", "log.every=10",
    "checkpoint.save_top_k=2",
)  # fmt: skip


def few_images(settings: DataSettings, split: Split) -> ImageSet:
    """Returns ten batches of MNIST."""
    whole = load_split(settings.model_copy(update={"source": "mnist"}), split)
    return ImageSet(whole.images[: 64 * _STEPS], whole.labels[: 64 * _STEPS], whole.class_names)


class StepRecorder(Callback):
    """Records the end time of each step, and the resident memory in bytes after each epoch."""

    def __init__(self) -> None:
        self.end_times: list[float] = []
        self.memory_bytes: list[int] = []

    def on_step(self, run: Run) -> None:
        self.end_times.append(time.perf_counter())
        if run.step % _STEPS == 0:
            self.memory_bytes.append(int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096)


@click.command()
@click.option("--epochs", default=600, show_default=True, type=click.IntRange(min=8))
def main(epochs: int) -> None:
    """Print one JSON object."""
    recorder = StepRecorder()
    with tempfile.TemporaryDirectory() as folder:
        assignments = [*_SETTINGS, f"train.duration={epochs} epochs"]
        Session(preset="conv", assignments=assignments, run_dir=Path(folder) / "run").build(callbacks=[recorder]).fit()
    durations = [b - a for a, b in zip(recorder.end_times, recorder.end_times[1:], strict=False)]
    quarter, memory_quarter = len(durations) // 4, len(recorder.memory_bytes) // 4
    results = {
        "steps": len(recorder.end_times),
        "second_quarter_step_seconds": statistics.median(durations[quarter : 2 * quarter]),
        "last_quarter_step_seconds": statistics.median(durations[-quarter:]),
        "memory_bytes": recorder.memory_bytes[-1],
        "growth_bytes": statistics.median(recorder.memory_bytes[-memory_quarter:])
        - statistics.median(recorder.memory_bytes[memory_quarter : 2 * memory_quarter]),
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
