"""Measures throughput; converts durations in seconds or epochs to image counts.

Schedules are functions of the image count, so that a run is reproducible at any machine speed. A duration in seconds is
converted once, by the throughput of its first fifth, and the image count is stored in the checkpoint.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ganctl.training.config.duration import Duration

_WARMUP_STEPS = 20  # not measured: caches fill, and libraries choose their kernels
_MEASURED_FRACTION = 0.2  # of a duration in seconds, before its conversion; the presets' decays start later


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
        return self._steps * self._batch_size / self._training_seconds if self._steps else 0.0

    def start(self) -> None:
        """Starts the timer, immediately before the first step."""
        self._started_at, self._paused_seconds, self._steps = time.monotonic(), 0.0, 0

    def count(self) -> None:
        """Counts a step."""
        self._steps += 1
        if self._steps == _WARMUP_STEPS:
            self.synchronize()
            self._warmup_seconds = self._training_seconds

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Excludes the time of the context from the throughput."""
        self.synchronize()  # steps still queued on the device count as training
        paused_at = self.seconds
        yield
        self._paused_seconds += self.seconds - paused_at

    @contextmanager
    def exclude(self) -> Iterator[None]:
        """Excludes the time of the context from `seconds` and the throughput, as that of a start is."""
        self.synchronize()
        excluded_at = time.monotonic()
        yield
        if self._started_at:
            self._started_at += time.monotonic() - excluded_at

    def measurement(self) -> tuple[float, int]:
        """Returns the seconds of training and the number of images since the warm-up."""
        if self._steps <= _WARMUP_STEPS:
            return 0.0, 0
        return self._training_seconds - self._warmup_seconds, (self._steps - _WARMUP_STEPS) * self._batch_size

    def synchronize(self) -> None:
        """Waits until the device has done all steps."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    @property
    def _training_seconds(self) -> float:
        return self.seconds - self._paused_seconds


class ResolvedDuration:
    """A duration as an image count, which is unknown before `resolve`, and for seconds until the first fifth is over.

    Attributes:
        images: the image count; None until it is known.
    """

    def __init__(self, duration: Duration) -> None:
        self._duration = duration
        self.images: int | None = None
        self._earlier = self._measured = (0.0, 0)  # seconds and images: of earlier processes, and in all

    def resolve(self, epoch_images: int) -> None:
        """Converts a duration in epochs or images; keeps the image count of a resumed run."""
        if self.images is None and self._duration.unit != "seconds":
            self.images = self._duration.images(epoch_images)

    def update(self, timer: ThroughputTimer) -> None:
        """Converts a duration in seconds once its first fifth is measured."""
        if self.images is not None:
            return
        self._measure(timer)
        if self._measured[0] >= _MEASURED_FRACTION * self._duration.value:
            timer.synchronize()
            self._measure(timer)
            seconds, images = self._measured
            self.images = self._duration.images(epoch_images=0, images_per_second=images / seconds)

    def progress(self, images: int) -> float:
        """Returns the completed fraction of the duration, 0 … 1; 0 until the image count is known."""
        return min(1.0, images / self.images) if self.images else 0.0

    def crossed(self, images: int, batch_size: int) -> bool:
        """Returns whether the step that ended at `images` images crossed a multiple of the duration."""
        return self.images is not None and images // self.images > (images - batch_size) // self.images

    def state_dict(self) -> dict[str, Any]:
        """Returns the duration as given, its image count, and the measurement so far."""
        return {"span": str(self._duration), "images": self.images, "measured": list(self._measured)}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Restores the measurement if the duration is the same; a changed or new duration is measured again."""
        if state is not None and state["span"] == str(self._duration):
            self.images = state["images"]
            seconds, images = state["measured"]
            self._earlier = self._measured = (seconds, images)

    def _measure(self, timer: ThroughputTimer) -> None:
        seconds, images = timer.measurement()
        self._measured = (self._earlier[0] + seconds, self._earlier[1] + images)
