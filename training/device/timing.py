"""Measures throughput; converts durations in seconds or epochs to image counts.

Schedules are functions of the image count, so that a run is reproducible at any machine speed. A duration in seconds is
converted once, by the throughput of its first fifth, and the image count is stored in the checkpoint.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ganctl.training.config.schema import Duration

_WARMUP_STEPS = 20  # not measured: caches fill, and libraries choose their kernels
_MEASURED_FRACTION = 0.2  # of a duration in seconds, before its conversion; decays of the presets start later


class ThroughputTimer:
    """Measures the time and throughput of training in this process."""

    def __init__(self, *, batch_size: int, device: torch.device) -> None:
        self._batch_size, self._device = batch_size, device
        self._started_at = self._paused_seconds = self._warmup_seconds = 0.0
        self._steps = 0

    @property
    def seconds(self) -> float:
        """Seconds since `start`, evaluations and saves included; 0 before it."""
        return time.monotonic() - self._started_at if self._started_at else 0.0

    @property
    def images_per_second(self) -> float:
        """Throughput of the training steps, without evaluations and saves."""
        running = self._started_at and self._training_seconds > 0
        return self._steps * self._batch_size / self._training_seconds if running else 0.0

    def start(self) -> None:
        """Starts the timer, immediately before the first step."""
        self._started_at, self._paused_seconds, self._steps = time.monotonic(), 0.0, 0

    def count(self) -> None:
        """Counts a step."""
        self._steps += 1
        if self._steps == _WARMUP_STEPS:
            self._synchronize()
            self._warmup_seconds = self._training_seconds

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Excludes the time of the context from the throughput."""
        self._synchronize()  # steps still queued on the device count as training
        paused_at = time.monotonic()
        try:
            yield
        finally:
            self._paused_seconds += time.monotonic() - paused_at

    def measurement(self, *, synchronize: bool = False) -> tuple[float, int]:
        """Seconds of training and number of images since the warm-up.

        Args:
            synchronize: whether to wait until the device has done all steps.
        """
        if self._steps <= _WARMUP_STEPS:
            return 0.0, 0
        if synchronize:
            self._synchronize()
        return self._training_seconds - self._warmup_seconds, (self._steps - _WARMUP_STEPS) * self._batch_size

    @property
    def _training_seconds(self) -> float:
        return self.seconds - self._paused_seconds

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class ResolvedDuration:
    """A duration as an image count: known at once for epochs and images, after its first fifth for seconds.

    Attributes:
        images: the image count; None until it is known.
    """

    def __init__(self, duration: Duration, *, epoch_images: int) -> None:
        self._duration, self._epoch_images = duration, epoch_images
        # seconds and images, measured by earlier processes and by this one
        self._earlier = self._current = (0.0, 0)
        self.images = None if duration.unit == "seconds" else duration.images(epoch_images)

    def update(self, timer: ThroughputTimer) -> None:
        """Converts the duration to images once its first fifth is measured."""
        if self.images is not None:
            return
        self._current = timer.measurement()
        if self._seconds >= _MEASURED_FRACTION * self._duration.value:
            self._current = timer.measurement(synchronize=True)
            images_per_second = (self._earlier[1] + self._current[1]) / self._seconds
            self.images = self._duration.images(self._epoch_images, images_per_second)

    def progress(self, images: int) -> float:
        """The completed fraction of the duration after `images` images, 0 … 1; 0 until the image count is known."""
        return min(1.0, images / self.images) if self.images else 0.0

    def crossed(self, images: int, batch_size: int) -> bool:
        """Returns whether the step that ended at `images` images crossed a multiple of the duration."""
        return self.images is not None and images // self.images > (images - batch_size) // self.images

    def state_dict(self) -> dict[str, Any]:
        """The duration as given, its image count, and the measurement so far."""
        return {
            "span": str(self._duration),
            "images": self.images,
            "measured": [self._seconds, self._earlier[1] + self._current[1]],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the measurement if the duration is the same; a changed duration is measured again."""
        if state["span"] == str(self._duration):
            self.images = state["images"]
            self._earlier, self._current = (state["measured"][0], state["measured"][1]), (0.0, 0)

    @property
    def _seconds(self) -> float:
        return self._earlier[0] + self._current[0]
