"""The callback LRScheduler: warm-up and decay of the learning rates."""

from collections.abc import Callable
from typing import ClassVar

from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.optim.schedules import decay


class LRScheduler(Callback):
    """A linear warm-up, multiplied by a decay over the duration of the run."""

    every_rank: ClassVar[bool] = True

    def __init__(
        self,
        schedule: str | Callable[[float], float] = "constant",
        *,
        decay_start: float = 0.0,
        decay_end: float = 1.0,
        min_lr_ratio: float = 0.0,
        warmup: int = 0,
    ) -> None:
        """Sets the schedule.

        Args:
            schedule: linear, cosine, constant, or a function that maps the progress 0 … 1 to the factor.
            decay_start, decay_end: shares of the duration between which linear and cosine fall.
            min_lr_ratio: the factor at the end of linear and cosine.
            warmup: images of the linear warm-up.
        """
        self._schedule, self._decay_start, self._decay_end = schedule, decay_start, decay_end
        self._min_lr_ratio, self._warmup = min_lr_ratio, warmup

    def on_schedule(self, run: Run) -> float:
        warmup = min(1.0, (run.images + run.batch_size) / self._warmup) if self._warmup else 1.0
        if callable(self._schedule):
            return warmup * self._schedule(run.progress)
        return warmup * decay(self._schedule, run.progress, self._decay_start, self._min_lr_ratio, self._decay_end)
