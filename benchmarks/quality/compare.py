"""Trains every system for the same time on this machine and scores all with one evaluator.

The budget is wall clock time from the first step on. It includes loading of data, but not start-up, evaluations, saves
and snapshots of the generator. The final generator is scored (no selection of checkpoints), or its EMA if the system
has one. Each run has a process of its own. The runs are interleaved (seed 0 of all systems, then seed 1, …), so that a
drift of the machine's speed affects all systems. A complete run in the folder is reused.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganctl.benchmarks.children import run_module
from ganctl.benchmarks.errors import BenchError
from ganctl.benchmarks.report import JsonObject, choose, machine
from ganctl.benchmarks.systems import System, systems
from ganctl.files import write_file
from ganctl.training.config.resolve import configure
from ganctl.training.data.datasets import load_split
from ganctl.training.evaluation.evaluator import Evaluator

SAMPLES = 20  # images of each run for the figure
SCORES = ("fd_ratio", "label_accuracy", "precision", "recall", "density", "coverage")
RATES = ("images_per_second", "seconds")
Uint8Array = np.ndarray[Any, np.dtype[np.uint8]]


class QualityBenchmark:
    """A comparison in a folder: `runs/NAME-SEED.json` and `.npz` for each complete run."""

    def __init__(
        self,
        out: Path,
        *,
        seconds: float,
        seeds: int,
        num_images: int,
        names: Sequence[str],
        announce: Callable[[str], None],
    ) -> None:
        """Selects the systems.

        Args:
            out: the folder for the results; created if it is absent.
            seconds: the budget of each run.
            seeds: the number of runs of each system, with the seeds 0, 1, …
            num_images: the number of images to score, at most the 10,000 of the test split.
            names: of the systems; empty for all.
            announce: called with progress messages.

        Raises:
            BenchUsageError: a system does not exist.
            BenchError: no selected system can run here.
        """
        selected = choose({system.name: system for system in systems()}, names, "--system")
        self.skipped = {system.name: why for system in selected if (why := system.unavailable())}
        self.systems = [system for system in selected if system.name not in self.skipped]
        self._out, self._announce = out, announce
        self._seconds, self._seeds, self._num_images = seconds, seeds, num_images
        for name, why in self.skipped.items():
            announce(f"{name} is skipped: {why}")
        if not self.systems:
            raise BenchError("no system can run here: " + "; ".join(f"{n}: {why}" for n, why in self.skipped.items()))
        self.failed: dict[str, str] = {}
        self._evaluator: Evaluator | None = None
        (out / "runs").mkdir(parents=True, exist_ok=True)

    def run(self) -> JsonObject:
        """Runs all incomplete runs.

        Returns:
            the results: the conditions, each system's runs with their means, and the skipped and failed systems.

        Raises:
            BenchError: a run in the folder has other settings.
        """
        runs: dict[str, list[JsonObject]] = {system.name: [] for system in self.systems}
        for system in self.systems:  # raises before anything is trained
            for seed in range(self._seeds):
                self._load(system, seed)
        for seed in range(self._seeds):
            for system in self.systems:
                record = self._load(system, seed) or self._train(system, seed)
                if record is not None:
                    runs[system.name].append(record)
                    fd_ratio, rate = record["scores"]["fd_ratio"], record["images_per_second"]
                    self._announce(f"{system.name}, seed {seed}: {fd_ratio:.1f} × the floor, {rate:,.0f} images/s")
        return {
            "budget_seconds": self._seconds,
            "seeds": self._seeds,
            "num_images": self._num_images,
            "machine": machine(),
            "systems": [
                {"name": system.name, "what": system.description, "runs": made, **summary(made)}
                for system in self.systems
                if (made := runs[system.name])
            ],
            "skipped": self.skipped,
            "failed": self.failed,
        }

    def samples(self, name: str, seed: int) -> Uint8Array:
        """Returns images of a complete run, uint8 [20, C, H, W]: digits 0 … 9 twice; without labels, the first 20."""
        with np.load(self._path(name, seed).with_suffix(".npz")) as arrays:
            images: Uint8Array = arrays["samples"]
        return images

    def _path(self, name: str, seed: int) -> Path:
        return self._out / "runs" / f"{name}-{seed}.json"

    def _fingerprint(self, system: System, seed: int) -> JsonObject:
        """The settings that a stored run must share with a new one to be reused."""
        config = system.settings(self._seconds, seed)
        return {"seconds": self._seconds, "num_images": self._num_images, "settings": config.flat() if config else None}

    def _load(self, system: System, seed: int) -> JsonObject | None:
        path = self._path(system.name, seed)
        if not path.exists():
            return None
        record: JsonObject = json.loads(path.read_text("utf-8"))
        if record["made_with"] != json.loads(json.dumps(self._fingerprint(system, seed))):
            raise BenchError(
                f"--out {self._out}: found {path.name} with other settings or another budget. Name another folder, or"
                " delete that file."
            )
        return record

    def _train(self, system: System, seed: int) -> JsonObject | None:
        self._announce(f"{system.name}, seed {seed}: training for {self._seconds:g} s")
        with tempfile.TemporaryDirectory() as folder:
            generated = Path(folder) / "generated.npz"
            arguments = [f"--system={system.name}", f"--seed={seed}", f"--seconds={self._seconds}"]
            arguments += [f"--num-images={self._num_images}", f"--out={generated}"]
            done = run_module(["ganctl.benchmarks.quality.one_run", *arguments])
            if done.returncode:
                lines = done.stderr.strip().splitlines() or ["no message"]
                self.failed[f"{system.name}-{seed}"] = f"exit code {done.returncode}: {lines[-1]}"
                self._announce(f"{system.name}, seed {seed} failed:\n{done.stderr}")
                return None
            return self._score(system, seed, generated)

    def _score(self, system: System, seed: int, generated: Path) -> JsonObject:
        """Scores all snapshots (the last one with all metrics) and writes the record."""
        if self._evaluator is None:  # the same for all runs
            self._evaluator = Evaluator(configure().data, "test", num_images=self._num_images)
        with np.load(generated) as arrays:
            snapshots, seconds = arrays["images"], arrays["seconds"].tolist()
            images_seen = arrays["images_seen"].tolist()
            labels = torch.from_numpy(arrays["labels"]) if len(arrays["labels"]) else None
            threads = int(arrays["threads"])
        curve, scores = [], {}
        for i, images in enumerate(snapshots):
            last = i == len(snapshots) - 1
            scores = self._evaluator.score_images(torch.from_numpy(images), labels, full=last)
            curve.append({"seconds": seconds[i], "images": images_seen[i], "fd_ratio": scores["fd_ratio"]})
        record = {
            "seed": seed,
            "seconds": seconds[-1],
            "images": images_seen[-1],
            "images_per_second": images_seen[-1] / seconds[-1],
            "threads": threads,
            "scores": scores,
            "curve": curve,
            "made_with": self._fingerprint(system, seed),
        }
        path = self._path(system.name, seed)
        selection = slice(SAMPLES) if labels is None else _digits_in_order(labels)
        np.savez_compressed(path.with_suffix(".npz"), samples=snapshots[-1][selection])
        write_file(path, json.dumps(record))  # last, because this file marks the run as complete
        return record


def summary(runs: Sequence[JsonObject]) -> JsonObject:
    """Returns mean and sample standard deviation of each score, and the worst run's Fréchet distance.

    The mean is None for scores that need labels if there are none; the deviation is None for fewer than two runs.
    """
    mean, std = JsonObject(), JsonObject()
    for name in SCORES + RATES:
        values = [(run if name in RATES else run["scores"])[name] for run in runs]
        known = [value for value in values if value is not None]
        mean[name] = float(np.mean(known)) if known else None
        std[name] = float(np.std(known, ddof=1)) if len(known) > 1 else None
    worst = max((run["scores"]["fd_ratio"] for run in runs), default=None)
    return {"mean": mean, "std": std, "worst_fd_ratio": worst}


def real_samples() -> Uint8Array:
    """Returns test images for comparison, uint8 [20, C, H, W]: digits 0 … 9 twice."""
    data = load_split(configure().data, "test")
    images: Uint8Array = data.images[_digits_in_order(data.labels)].numpy()
    return images


def _digits_in_order(labels: torch.Tensor) -> list[int]:
    """Returns the indices of the first 0, the first 1, …, the second 0, … in labels, int64 [N]."""
    return [int((labels == i % 10).nonzero()[i // 10]) for i in range(SAMPLES)]
