"""Whether a long run costs what a short one does: many small epochs, with everything that a run does on the way.

    python -m benchmarks.run_length [--epochs 600]

A tiny network and ten steps an epoch; an evaluation, pictures and a checkpoint every ten epochs. Tells the time of a
step in the second and in the last quarter, and how much more memory the process holds in the last.
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

_STEPS = 10  # an epoch
_SETTINGS = (
    "data.name=ganctl.benchmarks.speed.run_length:few_images", "model.base_channels=4", "model.latent_dim=8",
    "train.batch_size=64", "evaluation.every=10 epochs", "evaluation.num_images=200", "log.every=10",
    "checkpoint.save_top_k=2",
)  # fmt: skip


def few_images(settings: DataSettings, split: Split) -> ImageSet:
    """Ten batches of MNIST."""
    whole = load_split(settings.model_copy(update={"name": "mnist"}), split)
    return ImageSet(whole.images[: 64 * _STEPS], whole.labels[: 64 * _STEPS], whole.class_names)


class Watch(Callback):
    """When each step ended, and how much memory the process held after each epoch."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.bytes: list[int] = []

    def on_step(self, run: Run) -> None:
        self.ends.append(time.perf_counter())
        if run.step % _STEPS == 0:
            self.bytes.append(int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096)


@click.command()
@click.option("--epochs", default=600, show_default=True, type=click.IntRange(min=8))
def main(epochs: int) -> None:
    """Prints one JSON object."""
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        words = [*_SETTINGS, f"train.duration={epochs} epochs"]
        Session(assignments=words, run_dir=Path(folder) / "run").build(callbacks=[watch]).fit()
    steps = [b - a for a, b in zip(watch.ends, watch.ends[1:], strict=False)]
    quarter, of_memory = len(steps) // 4, len(watch.bytes) // 4
    found = {
        "steps": len(watch.ends),
        "second_quarter_step_seconds": statistics.median(steps[quarter : 2 * quarter]),
        "last_quarter_step_seconds": statistics.median(steps[-quarter:]),
        "memory_bytes": watch.bytes[-1],
        "growth_bytes": statistics.median(watch.bytes[-of_memory:])
        - statistics.median(watch.bytes[of_memory : 2 * of_memory]),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
