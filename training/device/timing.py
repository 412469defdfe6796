"""How fast a run goes, and how long its lengths are: lengths given in seconds or epochs become images here.

Schedules are functions of images, so that a run repeats itself whatever the machine's mood. A length given as a time
becomes images once, from the rate of its first fifth, and is kept in the checkpoint.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ganctl.training.config.schema import Duration

_WARM_UP = 20  # steps that say nothing about the rate: caches fill, kernels are chosen
_SHARE = 0.2  # of a time that is measured before it becomes images; the decays of the presets begin no earlier


class ThroughputTimer:
    """The time of one process's part of a run, and its rate."""

    def __init__(self, *, batch_size: int, device: torch.device) -> None:
        self._batch_size, self._device = batch_size, device
        self._began = self._paused = self._warm_at = 0.0
        self._steps = 0

    @property
    def seconds(self) -> float:
        """Seconds since the first step, evaluations and saves included; 0 before it."""
        return time.monotonic() - self._began if self._began else 0.0

    @property
    def images_per_second(self) -> float:
        """Rate of the training steps alone, without evaluations and saves."""
        return self._steps * self._batch_size / self._training if self._began and self._training > 0 else 0.0

    def start(self) -> None:
        """Begins to count, right before the first step."""
        self._began, self._paused, self._steps = time.monotonic(), 0.0, 0

    def count(self) -> None:
        """Counts a step."""
        self._steps += 1
        if self._steps == _WARM_UP:
            self._wait()
            self._warm_at = self._training

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Keeps what runs within out of the rate."""
        self._wait()  # steps that the device still owes belong to the training
        began = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - began

    def measured(self, *, wait: bool = False) -> tuple[float, int]:
        """Seconds of training and the images seen in them, the warm-up aside; with `wait` the device has done them."""
        if self._steps <= _WARM_UP:
            return 0.0, 0
        if wait:
            self._wait()
        return self._training - self._warm_at, (self._steps - _WARM_UP) * self._batch_size

    @property
    def _training(self) -> float:
        return self.seconds - self._paused

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class ResolvedDuration:
    """A span as a number of images: at once for epochs and images, after its first fifth for a time."""

    def __init__(self, span: Duration, *, epoch_images: int) -> None:
        self._span, self._epoch_images = span, epoch_images
        self._before = self._now = (0.0, 0)  # seconds and images that earlier processes measured, and this one
        self.images = None if span.unit == "seconds" else span.images(epoch_images)

    def update(self, clock: ThroughputTimer) -> None:
        """Looks whether the rate is known by now."""
        if self.images is not None:
            return
        self._now = clock.measured()
        if self._seconds >= _SHARE * self._span.value:
            self._now = clock.measured(wait=True)
            self.images = self._span.images(self._epoch_images, (self._before[1] + self._now[1]) / self._seconds)

    def progress(self, images: int) -> float:
        """Share of the span that `images` make; 0 until it is measured."""
        return min(1.0, images / self.images) if self.images else 0.0

    def crossed(self, images: int, batch_size: int) -> bool:
        """Whether the step that ended at `images` crossed a multiple of the span."""
        return self.images is not None and images // self.images > (images - batch_size) // self.images

    def state_dict(self) -> dict[str, Any]:
        """The span as given and as images, and what has been measured on the way there."""
        return {
            "span": str(self._span),
            "images": self.images,
            "measured": [self._seconds, self._before[1] + self._now[1]],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what was measured of the same span; a new one is measured anew."""
        if state["span"] == str(self._span):
            self.images = state["images"]
            self._before, self._now = (state["measured"][0], state["measured"][1]), (0.0, 0)

    @property
    def _seconds(self) -> float:
        return self._before[0] + self._now[0]
