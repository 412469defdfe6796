"""Clips the gradient norm of each parameter to a multiple of its running RMS.

Adam with β₁ = 0 divides a gradient by its running RMS. After a long stable phase, a gradient of three times the usual
norm makes a step of three times the usual length, and the next gradient is larger still. Within four steps, weights
move by 1/√(1 − β₂) = 10 learning rates, and training restarts from scratch. So each parameter's gradient is clipped
before Adam uses it. This is the update clipping of Adafactor (Shazeer & Stern 2018, arXiv:1804.04235, section 6),
applied to gradient norms.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ganctl.training.optim.adam import FusedAdam


class GradientClip:
    """Scales gradients to ‖g‖ ≤ limit · √(Σ v̂), where v̂ is Adam's bias-corrected running mean of g².

    Σ v of a parameter equals the running mean of ‖g‖², a scalar, which is stored here. The first gradient of a
    parameter is not clipped.
    """

    def __init__(self, optimizer: FusedAdam, limit: float, *, allow_sync: bool = False) -> None:
        """Clips the gradients of the optimizer's parameters.

        Args:
            optimizer: all its groups must have the same β₂.
            limit: the largest allowed ratio of a gradient's norm to its running RMS.
            allow_sync: whether the host may read device values to skip work; if False, every call runs the same
                operations and never waits for the device.
        """
        self._optimizer, self._limit, self._allow_sync = optimizer, limit, allow_sync
        self._parameters = optimizer.parameters
        self._beta = optimizer.param_groups[0]["betas"][1]
        device = self._parameters[0].device
        self._index_tensors: dict[tuple[int, ...], Tensor] = {}
        self._means = torch.zeros(len(self._parameters), device=device)  # Σ v, by parameter
        self._steps = torch.zeros(len(self._parameters), device=device)  # number of gradients, by parameter
        self._one = torch.ones((), device=device)

    @torch.no_grad()
    def __call__(self) -> None:
        """Clips the current gradients in place and adds them to the running means."""
        indices = [i for i, parameter in enumerate(self._parameters) if parameter.grad is not None]
        gradients = [gradient for i in indices if (gradient := self._parameters[i].grad) is not None]
        squares = _squares(gradients).to(self._means.dtype)
        index = None if len(indices) == len(self._parameters) else self._to_index(tuple(indices))
        means, steps = (values if index is None else values[index] for values in (self._means, self._steps))
        mean_square = means / (1 - self._beta**steps)
        factors = torch.where(mean_square > 0, (mean_square / squares).sqrt_() * self._limit, self._one).clamp_(max=1.0)
        finite = squares < math.inf  # gradients that overflowed in fp16 are not counted: GradScaler skips the update
        means.copy_(torch.where(finite, means.lerp(factors.square() * squares, 1 - self._beta), means))
        steps.add_(finite)
        if index is not None:
            self._means.index_copy_(0, index, means)
            self._steps.index_copy_(0, index, steps)
        if not self._allow_sync:
            torch._foreach_mul_(gradients, list(factors.to(gradients[0].dtype).unbind()))
            return
        for gradient, factor in zip(gradients, factors.tolist(), strict=True):
            if factor != 1.0:  # skips a pass over unclipped gradients
                gradient.mul_(factor)

    def _to_index(self, indices: tuple[int, ...]) -> Tensor:
        """The indices as a tensor, cached: a CUDA graph cannot repeat a copy from the host."""
        if indices not in self._index_tensors:
            self._index_tensors[indices] = torch.tensor(indices, device=self._means.device)
        return self._index_tensors[indices]

    def state_dict(self) -> dict[str, Tensor]:
        return {"means": self._means, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Tensor] | None) -> None:
        """Restores the running means; if `state` is None, derives them from the optimizer's second moments."""
        if state is not None:
            self._means.copy_(state["means"])
            self._steps.copy_(state["steps"])
            return
        for i, parameter in enumerate(self._parameters):
            if moments := self._optimizer.state.get(parameter):
                self._means[i], self._steps[i] = moments["exp_avg_sq"].sum(), moments["step"]


def _squares(gradients: list[Tensor]) -> Tensor:
    """‖g‖² of each gradient. On a CPU, dot products take half the time of norms; a GPU is faster with few kernels."""
    if not gradients[0].is_cpu:
        return torch.stack(torch._foreach_norm(gradients)).square()
    rows = [gradient.as_strided((gradient.numel(),), (1,)) for gradient in gradients]  # flat views in memory order
    return torch.stack([row.dot(row) for row in rows])
