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

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganctl import __version__
from ganctl.benchmarks.children import run_module
from ganctl.benchmarks.errors import BenchError
from ganctl.benchmarks.quality.recorder import snapshot_times
from ganctl.benchmarks.report import JsonObject, choose, machine
from ganctl.benchmarks.systems import System, systems
from ganctl.common.pixels import to_npz_layout
from ganctl.files import write_file
from ganctl.training.config.resolve import resolve
from ganctl.training.data.base import premultiply
from ganctl.training.data.datasets import data_digest, load_split
from ganctl.training.evaluation.evaluator import Evaluator
from ganctl.training.evaluation.measure import MEASURE
from ganctl.training.evaluation.reference_stats import subsample
from ganctl.training.images.pictures import straight
from ganctl.training.readers.arrays import to_channels_last

SAMPLES = 20  # images of each run for the figure
CURVE_IMAGES = 500  # fewest images of each snapshot that are scored for the curve
CURVE_SHARE = 5  # one for so many images of the final score; not more, because some peers draw six images a second
# those that the evaluator returns are in the results
SCORES = (
    "fd", "fd_floor", "fd_ratio", "kid", "kid_se", "label_accuracy", "precision", "recall", "density", "coverage",
)  # fmt: skip
RATES = ("images", "images_per_second", "seconds")
CURVE_SCORES = ("fd", "fd_floor", "fd_ratio", "kid")


class QualityBenchmark:
    """A comparison in a folder: `runs/NAME-SEED.json` and `.npz` for each complete run.

    The .npz holds the images that were scored, in the form of `ganctl sample --out FILE.npz`.
    """

    def __init__(
        self,
        out: Path,
        *,
        seconds: float,
        seeds: int,
        num_images: int,
        names: Sequence[str],
        announce: Callable[[str], None],
        source: str = "mnist",
    ) -> None:
        """Selects the systems.

        Args:
            out: the folder for the results; created if it is absent.
            seconds: the budget of each run.
            seeds: the number of runs of each system, with the seeds 0, 1, …
            num_images: the number of images to score; fewer, if the data have fewer test images.
            names: of the systems; empty for all.
            announce: called with progress messages.
            source: the data set, as `data.source`.

        Raises:
            BenchUsageError: a system does not exist.
            BenchError: no selected system can run here.
            ConfigError, DataError: the data set cannot be read.
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
        self._data = resolve(flags={"data.source": ("--data", source)}, environment={})[0].data
        self._digest = data_digest(self._data)
        self.failed: dict[str, str] = {}
        self._evaluators: dict[int, Evaluator] = {}
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
                    distance = distance_text(record["scores"])
                    self._announce(
                        f"{system.name}, seed {seed}: {distance}, {record['images_per_second']:,.0f} images/s"
                    )
        return {
            "data": self._data.name,
            "budget_seconds": self._seconds,
            "curve_seconds": snapshot_times(self._seconds),
            "seeds": self._seeds,
            "num_images": max((run["num_images"] for made in runs.values() for run in made), default=self._num_images),
            "machine": machine(),
            "systems": [
                {"name": system.name, "what": system.description, "runs": made, **summary(made)}
                for system in self.systems
                if (made := runs[system.name])
            ],
            "skipped": self.skipped,
            "failed": self.failed,
        }

    def samples(self, name: str, seed: int) -> NDArray[np.uint8]:
        """Returns the first 20 images of a complete run, straight uint8 [20, H, W, C]."""
        with np.load(self._path(name, seed).with_suffix(".npz")) as arrays:
            images: NDArray[np.uint8] = to_channels_last(arrays["images"][:SAMPLES])
        return images if images.ndim == 4 else images[..., None]

    def real_samples(self) -> NDArray[np.uint8]:
        """Returns test images for comparison, straight uint8 [20, H, W, C]."""
        images = subsample(load_split(self._data, "test").images, SAMPLES)
        return straight(images.permute(0, 2, 3, 1).numpy())

    def _path(self, name: str, seed: int) -> Path:
        return self._out / "runs" / f"{name}-{seed}.json"

    def _fingerprint(self, system: System, seed: int) -> JsonObject:
        """Returns the settings, data, machine and versions that a stored run must share with a new one to be reused."""
        config = system.settings(self._seconds, seed, self._data.source)
        settings = config.flat() if config else system.description  # the latter has the version of a peer
        versions = {"ganctl": __version__, "measure": MEASURE, **machine()}
        numbers = {"seconds": self._seconds, "num_images": self._num_images}
        return numbers | {"data": self._digest, "settings": settings} | versions

    def _load(self, system: System, seed: int) -> JsonObject | None:
        path = self._path(system.name, seed)
        if not path.exists():
            return None
        record: JsonObject = json.loads(path.read_text("utf-8"))
        if record["made_with"] != json.loads(json.dumps(self._fingerprint(system, seed))):
            raise BenchError(
                f"--out {self._out}: found {path.name} with other settings, another budget, or of another machine or"
                " version. Name another folder, or delete that file."
            )
        return record

    def _train(self, system: System, seed: int) -> JsonObject | None:
        evaluator = self._evaluator(self._num_images)  # before the training, which may be long: it may reject the data
        curve_images = min(max(CURVE_IMAGES, evaluator.num_images // CURVE_SHARE), evaluator.num_images)
        self._announce(f"{system.name}, seed {seed}: training for {self._seconds:g} s")
        with tempfile.TemporaryDirectory() as folder:
            arguments = [f"--system={system.name}", f"--data={self._data.source}", f"--seed={seed}"]
            arguments += [f"--seconds={self._seconds}", f"--num-images={evaluator.num_images}"]
            arguments += [f"--curve-images={curve_images}", f"--out={folder}"]
            done = run_module(["ganctl.benchmarks.quality.one_run", *arguments])
            if done.returncode:
                lines = done.stderr.strip().splitlines() or ["no message"]
                self.failed[f"{system.name}-{seed}"] = f"exit code {done.returncode}: {lines[-1]}"
                self._announce(f"{system.name}, seed {seed} failed:\n{done.stderr}")
                return None
            return self._score(system, seed, Path(folder), curve_images)

    def _evaluator(self, num_images: int) -> Evaluator:
        """Returns the evaluator for this number of images, the same for all runs."""
        if num_images not in self._evaluators:
            evaluator = Evaluator(self._data, "test", num_images=num_images, announce=self._announce)
            self._evaluators[num_images] = self._evaluators[evaluator.num_images] = evaluator
        return self._evaluators[num_images]

    def _score(self, system: System, seed: int, folder: Path, curve_images: int) -> JsonObject:
        """Scores the final images, and as many of each snapshot as the curve needs; writes the record."""
        with np.load(folder / "run.npz") as arrays:
            seconds, images_seen = arrays["seconds"].tolist(), arrays["images_seen"].tolist()
            labels = torch.from_numpy(arrays["labels"]) if len(arrays["labels"]) else None
            threads = int(arrays["threads"])
        curve = []
        for i in range(len(seconds)):
            images = torch.from_numpy(np.load(folder / f"{i}.npy"))
            scores = self._scores(images[:curve_images], None if labels is None else labels[:curve_images])
            found = {name: scores[name] for name in CURVE_SCORES if name in scores}
            curve.append({"seconds": seconds[i], "images": images_seen[i], **found})
        if len(images) > curve_images:
            scores = self._scores(images, labels)
        record = {
            "seed": seed,
            "seconds": seconds[-1],
            "images": images_seen[-1],
            "images_per_second": images_seen[-1] / seconds[-1],
            "threads": threads,
            "num_images": len(images),
            "scores": scores,
            "curve": curve,
            "made_with": self._fingerprint(system, seed),
        }
        path = self._path(system.name, seed)
        pixels = to_npz_layout(images.permute(0, 2, 3, 1).numpy())
        if labels is None:
            np.savez_compressed(path.with_suffix(".npz"), images=pixels)
        else:
            np.savez_compressed(path.with_suffix(".npz"), images=pixels, labels=labels.numpy())
        write_file(path, json.dumps(record))  # last, because this file marks the run as complete
        return record

    def _scores(self, images: Tensor, labels: Tensor | None) -> JsonObject:
        """Scores straight images, uint8 [N, C, H, W], against as many real ones."""
        return self._evaluator(len(images)).score_images(premultiply(images), labels)


def distance_text(scores: JsonObject) -> str:
    """The Fréchet distance as a multiple of its floor; without a valid floor, the distance itself."""
    if scores["fd_ratio"] is not None:
        return f"{scores['fd_ratio']:.1f} × the floor"
    return "no Fréchet distance" if scores["fd"] is None else f"Fréchet distance {scores['fd']:.1f}"


def curve_score(results: JsonObject) -> str:
    """Returns which score is in the table of the curve: `fd_ratio`, or `fd` if there is no valid floor."""
    points = [point for system in results["systems"] for run in system["runs"] for point in run["curve"]]
    return "fd_ratio" if all(point["fd_ratio"] is not None for point in points) else "fd"


def summary(runs: Sequence[JsonObject]) -> JsonObject:
    """Returns mean and sample standard deviation of each score, and the worst run's Fréchet distance.

    The mean is None for scores that no run has; the deviation is None for fewer than two runs.
    """
    mean, std = JsonObject(), JsonObject()
    for name in SCORES + RATES:
        values = [(run if name in RATES else run["scores"]).get(name) for run in runs]
        known = [value for value in values if value is not None]
        mean[name] = float(np.mean(known)) if known else None
        std[name] = float(np.std(known, ddof=1)) if len(known) > 1 else None
    ratios = [run["scores"]["fd_ratio"] for run in runs]
    worst = max((ratio for ratio in ratios if ratio is not None), default=None)
    return {"mean": mean, "std": std, "worst_fd_ratio": worst}
