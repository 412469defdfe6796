"""Runs `ganctl train` at each point, each in a process of its own, and reads what its callback recorded."""

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ganctl.benchmarks.children import run_module
from ganctl.benchmarks.errors import BenchError
from ganctl.benchmarks.growth.axes import AXES, BASE, Point, points
from ganctl.benchmarks.growth.data import write_images
from ganctl.benchmarks.growth.recorder import RECORD
from ganctl.benchmarks.report import JsonObject, machine
from ganctl.processes import available_cores

_FIRST_STEPS = 20  # of the first run on a data set, which prepares it
_BLOCK = 4  # steps, from one gradient penalty to the next
_SETTINGS = (
    "train.duration=1000000000 images", "train.precision=fp32", "train.device=cpu", "evaluation.every=16000 images",
    "evaluation.num_images=100", "checkpoint.save_top_k=1",
)  # fmt: skip


def measure(axes: Sequence[str], *, max_images: int, announce: Callable[[str], None] = lambda text: None) -> JsonObject:
    """Measures the points of some axes.

    Args:
        axes: names of axes.
        max_images: larger data sets are left out.
        announce: receives progress messages.

    Returns:
        `machine`, `base` (the sizes of the base point) and `axes`: name → list of points from small to large, each with
        its `value` and the figures of `summarize`. A data set has `first_start_seconds` and `first_peak_bytes` of the
        first run on it, which prepares it.

    Raises:
        BenchError: a training failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainings = Trainings(Path(folder), announce)
        largest = {"images": max_images, "ranks": available_cores()}
        return {
            "machine": machine(),
            "base": asdict(BASE),
            "axes": {
                axis: [
                    {"value": getattr(point, axis)} | trainings.measure(point)
                    for point in points(axis, largest=largest.get(axis))
                ]
                for axis in AXES
                if axis in axes
            },
        }


class Trainings:
    """Trainings in a folder that holds their data sets, caches and runs; each point is measured once."""

    def __init__(self, folder: Path, announce: Callable[[str], None]) -> None:
        self._folder, self._announce = folder, announce
        self._first: dict[tuple[int, int, int], JsonObject] = {}  # by data set: the figures of its first run
        self._measured: dict[Point, JsonObject] = {}

    def measure(self, point: Point) -> JsonObject:
        """Returns the figures of a point.

        Raises:
            BenchError: a training failed.
        """
        if point not in self._measured:
            if point.data not in self._first:
                self._first[point.data] = self._prepare(point)
            result = self._first[point.data] | summarize(self._train(point, point.steps))
            self._announce(f"{point.describe()}: {1e6 * result['seconds_per_image']:,.0f} µs per image")
            self._measured[point] = result
        return self._measured[point]

    def _prepare(self, point: Point) -> JsonObject:
        """Makes the data set, and trains on it for the first time."""
        write_images(self._data_file(point), images=point.images, size=point.size, classes=point.classes)
        record = self._train(replace(point, ranks=1), _FIRST_STEPS)
        return {"first_start_seconds": record["start_seconds"], "first_peak_bytes": record["peak_bytes"]}

    def _data_file(self, point: Point) -> Path:
        return self._folder / f"{'-'.join(map(str, point.data))}.npz"

    def _train(self, point: Point, steps: int) -> JsonObject:
        run_dir = Path(tempfile.mkdtemp(dir=self._folder))
        sizes = {
            "train.batch_size": point.batch, "model.base_channels": point.channels, "model.latent_dim": point.latent
        }  # fmt: skip
        settings = [*_SETTINGS, *(f"{name}={value}" for name, value in sizes.items())]
        started = time.time()
        done = run_module(
            [
                "ganctl", "train", str(self._data_file(point)), "--preset=conv", f"--run-dir={run_dir}",
                f"--max-steps={steps}", "--callback=ganctl.benchmarks.growth.recorder:Recorder",
                *([f"--nproc={point.ranks}"] if point.ranks > 1 else []), *(f"--set={each}" for each in settings),
            ],
            {"XDG_CACHE_HOME": str(self._folder / "cache")},
        )  # fmt: skip
        if done.returncode:
            found = f"{point.describe()}: `ganctl train` failed with exit code {done.returncode}"
            raise BenchError(f"{found}:\n{done.stderr.strip()}")
        record: JsonObject = json.loads((run_dir / RECORD).read_text("utf-8"))
        shutil.rmtree(run_dir)
        return record | {"start_seconds": record["started_at"] - started, "batch": point.batch}


def summarize(record: JsonObject) -> JsonObject:
    """Returns the figures of a training from the record of its callback: of the steps, those of its second half.

    seconds_per_image, cpu_seconds_per_image: medians of blocks of steps.
    start_seconds: from the start of the process to the first step; the data set is in the cache.
    private_bytes: memory of rank 0 that no file backs; the median over the steps.
    peak_bytes: peak of its resident memory, with mapped files, which processes share.
    evaluation_seconds: CPU seconds of the last evaluation, with the images that it writes.
    """
    half = len(record["step_seconds"]) // 2
    blocks = range(half, len(record["step_seconds"]) - _BLOCK + 1, _BLOCK)

    def per_image(name: str) -> float:
        seconds = statistics.median(sum(record[name][i : i + _BLOCK]) for i in blocks)
        return float(seconds / (_BLOCK * record["batch"]))

    return {
        "seconds_per_image": per_image("step_seconds"),
        "cpu_seconds_per_image": per_image("step_cpu_seconds"),
        "start_seconds": record["start_seconds"],
        "private_bytes": statistics.median(record["private_bytes"][half:]),
        "peak_bytes": record["peak_bytes"],
        "evaluation_seconds": record["evaluation_cpu_seconds"][-1],
    }
