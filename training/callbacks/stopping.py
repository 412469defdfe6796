"""Callbacks that end a run before its duration."""

import math
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.config.schema import finite, sign_of
from ganctl.training.errors import TrainingError

_ECHO = 2.0  # seconds in which a signal comes once more: a scheduler sends it to every process, torchrun passes it on


class EarlyStopping(Callback):
    """Stops when a score has not improved by `min_delta` for `patience` evaluations, or is as good as `stop_at`.

    An evaluation whose score is None (it has no meaning) or not finite does not count.
    """

    def __init__(
        self,
        *,
        monitor: str = "fd",
        mode: str = "auto",
        patience: int = 3,
        min_delta: float = 0.0,
        stop_at: float | None = None,
    ) -> None:
        """The arguments are those of the settings `early_stopping.…`; a patience of 0 waits for ever."""
        self._monitor, self._patience, self._min_delta, self._stop_at = monitor, patience, min_delta, stop_at
        self._sign = sign_of(monitor, mode)
        self.watches = (monitor,)
        self._best: float | None = None
        self._waited, self._reached = 0, False

    def on_start(self, run: Run) -> None:
        self._decide(run)  # it may have stopped before: resuming it must not train on

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        score = finite(scores[self._monitor])
        if score is None:
            return
        if self._best is None or self._sign * (self._best - score) > self._min_delta:
            self._best, self._waited = score, 0
        else:
            self._waited += 1
        self._reached = self._reached or (self._stop_at is not None and self._sign * (self._stop_at - score) >= 0)
        self._decide(run)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "waited": self._waited, "reached": self._reached}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best, self._waited, self._reached = state["best"], state["waited"], state["reached"]

    def _decide(self, run: Run) -> None:
        if self._reached:
            run.request_stop("goal")
        elif self._patience and self._waited >= self._patience:
            run.request_stop("early-stopping")


class TimeLimit(Callback):
    """Stops after so many seconds since the first step, evaluations included."""

    def __init__(self, seconds: float) -> None:
        self._limit = seconds

    def on_step(self, run: Run) -> None:
        if run.clock.seconds >= self._limit:
            run.request_stop("max-time")


class NonFinite(Callback):
    """Ends the run with an error when a loss is no longer a number; the last good checkpoint stays."""

    def on_log(self, run: Run, stats: Mapping[str, float]) -> None:
        broken = [name for name, value in stats.items() if not math.isfinite(value)]
        if broken:
            weight = run.broken()
            where = f"{weight} is no finite number any more" if weight else "all weights are still finite"
            raise TrainingError(
                f"{', '.join(broken)} became {stats[broken[0]]} before step {run.step}; {where}; the last checkpoint is"
                " untouched. Lower optimizer.lr, or raise loss.r1 and loss.r2"
            )


class SignalHandler(Callback):
    """Saves on SIGTERM, SIGINT and SIGHUP: the step (or the evaluation, or the save) is finished, the state is saved,
    and the run ends as interrupted. A second signal ends the process at once. A signal that the process was started to
    ignore (nohup, `&` in a script) stays ignored."""

    SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
    every_rank: ClassVar[bool] = True

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._since = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def on_start(self, run: Run) -> None:
        self._received = None
        if threading.current_thread() is not threading.main_thread():
            return  # Python gives signals to the main thread alone: whoever trains in another one minds them himself
        for number in self.SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._receive)

    def on_step(self, run: Run) -> None:
        self._pass_on(run)

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        self._pass_on(run)

    def on_checkpoint(self, run: Run, path: Path) -> None:
        self._pass_on(run)

    def _pass_on(self, run: Run) -> None:
        if self._received is not None:
            run.request_stop(self._received.name, evaluate=False)  # whoever sends a signal does not wait for scores

    def close(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._received is None:
            self._received, self._since = signal.Signals(number), now
        elif now - self._since > _ECHO:  # whoever sends another one means it
            signal.signal(number, self._previous[signal.Signals(number)])
            os.kill(os.getpid(), number)
