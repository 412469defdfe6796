"""The callback LRScheduler: warm-up and decay of the learning rates."""

from collections.abc import Callable
from typing import ClassVar

from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.config.schema import OptimizerSettings
from ganctl.training.optim.schedules import decay


class LRScheduler(Callback):
    """A linear warm-up, multiplied by a decay over the duration of the run."""

    every_rank: ClassVar[bool] = True

    def __init__(
        self, settings: OptimizerSettings | None = None, *, schedule: Callable[[float], float] | None = None
    ) -> None:
        """Sets the schedule.

        Args:
            settings: the settings `optimizer.…`: schedule, decay_start, decay_end, min_lr_ratio and warmup.
            schedule: maps the progress 0 … 1 to the factor; replaces the decay of the settings.
        """
        self._settings, self._schedule = settings or OptimizerSettings(), schedule

    def on_schedule(self, run: Run) -> float:
        settings, progress = self._settings, run.progress
        warmup = min(1.0, (run.images + run.batch_size) / settings.warmup) if settings.warmup else 1.0
        if self._schedule is not None:
            return warmup * self._schedule(progress)
        return warmup * decay(
            settings.schedule, progress, settings.decay_start, settings.min_lr_ratio, settings.decay_end
        )
