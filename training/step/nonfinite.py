"""Which tensor was the first to hold a number that is none: some steps later all of them do."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class NonFiniteDetector:
    """Remembers, on the device, which of some tensors were broken when the first ones were."""

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """`tensors` by name: where several broke since the last look, the one that stands first was first."""
        self.tensors = dict(tensors)
        self._broken = torch.zeros(len(tensors), dtype=torch.bool, device=device)

    def check(self) -> None:
        """Never waits for the device."""
        broken = _not_finite(list(self.tensors.values()))
        self._broken.copy_(torch.where(self._broken.any(), self._broken, broken))

    def reset(self) -> None:
        """The tensors have been replaced."""
        self._broken.zero_()

    def name(self, others: Mapping[str, Tensor]) -> str | None:
        """The first that broke, of the tensors or else of these `others`; None where all are sound. Waits."""
        everything = self.tensors | {key: value for key, value in others.items() if value.is_floating_point()}
        broken = self._broken if self._broken.any() else _not_finite(list(everything.values()))
        return list(everything)[int(broken.nonzero()[0])] if broken.any() else None


@torch.no_grad()
def _not_finite(tensors: list[Tensor]) -> Tensor:
    """bool [len(tensors)]: which of them hold a number that is none."""
    return (torch.stack(torch._foreach_norm(tensors, ord=math.inf)) < math.inf).logical_not()
