"""Finds the first tensor that became NaN or inf."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class NonFiniteDetector:
    """Records, on the device, which tensors were non-finite at the first check that found one.

    NaN spreads to all tensors within a few steps, so later checks do not overwrite the record.
    """

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Watches `tensors`, by name; if one check finds several, the first in this order is reported."""
        self.tensors = dict(tensors)
        self._first_nonfinite = torch.zeros(len(tensors), dtype=torch.bool, device=device)

    def check(self) -> None:
        """Checks the tensors, without waiting for the device."""
        nonfinite = _find_nonfinite(list(self.tensors.values()))
        self._first_nonfinite.copy_(torch.where(self._first_nonfinite.any(), self._first_nonfinite, nonfinite))

    def reset(self) -> None:
        """Clears the record, after the tensors got new values."""
        self._first_nonfinite.zero_()

    def first_nonfinite(self, extra: Mapping[str, Tensor]) -> str | None:
        """The name of the first non-finite tensor, None if all are finite. Waits for the device.

        Args:
            extra: further tensors by name, checked now, after the watched ones.
        """
        tensors = self.tensors | {key: value for key, value in extra.items() if value.is_floating_point()}
        recorded = self._first_nonfinite.any()
        nonfinite = self._first_nonfinite if recorded else _find_nonfinite(list(tensors.values()))
        return list(tensors)[int(nonfinite.nonzero()[0])] if nonfinite.any() else None


@torch.no_grad()
def _find_nonfinite(tensors: list[Tensor]) -> Tensor:
    """bool [len(tensors)]: True for tensors that contain NaN or inf."""
    return (torch.stack(torch._foreach_norm(tensors, ord=math.inf)) < math.inf).logical_not()
