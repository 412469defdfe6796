"""The callback that measures a training from inside; `ganctl bench growth` adds it to `ganctl train`.

It writes RECORD into the run folder at the end: see `Recorder.on_end`.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ganctl.training.callbacks.base import Callback, Run

RECORD = "growth.json"


class Recorder(Callback):
    """Records the time of each step and each evaluation, and the memory of rank 0."""

    def __init__(self) -> None:
        self._wall: list[float] = []
        self._cpu: list[float] = []
        self._private: list[int] = []
        self._evaluations: list[float] = []
        self._start: dict[str, float] = {}
        self._last = _now()

    def on_start(self, run: Run) -> None:
        # other callbacks have done their part of the start
        self._start = {"started_at": time.time(), "start_cpu_seconds": time.process_time()}
        self._last = _now()

    def on_step(self, run: Run) -> None:
        now = _now()
        self._wall.append(now[0] - self._last[0])
        self._cpu.append(now[1] - self._last[1])
        self._private.append(memory("RssAnon"))
        self._last = _now()

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        self._evaluations.append(_now()[1] - self._last[1])

    def on_checkpoint(self, run: Run, path: Path) -> None:
        self._last = _now()  # the next step begins here

    def on_end(self, run: Run, reason: str, scores: Mapping[str, Any]) -> None:
        """Writes the record as JSON.

        started_at: the time before the first step, as `time.time()`.
        start_cpu_seconds: CPU seconds until then.
        step_seconds, step_cpu_seconds: of each step, without evaluations and saves.
        evaluation_cpu_seconds: of each evaluation, with the images that it draws and writes.
        private_bytes: memory that no file backs, after each step.
        peak_bytes: peak of the resident memory, with mapped files.
        """
        record = self._start | {
            "step_seconds": self._wall,
            "step_cpu_seconds": self._cpu,
            "evaluation_cpu_seconds": self._evaluations,
            "private_bytes": self._private,
            "peak_bytes": memory("VmHWM"),
        }
        (run.run_dir / RECORD).write_text(json.dumps(record), "utf-8")


def memory(name: str) -> int:
    """Returns a figure of this process's memory in bytes, by its name in /proc/self/status."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(name)


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()
