"""Per-step scalars that a captured CUDA graph can read: factors of learning rates and penalties, and the EMA weight.

An eager step takes them as Python floats. A captured step (`step/cuda_graph.py`) repeats its recorded operations, so it
reads them from device memory. They are written there before each step, without waiting for the device.
"""

import torch
from torch import Tensor

Number = float | Tensor


class StepInputs:
    """The scalars of the current step.

    Attributes:
        lr_factor: factor of the learning rates.
        penalty_factor: factor of the gradient penalties.
        ema_weight: 1 − decay of the EMA: the weight of the current generator.
    """

    lr_factor: Number = 1.0
    penalty_factor: Number = 1.0
    ema_weight: Number = 1.0

    def __init__(self, device: torch.device, *, on_device: bool = False) -> None:
        """Stores the scalars as float32 tensors on `device`, at fixed addresses, if `on_device`; else as floats."""
        self._written: dict[str, float] = {}
        if on_device:
            self.lr_factor, self.penalty_factor, self.ema_weight = torch.ones(3, device=device).unbind()

    def set(self, **numbers: float) -> None:
        """Writes the scalars that changed; `fill_` passes the value as a kernel argument and does not wait."""
        for name, number in numbers.items():
            scalar = getattr(self, name)
            if not isinstance(scalar, Tensor):
                setattr(self, name, number)
            elif self._written.get(name) != number:
                self._written[name] = number
                scalar.fill_(number)
