"""Callbacks that end a run before its horizon."""

import math
import signal
from collections.abc import Mapping
from types import FrameType
from typing import Any

from training.callback import Callback, Run
from training.config import EarlyStoppingSettings, sign_of
from training.errors import TrainingError


class EarlyStopping(Callback):
    """Stops when a score has not improved by `min_delta` for `patience` evaluations."""

    def __init__(self, settings: EarlyStoppingSettings) -> None:
        self._settings = settings
        self._best: float | None = None
        self._waited = 0

    def on_start(self, run: Run) -> None:
        if self._waited >= self._settings.patience:
            run.request_stop("early-stopping")  # it had stopped before: resuming it must not train on

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        score = scores[self._settings.monitor]
        sign = sign_of(self._settings.monitor, self._settings.mode)
        if self._best is None or sign * (self._best - score) > self._settings.min_delta:
            self._best, self._waited = score, 0
            return
        self._waited += 1
        if self._waited >= self._settings.patience:
            run.request_stop("early-stopping")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best, self._waited = state["best"], state["waited"]


class TimeLimit(Callback):
    """Stops after so many seconds since the first step, evaluations included."""

    def __init__(self, seconds: float) -> None:
        self._limit = seconds

    def on_step(self, run: Run) -> None:
        if run.seconds >= self._limit:
            run.request_stop("max-time")


class NonFinite(Callback):
    """Ends the run with an error when a loss is no longer a number; the last good checkpoint stays."""

    def on_log(self, run: Run, stats: Mapping[str, float]) -> None:
        broken = [name for name, value in stats.items() if not math.isfinite(value)]
        if broken:
            raise TrainingError(
                f"{', '.join(broken)} became {stats[broken[0]]} before step {run.step}; the last checkpoint is"
                " untouched. Lower optimizer.lr, or raise loss.r1 and loss.r2"
            )


class Preemption(Callback):
    """SIGTERM and SIGINT: finish the step, save, and end as interrupted. A second signal ends the process at once."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def on_start(self, run: Run) -> None:
        for number in self.SIGNALS:
            self._previous[number] = signal.signal(number, self._receive)

    def on_step(self, run: Run) -> None:
        if self._received is not None:
            run.request_stop(self._received.name, evaluate=False)  # whoever sends a signal does not wait for scores

    def close(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = signal.Signals(number)
        signal.signal(number, self._previous[self._received])
