"""How long a run is and how fast it goes: lengths given in seconds or epochs become images here.

Schedules are functions of images, so that a run repeats itself whatever the machine's mood. A horizon given as a time
becomes images once, from the rate of its first fifth, and is kept in the checkpoint.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from training.config import Span

_WARM_UP = 20  # steps that say nothing about the rate: caches fill, kernels are chosen
_SHARE = 0.2  # of a time that is measured before it becomes images; the schedules' decays begin later than this


class Pace:
    """The clock of one process's part of a run."""

    def __init__(
        self, *, horizon: Span, evaluation: Span, batch_size: int, epoch_images: int, device: torch.device
    ) -> None:
        self._horizon, self._evaluation = horizon, evaluation
        self._batch_size, self._epoch_images, self._device = batch_size, epoch_images, device
        self.horizon_images = None if horizon.unit == "seconds" else horizon.images(epoch_images)
        self.evaluation_images = None if evaluation.unit == "seconds" else evaluation.images(epoch_images)
        self._began = self._paused = 0.0
        self._steps = 0
        self._measured_from = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the first step, evaluations and saves included; 0 before it."""
        return time.monotonic() - self._began if self._began else 0.0

    @property
    def images_per_second(self) -> float:
        """Rate of the training steps alone, without evaluations and saves."""
        training = self.seconds - self._paused
        return self._steps * self._batch_size / training if training > 0 else 0.0

    def progress(self, images: int) -> float:
        """Share of the horizon that is behind us; 0 until the horizon is known."""
        return min(1.0, images / self.horizon_images) if self.horizon_images else 0.0

    def start(self) -> None:
        """Begins to count, right before the first step."""
        self._began = time.monotonic()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Keeps what runs within out of the rate."""
        self._wait()  # steps that the device still owes belong to the training
        began = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - began

    def count(self) -> None:
        """Counts a step; measures what was given as a time as soon as the rate is known."""
        self._steps += 1
        if self.horizon_images and self.evaluation_images:
            return
        if self._steps == _WARM_UP:
            self._wait()
            self._measured_from = self.seconds - self._paused
        elif self._steps > _WARM_UP:
            steps, training = self._steps - _WARM_UP, self.seconds - self._paused - self._measured_from
            if self.horizon_images is None and training >= _SHARE * self._horizon.value:
                self.horizon_images = self._horizon.images(self._epoch_images, self._rate(steps))
            if self.evaluation_images is None and training >= _SHARE * self._evaluation.value:
                self.evaluation_images = self._evaluation.images(self._epoch_images, self._rate(steps))

    def evaluation_due(self, images: int) -> bool:
        """Whether the step that ended at `images` crossed a multiple of the evaluations' interval."""
        every = self.evaluation_images
        return every is not None and images // every > (images - self._batch_size) // every

    def state_dict(self) -> dict[str, Any]:
        """The lengths as given and as images."""
        return {
            "horizon": str(self._horizon),
            "horizon_images": self.horizon_images,
            "evaluation": str(self._evaluation),
            "evaluation_images": self.evaluation_images,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what was measured of the same lengths; a new time is measured anew."""
        if state["horizon"] == str(self._horizon):
            self.horizon_images = state["horizon_images"]
        if state["evaluation"] == str(self._evaluation):
            self.evaluation_images = state["evaluation_images"]

    def at_horizon(self, images: int) -> bool:
        return self.horizon_images is not None and images >= self.horizon_images

    def _rate(self, steps: int) -> float:
        self._wait()
        return steps * self._batch_size / (self.seconds - self._paused - self._measured_from)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
