"""LRScheduler: the learning rates' schedule over the run."""

from collections.abc import Callable
from typing import ClassVar

from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.optim.schedules import decay


class LRScheduler(Callback):
    """A linear warm-up over so many images, times a factor that follows the share of the duration behind us."""

    every_rank: ClassVar[bool] = True

    def __init__(
        self,
        schedule: str | Callable[[float], float] = "constant",
        *,
        decay_start: float = 0.0,
        decay_end: float = 1.0,
        end: float = 0.0,
        warmup: int = 0,
    ) -> None:
        """`schedule` is linear, cosine, constant, or a function of the progress 0 … 1 that gives the factor; the first
        two fall to `end` between these shares of the duration."""
        self._schedule, self._decay_from, self._decay_until = schedule, decay_start, decay_end
        self._end, self._warmup = end, warmup

    def on_schedule(self, run: Run) -> float:
        warm = min(1.0, (run.images + run.batch_size) / self._warmup) if self._warmup else 1.0
        if callable(self._schedule):
            return warm * self._schedule(run.progress)
        return warm * decay(self._schedule, run.progress, self._decay_from, self._end, self._decay_until)
