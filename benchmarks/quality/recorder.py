"""Snapshots of the generator during a training run, each with its training time.

The training time counts from the first step on, without evaluations, saves and snapshots.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

SNAPSHOTS = 6


@dataclass(frozen=True)
class Snapshot:
    """A generator's weights, on the CPU, with the seconds of training and the real images until then."""

    seconds: float
    images: int
    weights: dict[str, Tensor]


class Recorder:
    """Schedules and takes snapshots: at 1/32, 1/16, …, 1/2 of the budget, and at its end."""

    def __init__(self, budget: float, *, snapshots: int = SNAPSHOTS) -> None:
        """Sets the budget in seconds; with inf, the run's own duration applies."""
        self.budget, self.snapshots = budget, list[Snapshot]()
        self._due = [budget / 2**k for k in reversed(range(snapshots))]

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


def synchronize(device: torch.device) -> None:
    """Waits until a CUDA device has finished its queued work; returns at once for a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
