"""What is set from outside at every step: the learning rates' factor, the penalties' weight, the average's.

An eager step takes them as Python numbers. A captured one (`graph.py`) repeats exactly what it was captured with, so
there they are numbers in the device's memory, written before each step without waiting for it.
"""

import torch
from torch import Tensor

Number = float | Tensor
_NAMES = ("rate", "penalty", "renewal")


class StepInputs:
    """`rate`, the factor of the learning rates; `penalty`, that of the gradient penalties; `renewal`, the share of the
    generator's weights that enters their average."""

    rate: Number = 1.0
    penalty: Number = 1.0
    renewal: Number = 1.0

    def __init__(self, device: torch.device, *, on_device: bool = False) -> None:
        """`on_device`: scalar tensors of float32 there, the same ones for good; else Python's floats."""
        self._written: dict[str, float] = {}
        self._on_device = on_device
        if on_device:
            for name, number in zip(_NAMES, torch.ones(len(_NAMES), device=device).unbind(), strict=True):
                setattr(self, name, number)

    def set(self, **numbers: float) -> None:
        """Writes what has changed; a number is an argument of the kernel that writes it, so nobody waits."""
        for name, number in numbers.items():
            assert name in _NAMES, name
            if not self._on_device:
                setattr(self, name, number)
            elif self._written.get(name) != number:
                self._written[name] = number
                getattr(self, name).fill_(number)
