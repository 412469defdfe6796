"""Searches for a training recipe: trains many settings with our trainer and ranks them by validation scores.

    python -m ganctl.benchmarks.quality.search TRIALS.toml [--images 600000 | --seconds 120] [--seeds 2] [--jobs 2]

Each trial runs in a process of its own with one thread, so that one trial per core can run at a time. All trials run
with seed 0, then all with seed 1, … A finished trial is a line of JSON in the log; it is repeated only if its settings
(or those of its preset) have changed. The test split is never used.
TRIALS.toml:

    preset = "conv"                            # default of all trials
    [[trial]]
    name = "wider"
    set = ["model.base_channels=48", "optimizer.lr=2e-3"]
    [[trial]]
    name = "own network"
    config = "tiny.toml"                       # relative to this file; `set` overrides its settings
    set = ["model.generator=my_module:Tiny"]   # may be a module in the current folder
"""

import json
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean

import click
import torch

from ganctl.benchmarks.errors import BenchError, BenchUsageError
from ganctl.benchmarks.quality.our_trainer import QUIET, train
from ganctl.benchmarks.quality.recorder import Recorder
from ganctl.benchmarks.report import JsonObject, markdown_table
from ganctl.files import read_file
from ganctl.training.config.resolve import resolve
from ganctl.training.config.schema import Config
from ganctl.training.config.toml_text import decode_text, parse_toml
from ganctl.training.errors import ConfigError
from ganctl.training.evaluation.evaluator import Evaluator

SCORES = {
    "fd_ratio": "FD, × floor",
    "label_accuracy": "label accuracy",
    "precision": "precision",
    "recall": "recall",
    "coverage": "coverage",
    "images_per_second": "images/s",
    "cpu_seconds": "CPU s",
}
WORST = {  # over all seeds
    "fd_ratio": (max, "worst FD"),
    "label_accuracy": (min, "worst label accuracy"),
    "worst_class": (min, "worst class"),
}


@dataclass(frozen=True)
class Trial:
    """A training run: name, settings, seed and duration."""

    name: str
    preset: str
    config: str | None
    set: tuple[str, ...]
    seed: int
    duration: str | None  # "600000 images" or "120s"; None: that of the settings
    num_images: int  # validation images to score

    def settings(self) -> Config:
        """Returns the resolved settings.

        Raises:
            ConfigError: they are invalid.
        """
        own = [f"train.seed={self.seed}", *([f"train.duration={self.duration}"] if self.duration else [])]
        config_file = Path(self.config) if self.config else None
        assignments = [*QUIET, *self.set, *own]
        return resolve(preset=self.preset, config_file=config_file, assignments=assignments, environment={})[0]

    def fingerprint(self) -> JsonObject:
        """Identifies the trial in the log; includes the resolved settings, as presets and config files may change."""
        return asdict(self) | {"settings": self.settings().flat()}


def read_trials(path: Path, *, seeds: int, duration: str | None, num_images: int) -> list[Trial]:
    """Returns all trials of the file with seed 0, then all with seed 1, …

    Raises:
        BenchUsageError: the file holds no trials, or settings are invalid.
    """
    try:
        tree = parse_toml(decode_text(read_file(path)))
        entries = [(entry["name"], entry.get("preset", tree.get("preset", "conv")), entry) for entry in tree["trial"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchUsageError(
            f"{path}: {error!r}; expected TOML with tables [[trial]], each with a name and optional preset, config, set"
        ) from error
    trials = []
    for seed in range(seeds):
        for name, preset, entry in entries:
            if unknown := entry.keys() - {"name", "preset", "config", "set"}:
                expected = "expected name, preset, config or set"
                raise BenchUsageError(f"{path}: trial {name}: found {', '.join(unknown)}, {expected}")
            config = str((path.parent / entry["config"]).resolve()) if "config" in entry else None
            assignments = tuple(entry.get("set", ()))
            trials.append(Trial(name, preset, config, assignments, seed, duration, num_images))
    errors: list[str] = []
    for trial in trials[: len(entries)]:  # the other seeds have the same settings
        try:
            trial.settings()
        except ConfigError as error:
            errors += [f"{trial.name}: {fault}" for fault in error.errors]
    if errors:  # report all of them before anything is trained
        raise BenchUsageError(f"{path}: found invalid settings:" + "".join(f"\n  - {error}" for error in errors))
    return trials


def run_trial(trial: Trial) -> JsonObject:
    """Trains and scores a trial; returns its record for the log."""
    recorder, started = Recorder(math.inf, snapshots=1), time.process_time()
    config = trial.settings()
    with tempfile.TemporaryDirectory() as folder:
        trainer = train(config, recorder, Path(folder) / "run")
    cpu_seconds, (final,) = time.process_time() - started, recorder.snapshots
    scores = Evaluator(config.data, "val", num_images=trial.num_images).score(trainer.source)
    return trial.fingerprint() | {
        "images": final.images,
        "seconds": final.seconds,
        "images_per_second": final.images / final.seconds,
        "cpu_seconds": cpu_seconds,
        "fd_ratio": scores["fd_ratio"],
        **{name: scores[name] for name in ("label_accuracy", "precision", "recall", "density", "coverage")},
        "worst_class": min(scores["class_accuracy"].values()) if scores["class_accuracy"] else None,
    }


def _run_in_subprocess(trial: Trial) -> JsonObject | str:
    """Returns the record or, if the trial fails, the error as text, because not every exception can be pickled."""
    torch.set_num_threads(1)
    try:
        return run_trial(trial)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def run_all(trials: Sequence[Trial], jobs: int) -> Iterator[tuple[Trial, JsonObject | str]]:
    """Yields each trial with its record, or with its error as text, as the trials finish.

    Raises:
        BenchError: a process was killed.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # inherited by the new processes
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        waiting = {pool.submit(_run_in_subprocess, trial): trial for trial in trials}
        for future in as_completed(waiting):
            try:
                yield waiting[future], future.result()
            except BrokenProcessPool as error:
                raise BenchError(
                    "a trial's process was killed, perhaps for lack of memory; finished trials are in the log."
                    " Run the command again, with fewer --jobs."
                ) from error


def key(record: JsonObject) -> str:
    """The fingerprint of a trial or of its record, as text."""
    names = [*(field.name for field in fields(Trial)), "settings"]
    return json.dumps({name: record.get(name) for name in names}, sort_keys=True)


def read_log(path: Path) -> list[JsonObject]:
    """Returns the records of finished trials."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def table(records: Sequence[JsonObject]) -> str:
    """Returns a Markdown table of each trial's mean over its seeds, and its worst seed.

    The lowest mean Fréchet distance comes first; trials without one come last.
    """
    groups: dict[str, list[JsonObject]] = {}
    for record in records:
        groups.setdefault(f"{record['name']} ({record['duration'] or 'its own length'})", []).append(record)
    rows = []
    for name, group in groups.items():
        cells = [_cell(fmean, [r[score] for r in group]) for score in SCORES]
        cells += [_cell(worst, [r[score] for r in group]) for score, (worst, _) in WORST.items()]
        distances = [math.inf if r["fd_ratio"] is None else r["fd_ratio"] for r in group]
        rows.append((fmean(distances), [name, str(len(group)), *cells]))
    head = ["trial", "seeds", *SCORES.values(), *(heading for _, heading in WORST.values())]
    return "\n".join(markdown_table(head, [row for _, row in sorted(rows)]))


def _cell(aggregate: Callable[[list[float]], float], values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{aggregate(known):,.{3 if max(known) < 2 else 2 if max(known) < 10 else 1}f}" if known else "–"


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--images", type=click.IntRange(min=1), help="Duration of each trial, in images.")
@click.option("--seconds", type=click.FloatRange(min=1), help="Duration of each trial, in seconds.")
@click.option("--seeds", default=1, type=click.IntRange(min=1))
@click.option("--jobs", default=2, type=click.IntRange(min=1), help="Number of trials at a time.")
@click.option("--num-images", default=5000, type=click.IntRange(200, 5000), help="Number of images to score.")
@click.option("--log", default=Path("search.jsonl"), type=click.Path(path_type=Path))
def main(
    file: Path, images: int | None, seconds: float | None, seeds: int, jobs: int, num_images: int, log: Path
) -> None:
    """Run the trials of FILE that are not in the log yet, and print a table of all."""
    if images is not None and seconds is not None:
        raise click.UsageError("found --images and --seconds, expected at most one of them.")
    duration = f"{images} images" if images else f"{seconds:g}s" if seconds else None
    trials = read_trials(file, seeds=seeds, duration=duration, num_images=num_images)
    keys = {key(trial.fingerprint()): trial for trial in trials}
    done = {key(record) for record in read_log(log)}
    failed = []
    for trial, outcome in run_all([trial for key, trial in keys.items() if key not in done], jobs):
        if isinstance(outcome, str):
            failed.append(f"{trial.name}, seed {trial.seed}: {outcome}")
            click.echo(f"failed: {failed[-1]}", err=True)
            continue
        with log.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(outcome, ensure_ascii=False) + "\n")
        fd_ratio = outcome["fd_ratio"]
        score = "no Fréchet distance for this data" if fd_ratio is None else f"{fd_ratio:.1f} × the floor"
        click.echo(f"{trial.name}, seed {trial.seed}: {score}", err=True)
    click.echo(table([record for record in read_log(log) if key(record) in keys]))
    if failed:
        raise BenchError(f"{len(failed)} of {len(trials)} trials failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
