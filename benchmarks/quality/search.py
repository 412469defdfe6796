"""Searches for a recipe: trains many settings with the real trainer, and ranks them by their validation scores.

    python -m benchmarks.search TRIALS.toml [--images 600000 | --seconds 120] [--seeds 2] [--jobs 2] [--log FILE]

Each trial has a process of its own with one thread, so that as many run side by side as there are cores; seeds take
turns. A finished trial is a line of JSON in the log, and is not repeated unless its settings (a preset's, too) have
changed since. Nothing here looks at the test split.
TRIALS.toml:

    preset = "conv"                            # of all trials that name none
    [[trial]]
    name = "wider"
    set = ["model.base_channels=48", "optimizer.lr=2e-3"]
    [[trial]]
    name = "own network"
    config = "tiny.toml"                       # beside this file; its settings come before those of `set`
    set = ["model.generator=my_module:Tiny"]   # looked for in the current folder, too
"""

import json
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import torch

from ganctl.benchmarks.errors import BenchError, BenchUsageError
from ganctl.benchmarks.quality.own import QUIET, train
from ganctl.benchmarks.quality.recorder import Recorder
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
WORST = {  # of all seeds
    "fd_ratio": (max, "worst FD"),
    "label_accuracy": (min, "worst label accuracy"),
    "worst_class": (min, "of its worst class"),
}


@dataclass(frozen=True)
class Trial:
    """One training: its name, what it sets, its seed and its length; together with the settings that come of them they
    are what the log knows it by."""

    name: str
    preset: str
    config: str | None
    set: tuple[str, ...]
    seed: int
    duration: str | None  # "600000 images" or "120s"; None: that of its settings
    num_images: int  # validation images that are compared

    def settings(self) -> Config:
        """The settings of its training.

        Raises:
            ConfigError: they have faults.
        """
        own = [f"train.seed={self.seed}", *([f"train.duration={self.duration}"] if self.duration else [])]
        config_file = Path(self.config) if self.config else None
        assignments = [*QUIET, *self.set, *own]
        return resolve(preset=self.preset, config_file=config_file, assignments=assignments, environment={})[0]

    def facts(self) -> dict[str, Any]:
        """What the log knows it by: presets and config files change, too."""
        return asdict(self) | {"settings": self.settings().flat()}


def read_trials(path: Path, *, seeds: int, duration: str | None, num_images: int) -> list[Trial]:
    """All trials of the file with seed 0, then all with seed 1 …

    Raises:
        BenchUsageError: the file is none of trials, or settings have faults.
    """
    try:
        tree = parse_toml(decode_text(read_file(path)))
        entries = [(entry["name"], entry.get("preset", tree.get("preset", "conv")), entry) for entry in tree["trial"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchUsageError(
            f"{path}: {error!r}; expected TOML with tables [[trial]]: a name and, where wanted, preset, config and set"
        ) from error
    for name, _, entry in entries:
        if unknown := entry.keys() - {"name", "preset", "config", "set"}:
            known = "there are name, preset, config and set"
            raise BenchUsageError(f"{path}: trial {name}: unknown {', '.join(unknown)}; {known}")
    trials = [
        Trial(name, preset, _beside(path, entry.get("config")), tuple(entry.get("set", ())), seed, duration, num_images)
        for seed in range(seeds)
        for name, preset, entry in entries
    ]
    faults = [f"{trial.name}: {fault}" for trial in trials if trial.seed == 0 for fault in _faults(trial)]
    if faults:  # all of them, before anything is trained
        raise BenchUsageError(f"{path}: the settings have faults:" + "".join(f"\n  - {fault}" for fault in faults))
    return trials


def _beside(path: Path, name: str | None) -> str | None:
    return None if name is None else str((path.parent / name).resolve())


def _faults(trial: Trial) -> Sequence[str]:
    try:
        trial.settings()
    except ConfigError as error:
        return error.faults
    return ()


def run_trial(trial: Trial) -> dict[str, Any]:
    """Trains and scores; gives the trial's line in the log."""
    recorder, began = Recorder(math.inf, snapshots=1), time.process_time()
    config = trial.settings()
    with tempfile.TemporaryDirectory() as folder:
        trainer = train(config, recorder, Path(folder) / "run")
    cpu_seconds, (end,) = time.process_time() - began, recorder.snapshots
    scores = Evaluator(config.data, "val", num_images=trial.num_images).score(trainer.source)
    return trial.facts() | {
        "images": end.images,
        "seconds": end.seconds,
        "images_per_second": end.images / end.seconds,
        "cpu_seconds": cpu_seconds,
        "fd_ratio": scores["fd_ratio"],
        **{name: scores[name] for name in ("label_accuracy", "precision", "recall", "density", "coverage")},
        "worst_class": min(scores["class_accuracy"].values()) if scores["class_accuracy"] else None,
    }


def _run_apart(trial: Trial) -> dict[str, Any] | str:
    """In a process of its own: the record, or what made the trial fail, as text since not every error can travel."""
    torch.set_num_threads(1)
    try:
        return run_trial(trial)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def run_all(trials: Sequence[Trial], jobs: int) -> Iterator[tuple[Trial, dict[str, Any] | str]]:
    """Each trial's record, or what made it fail, as they finish.

    Raises:
        BenchError: a process was killed.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes to come
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        waiting = {pool.submit(_run_apart, trial): trial for trial in trials}
        for future in as_completed(waiting):
            try:
                yield waiting[future], future.result()
            except BrokenProcessPool as error:
                raise BenchError("a trial's process was killed (is there memory for --jobs of them?); the finished ones"
                                 " are in the log: run it again to go on") from error  # fmt: skip


def _key(record: Mapping[str, Any]) -> str:
    """What the log knows a trial by, as text."""
    names = [*(field.name for field in fields(Trial)), "settings"]
    return json.dumps({name: record.get(name) for name in names}, sort_keys=True)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of finished trials."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: each trial's means over its seeds, the least Fréchet distance first (trials without one last), and what
    its worst seeds reach."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(f"{record['name']} ({record['duration'] or 'its own length'})", []).append(record)
    rows = []
    for name, group in groups.items():
        cells = [_cell(fmean, [r[score] for r in group]) for score in SCORES]
        cells += [_cell(worst, [r[score] for r in group]) for score, (worst, _) in WORST.items()]
        distances = [math.inf if r["fd_ratio"] is None else r["fd_ratio"] for r in group]
        rows.append((fmean(distances), f"| {name} | {len(group)} | {' | '.join(cells)} |"))
    head = ["trial", "seeds", *SCORES.values(), *(heading for _, heading in WORST.values())]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join(['---'] * len(head))} |", *(row for _, row in sorted(rows))]
    return "\n".join(lines)


def _cell(of: Callable[[list[float]], float], values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{of(known):,.{3 if max(known) < 2 else 2 if max(known) < 10 else 1}f}" if known else "–"


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--images", type=click.IntRange(min=1), help="Length of each trial, in images.")
@click.option("--seconds", type=click.FloatRange(min=1), help="Length of each trial, in seconds.")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(min=1), help="Trials side by side.")
@click.option(
    "--num-images", default=5000, show_default=True, type=click.IntRange(200, 5000), help="Images to compare."
)
@click.option("--log", default=Path("search.jsonl"), show_default=True, type=click.Path(path_type=Path))
def main(
    file: Path, images: int | None, seconds: float | None, seeds: int, jobs: int, num_images: int, log: Path
) -> None:
    """Runs the trials of FILE that the log does not have, and prints a table of them all."""
    if images is not None and seconds is not None:
        raise click.UsageError("give --images or --seconds, the length of each trial, or neither: then it is its own.")
    duration = f"{images} images" if images else f"{seconds:g}s" if seconds else None
    trials = read_trials(file, seeds=seeds, duration=duration, num_images=num_images)
    keys = {_key(trial.facts()): trial for trial in trials}
    done = {_key(record) for record in read_log(log)}
    failed = []
    for trial, found in run_all([trial for key, trial in keys.items() if key not in done], jobs):
        if isinstance(found, str):
            failed.append(f"{trial.name}, seed {trial.seed}: {found}")
            click.echo(f"failed: {failed[-1]}", err=True)
            continue
        with log.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(found, ensure_ascii=False) + "\n")
        times = found["fd_ratio"]
        told = "no summary on this data" if times is None else f"{times:.1f} × the floor"
        click.echo(f"{trial.name}, seed {trial.seed}: {told}", err=True)
    click.echo(table([record for record in read_log(log) if _key(record) in keys]))
    if failed:
        raise BenchError(f"{len(failed)} of {len(trials)} trials failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
