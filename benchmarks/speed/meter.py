"""Measures a training loop from inside: time to the first step, images/s after a warm-up, peak memory."""

import resource
import sys
import time
from typing import Any

import torch

from ganctl.benchmarks.quality.recorder import synchronize

WARM_UP = 20  # steps that do not count for the rate


class Meter:
    """Counts steps until the measurement is complete; `results` then holds it."""

    def __init__(self, *, seconds: float, started: float, device: torch.device) -> None:
        """Sets the length of the measurement in seconds, and the start of the process as a `time.time()`."""
        self._seconds, self._started, self._device = seconds, started, device
        self._steps = self._images = 0
        self._measured_from = 0.0
        self.results: dict[str, Any] = {}

    def tick(self, images: int) -> bool:
        """Counts a step with its number of images; returns True when the measurement is complete."""
        self._steps += 1
        if self._steps == 1:
            synchronize(self._device)
            self.results["first_step_seconds"] = time.time() - self._started
        if self._steps == WARM_UP:
            synchronize(self._device)
            self._measured_from = time.perf_counter()
        if self._steps <= WARM_UP:
            return False
        self._images += images
        if time.perf_counter() - self._measured_from < self._seconds:
            return False
        synchronize(self._device)
        self.results["images_per_second"] = self._images / (time.perf_counter() - self._measured_from)
        self.results["memory_bytes"] = resident_peak()
        if self._device.type == "cuda":
            self.results["device_bytes"] = torch.cuda.max_memory_allocated(self._device)
        return True


def resident_peak() -> int:
    """Returns the peak resident memory of this process, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
