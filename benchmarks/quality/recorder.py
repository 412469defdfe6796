"""What a benchmark keeps of a training run: copies of the generator on the way, and how long it had trained by then.

Seconds are seconds of training: from the first step on, without evaluations, saves and the making of these copies.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

SNAPSHOTS = 6


@dataclass(frozen=True)
class Snapshot:
    """A generator's weights (on the CPU) after so many seconds of training and so many real images."""

    seconds: float
    images: int
    weights: dict[str, Tensor]


class Recorder:
    """Says when a copy is due: at 1/32, 1/16 … of the budget, and at its end."""

    def __init__(self, budget: float, *, snapshots: int = SNAPSHOTS) -> None:
        """The budget is in seconds; inf leaves the end to the run."""
        self.budget, self.snapshots = budget, list[Snapshot]()
        self._due = [budget / 2**k for k in reversed(range(snapshots))]

    def wants(self, seconds: float) -> bool:
        """Whether a copy is due after so many seconds of training."""
        return bool(self._due) and seconds >= self._due[0]

    def is_over(self, seconds: float) -> bool:
        """Whether the budget is used up."""
        return seconds >= self.budget

    def take(self, seconds: float, images: int, generator: nn.Module) -> None:
        """Copies the generator; what was due before is due no more."""
        weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in generator.state_dict().items()}
        self.snapshots.append(Snapshot(seconds, images, weights))
        self._due = [due for due in self._due if due > seconds]


def wait_for(device: torch.device) -> None:
    """Until a CUDA device has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
