"""Snapshots of the generator during a training run, each with its training time.

The training time counts from the first step on, without evaluations, saves and snapshots.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SNAPSHOTS = 9


@dataclass(frozen=True)
class Snapshot:
    """A generator's weights, on the CPU, with the seconds of training and the real images until then."""

    seconds: float
    images: int
    weights: dict[str, Tensor]


def snapshot_times(budget: float, snapshots: int = SNAPSHOTS) -> list[float]:
    """Returns the seconds at which snapshots are due: …, 1/4, 0.35, 1/2, 0.71 of the budget, and its end."""
    return [budget / 2 ** (k / 2) for k in reversed(range(snapshots))]


class Recorder:
    """Schedules and takes snapshots: at the first step that ends at or after each of `snapshot_times`."""

    def __init__(self, budget: float, *, snapshots: int = SNAPSHOTS) -> None:
        """Sets the budget in seconds; with inf, the run's own duration applies."""
        self.budget, self.snapshots = budget, list[Snapshot]()
        self._due = snapshot_times(budget, snapshots)

    def is_due(self, seconds: float) -> bool:
        """Returns whether a snapshot is due at this training time."""
        return bool(self._due) and seconds >= self._due[0]

    def is_over(self, seconds: float) -> bool:
        """Returns whether the budget is used up."""
        return seconds >= self.budget

    def take(self, seconds: float, images: int, generator: nn.Module) -> None:
        """Copies the generator's weights; cancels all snapshots that were due by now."""
        weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in generator.state_dict().items()}
        self.snapshots.append(Snapshot(seconds, images, weights))
        self._due = [due for due in self._due if due > seconds]


class StepClock:
    """Measures the training time of a loop that is not ours, and takes the recorder's snapshots between its steps."""

    def __init__(self, recorder: Recorder, device: torch.device) -> None:
        self._recorder, self._device = recorder, device
        self._started: float | None = None
        self._images = 0

    def start(self) -> None:
        """Starts the clock at the beginning of the first step; has no effect later."""
        if self._started is None:
            self._started = time.monotonic()

    def step(self, images: int, generator: nn.Module) -> bool:
        """Counts a step on `images` real images; takes a snapshot if one is due.

        Returns:
            whether the budget is used up.
        """
        assert self._started is not None, "a step has started"
        self._images += images
        seconds = time.monotonic() - self._started
        over = self._recorder.is_over(seconds)
        if over or self._recorder.is_due(seconds):
            synchronize(self._device)
            seconds = time.monotonic() - self._started
            with self.pause():
                self._recorder.take(seconds, self._images, generator)
        return over

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Does not count the time of the block."""
        assert self._started is not None, "a step has started"
        paused_at = time.monotonic()
        yield
        self._started += time.monotonic() - paused_at


def synchronize(device: torch.device) -> None:
    """Waits until a CUDA device has finished its queued work; returns at once for a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
