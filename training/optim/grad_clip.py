"""Keeps one large gradient from becoming ten large steps.

Adam with β₁ = 0 divides a gradient by its running norm. When both networks have been calm for long and one gradient is
three times as large, the step is three times as long, the next gradient larger still: within four steps weights move by
1/√(1 − β₂) = 10 rates each, and training begins anew. So a gradient beyond its history is cut before Adam sees it, by
layer: the update clipping of Adafactor (Shazeer & Stern 2018, arXiv:1804.04235, section 6) as a matter of norms.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ganctl.training.optim.adam import FusedAdam


class GradientClip:
    """Scales gradients to ‖g‖ ≤ limit · √(Σ v̂), v̂ being Adam's bias-corrected mean of g²; never waits for a device.

    Σ v of a parameter is the running mean of ‖g‖², one number, so it is kept here instead of summed over all v.
    A parameter that has had no gradient yet keeps its first one whole.
    """

    def __init__(self, optimizer: FusedAdam, limit: float, *, allow_sync: bool = False) -> None:
        """`allow_sync`: whether the host may read numbers to skip work; else every call runs the same operations."""
        self._optimizer, self._limit, self._allow_sync = optimizer, limit, allow_sync
        self._parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
        self._beta = optimizer.param_groups[0]["betas"][1]
        place = self._parameters[0].device
        self._indices: dict[tuple[int, ...], Tensor] = {}
        self._means = torch.zeros(len(self._parameters), device=place)  # Σ v of each
        self._steps = torch.zeros(len(self._parameters), device=place)  # gradients of which it has come
        self._one = torch.ones((), device=place)

    @torch.no_grad()
    def __call__(self) -> None:
        """Cuts the gradients as they are, and takes them into their history."""
        places = [i for i, parameter in enumerate(self._parameters) if parameter.grad is not None]
        gradients = [gradient for i in places if (gradient := self._parameters[i].grad) is not None]
        squares = _squares(gradients).to(self._means.dtype)
        index = None if len(places) == len(self._parameters) else self._on_device(tuple(places))
        means, steps = (all_ if index is None else all_[index] for all_ in (self._means, self._steps))
        history = means / (1 - self._beta**steps)
        factors = torch.where(history > 0, (history / squares).sqrt_() * self._limit, self._one).clamp_(max=1.0)
        sound = squares < math.inf  # fp16 may overflow: such an update is left out
        means.copy_(torch.where(sound, means.lerp(factors.square() * squares, 1 - self._beta), means))
        steps.add_(sound)
        if index is not None:
            self._means.index_copy_(0, index, means)
            self._steps.index_copy_(0, index, steps)
        if not self._allow_sync:
            each: list[Tensor] = list(factors.to(gradients[0].dtype).unbind())
            torch._foreach_mul_(gradients, each)
            return
        for gradient, factor in zip(gradients, factors.tolist(), strict=True):
            if factor != 1.0:  # else a pass over all of it is saved
                gradient.mul_(factor)

    def _on_device(self, places: tuple[int, ...]) -> Tensor:
        """Made once: to copy something from the host is nothing that a graph could repeat."""
        if places not in self._indices:
            self._indices[places] = torch.tensor(places, device=self._means.device)
        return self._indices[places]

    def state_dict(self) -> dict[str, Tensor]:
        return {"means": self._means, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Tensor] | None) -> None:
        """Takes up a history; without one, that of the optimizer."""
        if state is not None:
            self._means.copy_(state["means"])
            self._steps.copy_(state["steps"])
            return
        for i, parameter in enumerate(self._parameters):
            if moments := self._optimizer.state.get(parameter):
                self._means[i], self._steps[i] = moments["exp_avg_sq"].sum(), moments["step"]


def _squares(gradients: list[Tensor]) -> Tensor:
    """‖g‖² of each. A CPU takes half as long for dot products of flat tensors as for norms, a GPU is faster with few
    kernels."""
    if not gradients[0].is_cpu:
        return torch.stack(torch._foreach_norm(gradients)).square()
    rows = [gradient.as_strided((gradient.numel(),), (1,)) for gradient in gradients]  # in their order in memory
    return torch.stack([row.dot(row) for row in rows])
