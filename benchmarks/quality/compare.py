"""Trains every system for the same time on this machine, scores all with one evaluator, and keeps what came out.

The budget is wall clock of training, the same for all: from the first step on; start-up, evaluations, saves and copies
of the generator are left out, loading of data is not. What is scored is the generator at the end (none is chosen), the
averaged one where a system averages. Each run has a process of its own; seeds take turns (seed 0 of all systems, then
seed 1 …), so that a drift of the machine's speed meets all. A run that is complete in the folder is not repeated.
"""

import json
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganctl.benchmarks.children import run_module
from ganctl.benchmarks.errors import BenchError, BenchUsageError
from ganctl.benchmarks.systems import System, systems
from ganctl.training.config.resolve import configure
from ganctl.training.data.datasets import load_split
from ganctl.training.evaluation.evaluator import Evaluator

SAMPLES = 20  # images of a run that are kept for the picture
SCORES = ("fd_ratio", "label_accuracy", "precision", "recall", "density", "coverage")
RATES = ("images_per_second", "seconds")
Record = dict[str, Any]


class Quality:
    """A comparison in a folder: `runs/NAME-SEED.json` and `.npz` for each run that is complete."""

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
        """Chooses the systems.

        Args:
            out: the folder of the results; made where it is absent.
            seconds: the budget of each run.
            seeds: how many runs each system has, with the seeds 0, 1 …
            num_images: images that are compared, at most the 10,000 of the test split.
            names: of the systems; empty for all.
            announce: told how far it is.

        Raises:
            BenchUsageError: there is no such system.
            BenchError: none of them can run here.
        """
        every = systems()
        unknown = [name for name in names if name not in {system.name for system in every}]
        if unknown:
            known = ", ".join(system.name for system in every)
            raise BenchUsageError(f"--system {unknown[0]}: no such system; there are {known}")
        wanted = [system for system in every if not names or system.name in names]
        self.skipped = {system.name: why for system in wanted if (why := system.lacks())}
        self.systems = [system for system in wanted if system.name not in self.skipped]
        self._out, self._seconds, self._seeds, self._num_images, self._announce = (
            out,
            seconds,
            seeds,
            num_images,
            announce,
        )
        for name, why in self.skipped.items():
            announce(f"{name} is skipped: {why}")
        if not self.systems:
            raise BenchError("no system can run here: " + "; ".join(f"{n}: {why}" for n, why in self.skipped.items()))
        self.failed: dict[str, str] = {}
        self._evaluator: Evaluator | None = None
        (out / "runs").mkdir(parents=True, exist_ok=True)

    def run(self) -> Record:
        """Runs what is not complete yet.

        Returns:
            the results: how they were made, each system with its runs and their means, and what was skipped or failed.

        Raises:
            BenchError: a run in the folder was made with other settings.
        """
        runs: dict[str, list[Record]] = {system.name: [] for system in self.systems}
        for system in self.systems:  # before anything is trained
            for seed in range(self._seeds):
                self._complete(system, seed)
        for seed in range(self._seeds):
            for system in self.systems:
                record = self._complete(system, seed) or self._train(system, seed)
                if record is not None:
                    runs[system.name].append(record)
                    times, rate = record["scores"]["fd_ratio"], record["images_per_second"]
                    self._announce(f"{system.name}, seed {seed}: {times:.1f} × the floor, {rate:,.0f} images/s")
        return {
            "budget_seconds": self._seconds,
            "seeds": self._seeds,
            "num_images": self._num_images,
            "machine": machine(),
            "systems": [
                {"name": system.name, "what": system.what, "runs": runs[system.name], **summary(runs[system.name])}
                for system in self.systems
                if runs[system.name]
            ],
            "skipped": self.skipped,
            "failed": self.failed,
        }

    def samples(self, name: str, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Images of a complete run, uint8 [20, C, H, W]: the first of each digit, in order; without labels the first of
        all."""
        with np.load(self._path(name, seed).with_suffix(".npz")) as kept:
            images: np.ndarray[Any, np.dtype[np.uint8]] = kept["samples"]
        return images

    def _path(self, name: str, seed: int) -> Path:
        return self._out / "runs" / f"{name}-{seed}.json"

    def _facts(self, system: System, seed: int) -> Record:
        """What a run must have in common with one that takes its place."""
        config = system.settings(self._seconds, seed)
        return {"seconds": self._seconds, "num_images": self._num_images, "settings": config.flat() if config else None}

    def _complete(self, system: System, seed: int) -> Record | None:
        path = self._path(system.name, seed)
        if not path.exists():
            return None
        record: Record = json.loads(path.read_text("utf-8"))
        if record["made_with"] != json.loads(json.dumps(self._facts(system, seed))):
            raise BenchError(
                f"--out {self._out}: {path.name} was made with other settings or another budget; name another folder,"
                " or delete that file"
            )
        return record

    def _train(self, system: System, seed: int) -> Record | None:
        self._announce(f"{system.name}, seed {seed}: trains for {self._seconds:g} s")
        words = [
            "--system",
            system.name,
            "--seed",
            str(seed),
            "--seconds",
            str(self._seconds),
            "--num-images",
            str(self._num_images),
        ]
        with tempfile.TemporaryDirectory() as folder:
            drawn = Path(folder) / "drawn.npz"
            done = run_module(["ganctl.benchmarks.quality.one_run", *words, "--out", str(drawn)])
            if done.returncode:
                lines = done.stderr.strip().splitlines() or ["it said nothing"]
                self.failed[f"{system.name}-{seed}"] = f"exit code {done.returncode}: {lines[-1]}"
                self._announce(f"{system.name}, seed {seed} failed:\n{done.stderr}")
                return None
            return self._score(system, seed, drawn)

    def _score(self, system: System, seed: int, drawn: Path) -> Record:
        """Scores every copy, the last one in full, and keeps the record."""
        if self._evaluator is None:  # one judges all
            self._evaluator = Evaluator(configure().data, "test", num_images=self._num_images)
        with np.load(drawn) as found:
            copies, seconds, seen = found["images"], found["seconds"].tolist(), found["seen"].tolist()
            labels = torch.from_numpy(found["labels"]) if len(found["labels"]) else None
            threads = int(found["threads"])
        curve, scores = [], {}
        for i, images in enumerate(copies):
            last = i == len(copies) - 1
            scores = self._evaluator.score_images(torch.from_numpy(images), labels, full=last)
            curve.append({"seconds": seconds[i], "images": seen[i], "fd_ratio": scores["fd_ratio"]})
        record = {
            "seed": seed,
            "seconds": seconds[-1],
            "images": seen[-1],
            "images_per_second": seen[-1] / seconds[-1],
            "threads": threads,
            "scores": scores,
            "curve": curve,
            "made_with": self._facts(system, seed),
        }
        path = self._path(system.name, seed)
        shown = slice(SAMPLES) if labels is None else _in_turn(labels)
        np.savez_compressed(path.with_suffix(".npz"), samples=copies[-1][shown])
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(record), "utf-8")
        unfinished.replace(path)  # last: what has this name is complete
        return record


def summary(runs: Sequence[Record]) -> Record:
    """mean and (of two runs or more) sample standard deviation of each score, None without labels; and the worst run's
    Fréchet distance."""
    mean: Record = {}
    std: Record = {}
    for name in SCORES + RATES:
        values = [(run if name in RATES else run["scores"])[name] for run in runs]
        known = [value for value in values if value is not None]
        mean[name] = float(np.mean(known)) if known else None
        std[name] = float(np.std(known, ddof=1)) if len(known) > 1 else None
    worst = max((run["scores"]["fd_ratio"] for run in runs), default=None)
    return {"mean": mean, "std": std, "worst_fd_times_floor": worst}


def machine() -> Record:
    """Where it ran, as far as it matters."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {"device": device, "cores": os.cpu_count(), "torch": torch.__version__, "python": platform.python_version()}


def real_samples() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Test images to hold the others against, uint8 [20, C, H, W]: the first of each digit, in order."""
    data = load_split(configure().data, "test")
    images: np.ndarray[Any, np.dtype[np.uint8]] = data.images[_in_turn(data.labels)].numpy()
    return images


def _in_turn(labels: torch.Tensor) -> list[int]:
    """The places of the first 0, the first 1 … the second 0 … among int64 labels [N]."""
    return [int((labels == i % 10).nonzero()[i // 10]) for i in range(SAMPLES)]
