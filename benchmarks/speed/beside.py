"""Measures trainings that share the cores, for `ganctl bench train --beside`: `ganctl train` processes and a busy loop.

All cases run once in each repetition, so that a drift of the machine's speed affects all of them. A rate counts the
steps in a window in which every process of the case trains. It is compared with one training alone, without turns, of
the same repetition.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ganctl.benchmarks.errors import BenchError
from ganctl.benchmarks.report import JsonObject, machine, markdown_table
from ganctl.benchmarks.speed.meter import WARM_UP
from ganctl.processes import ganctl_command
from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.device.turns import VARIABLE

_BUSY_LOOP = [sys.executable, "-c", "while True: pass"]
_SETTINGS = ("evaluation.every=1000000 epochs", "train.duration=1000000 epochs", "log.tensorboard=false")
_READY, _TIMES = "ready", "step-times.json"
_START_LIMIT = 300.0  # seconds until every process trains


@dataclass(frozen=True)
class Case:
    """Trainings that run at once, and optionally a process of another program that keeps one core busy."""

    name: str
    trainings: int = 1
    words: tuple[str, ...] = ()  # further arguments of `ganctl train`
    busy_loop: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)


_OFF, _ON, _ONE_THREAD = {VARIABLE: "off"}, {VARIABLE: "on"}, {VARIABLE: "on", "OMP_NUM_THREADS": "1"}
_RANKS = ("--nproc", "2", "--device", "cpu")
CASES = (
    Case("one", variables=_OFF),  # the reference
    Case("one, with turns", variables=_ON),
    Case("two at once", 2, variables=_OFF),
    Case("two at once, with turns", 2, variables=_ON),
    Case("three at once, with turns", 3, variables=_ON),
    Case("one of two ranks, with turns", words=_RANKS, variables=_ON),
    Case("two of two ranks each", 2, _RANKS, variables=_OFF),
    Case("two of two ranks each, with turns", 2, _RANKS, variables=_ON),
    Case("one beside a busy loop", busy_loop=True, variables=_ON),
    Case("one, one thread", variables=_ONE_THREAD),
    Case("one beside a busy loop, one thread", busy_loop=True, variables=_ONE_THREAD),
)


class StepTimes(Callback):
    """Records the end of each step; marks the run folder after the warm-up, and writes the times at the end."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._times: list[float] = []  # of CLOCK_MONOTONIC, the same clock in every process
        self._batch = 0

    def on_start(self, run: Run) -> None:
        self._folder, self._batch = Path(run.run_dir), run.batch_size

    def on_step(self, run: Run) -> None:
        self._times.append(time.monotonic())
        if len(self._times) == WARM_UP:
            (Path(run.run_dir) / _READY).touch()

    def close(self) -> None:
        if self._folder is not None:
            (self._folder / _TIMES).write_text(json.dumps({"batch": self._batch, "times": self._times}), "ascii")


def measure(*, seconds: float, repetitions: int, announce: Callable[[str], None]) -> JsonObject:
    """Returns the rates of every training of each case, and the medians of their ratios to one training alone.

    Args:
        seconds: length of each measurement.
        repetitions: of all cases.
        announce: receives progress messages.

    Raises:
        BenchError: a training failed.
    """
    runs: dict[str, list[list[float]]] = {case.name: [] for case in CASES}
    for repetition in range(repetitions):
        for case in CASES:
            rates = _rates(case, seconds)
            runs[case.name].append(rates)
            listed = ", ".join(f"{rate:,.0f}" for rate in rates)
            announce(f"{repetition + 1} of {repetitions}: {case.name}: {listed} images/s")
    reference = [rates[0] for rates in runs[CASES[0].name]]
    cases = [
        {
            "name": case.name,
            "rates": runs[case.name],
            "images_per_second": _medians(runs[case.name]),
            "ratios": _medians(
                [[rate / alone for rate in rates] for rates, alone in zip(runs[case.name], reference, strict=True)]
            ),
        }
        for case in CASES
    ]
    return {"machine": machine(), "seconds": seconds, "repetitions": repetitions, "cases": cases}


def beside_table(results: JsonObject) -> str:
    """Returns the results in Markdown, with the conditions."""
    conditions = (
        f"Medians of {results['repetitions']} interleaved repetitions of {results['seconds']:g} s of `ganctl train"
        f" --preset conv --precision fp32`. Cores: {results['machine']['cores']}; torch {results['machine']['torch']}."
    )
    rows = [
        [
            case["name"],
            ", ".join(f"{rate:,.0f}" for rate in case["images_per_second"]),
            ", ".join(f"{ratio:.2f}" for ratio in case["ratios"]),
        ]
        for case in results["cases"]
    ]
    head = ["trainings", "images/s of each", "of one alone"]
    return "\n".join([conditions, "", *markdown_table(head, rows)]) + "\n"


def _medians(repetitions: list[list[float]]) -> list[float]:
    """Returns the median of each process, in ascending order: the slower process of each repetition comes first."""
    ordered = [sorted(each) for each in repetitions]
    return [statistics.median(column) for column in zip(*ordered, strict=True)]


def _rates(case: Case, seconds: float) -> list[float]:
    """Runs a case; returns the images/s of each training in the same window."""
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary, f"run-{i}") for i in range(case.trainings)]
        with _running(case, folders) as processes:
            deadline = time.monotonic() + _START_LIMIT
            while not all((folder / _READY).exists() for folder in folders):
                if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
                    raise BenchError(f"{case.name}: a training has not begun:\n{_errors(processes)}")
                time.sleep(0.01)
            start = time.monotonic()
            time.sleep(seconds)
            end = time.monotonic()
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                process.wait()
        rates = []
        for folder in folders:
            record = json.loads((folder / _TIMES).read_bytes())
            steps = sum(start < done <= end for done in record["times"])
            rates.append(record["batch"] * steps / (end - start))
        return rates


@contextmanager
def _running(case: Case, folders: list[Path]) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Starts the processes of a case; ends those that still run."""
    settings = [word for setting in _SETTINGS for word in ("--set", setting)]
    common = ["--preset", "conv", "--precision", "fp32", *settings, "--callback", f"{__name__}:StepTimes", *case.words]
    started = []
    try:
        if case.busy_loop:
            started.append(subprocess.Popen(_BUSY_LOOP))
        trainings = [
            subprocess.Popen(
                ganctl_command("train", "mnist", "--run-dir", str(folder), *common),
                env=os.environ | case.variables,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for folder in folders
        ]
        started += trainings
        yield trainings
    finally:
        for process in started:
            process.kill()
            process.wait()


def _errors(processes: list["subprocess.Popen[bytes]"]) -> str:
    """Returns what the processes that have ended wrote to stderr."""
    return "\n".join(
        process.stderr.read().decode("utf-8", "replace").strip()
        for process in processes
        if process.poll() is not None and process.stderr is not None
    )
