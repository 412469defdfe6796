"""Measures a loop from within: seconds to its first step, its rate once it is warm, the memory that it took."""

import resource
import sys
import time
from typing import Any

import torch

from ganctl.benchmarks.quality.recorder import wait_for

WARM_UP = 20  # steps that say nothing about the rate


class Meter:
    """Told of each step; says when it has seen enough."""

    def __init__(self, *, seconds: float, started: float, device: torch.device) -> None:
        """`seconds` is how long it measures, `started` when the process was started, as `time.time()`."""
        self._seconds, self._started, self._device = seconds, started, device
        self._steps = self._images = 0
        self._began = 0.0
        self.found: dict[str, Any] = {}

    def tick(self, images: int) -> bool:
        """After each step, with its number of images; True when the measurement is complete (`found`)."""
        self._steps += 1
        if self._steps == 1:
            wait_for(self._device)
            self.found["first_step_seconds"] = time.time() - self._started
        if self._steps == WARM_UP:
            wait_for(self._device)
            self._began = time.perf_counter()
        if self._steps <= WARM_UP:
            return False
        self._images += images
        if time.perf_counter() - self._began < self._seconds:
            return False
        wait_for(self._device)
        self.found["images_per_second"] = self._images / (time.perf_counter() - self._began)
        self.found["memory_bytes"] = resident_peak()
        if self._device.type == "cuda":
            self.found["device_bytes"] = torch.cuda.max_memory_allocated(self._device)
        return True


def resident_peak() -> int:
    """The most memory that this process has held, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
