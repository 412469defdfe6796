"""Callbacks that end a run before its duration: early stopping, a time limit, NaN losses and signals."""

import math
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from ganctl.signals import REPEAT_WINDOW, termination_signals
from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.callbacks.monitor import Monitor
from ganctl.training.config.schema import EarlyStoppingSettings
from ganctl.training.errors import divergence_error
from ganctl.training.evaluation.measure import MEASURE


class EarlyStopping(Callback):
    """Stops after `patience` evaluations without an improvement by `min_delta`, or at `stopping_threshold`.

    An evaluation whose score is None or not finite does not count.
    """

    def __init__(self, settings: EarlyStoppingSettings | None = None) -> None:
        """Takes the settings `early_stopping.…`; None is a patience of 3."""
        self._settings = settings = settings or EarlyStoppingSettings(patience=3)
        self._monitor = Monitor(settings.monitor, settings.mode)
        self.required_scores = (settings.monitor,)
        self._best: float | None = None
        self._waited, self._reached = 0, False

    def on_start(self, run: Run) -> None:
        self._request_stop(run)  # a run that stopped early must not train further when resumed

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        score, sign = self._monitor.score(scores), self._monitor.sign
        threshold = self._settings.stopping_threshold
        if score is None:
            return
        if self._best is None or sign * (self._best - score) > self._settings.min_delta:
            self._best, self._waited = score, 0
        else:
            self._waited += 1
        if threshold is not None and sign * (threshold - score) >= 0:
            self._reached = True
        self._request_stop(run)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "waited": self._waited, "reached": self._reached, "measure": MEASURE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best, self._waited, self._reached = state["best"], state["waited"], state["reached"]
        if state.get("measure") != MEASURE:  # the best score of another measure cannot be compared
            self._best, self._waited = None, 0

    def _request_stop(self, run: Run) -> None:
        if self._reached:
            run.request_stop("goal")
        elif self._settings.patience and self._waited >= self._settings.patience:
            run.request_stop("early-stopping")


class TimeLimit(Callback):
    """Stops after a number of seconds since the first step, evaluations included."""

    def __init__(self, seconds: float) -> None:
        self._limit = seconds

    def on_step(self, run: Run) -> None:
        if run.timer.seconds >= self._limit:
            run.request_stop("max-time")


class NonFinite(Callback):
    """Ends the run with an error when a loss becomes NaN or inf; the last checkpoint stays."""

    def on_log(self, run: Run, stats: Mapping[str, float]) -> None:
        nonfinite = [name for name, value in stats.items() if not math.isfinite(value)]
        if nonfinite:
            tensor = run.first_nonfinite()
            origin = f"{tensor} is NaN or inf" if tensor else "all weights are finite"
            raise divergence_error(f"{', '.join(nonfinite)}: found {stats[nonfinite[0]]} ({origin})", run.step)


class SignalHandler(Callback):
    """Saves the state and ends the run on SIGTERM, SIGINT or SIGHUP.

    The step, evaluation or save in progress is finished first. A second signal, later than `REPEAT_WINDOW`, ends the
    process at once. A signal that was ignored when the process started (nohup, `&` in a script) stays ignored.
    """

    every_rank: ClassVar[bool] = True

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._received_at = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def on_start(self, run: Run) -> None:
        self._received = None
        if threading.current_thread() is not threading.main_thread():
            return  # Python handles signals in the main thread only
        self._previous = {number: signal.signal(number, self._receive) for number in termination_signals()}

    def on_step(self, run: Run) -> None:
        self._forward(run)

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        self._forward(run)

    def on_checkpoint(self, run: Run, path: Path) -> None:
        self._forward(run)

    def _forward(self, run: Run) -> None:
        if self._received is not None:
            run.request_stop(self._received.name, evaluate=False)  # a scheduler does not wait for scores

    def close(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._received is None:
            self._received, self._received_at = signal.Signals(number), now
        elif now - self._received_at > REPEAT_WINDOW:  # not a repeat of the first signal
            signal.signal(number, self._previous[signal.Signals(number)])
            os.kill(os.getpid(), number)
