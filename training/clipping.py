"""Keeps one large gradient from becoming ten large steps.

Adam with β₁ = 0 divides a gradient by its running norm. When both networks have been calm for long and one gradient is
three times as large, the step is three times as long, the next gradient larger still: within four steps weights move by
1/√(1 − β₂) = 10 rates each, and training begins anew. So a gradient beyond its history is cut before Adam sees it, by
layer: the update clipping of Adafactor (Shazeer & Stern 2018, arXiv:1804.04235, section 6) as a matter of norms.
"""

import torch
from torch import Tensor


@torch.no_grad()
def clip_to_history(optimizer: torch.optim.Adam, limit: float, *, look: bool = True) -> None:
    """Scales each gradient to ‖g‖ ≤ limit · √(Σ v̂), v̂ being Adam's bias-corrected mean of g²; without waiting for the
    device. A parameter that has had no gradient yet keeps its first one whole.

    `look`: whether a CPU may look at numbers to save itself work. Without it the same operations run every time.
    """
    for group in optimizer.param_groups:
        gradients, states = [], []
        for parameter in group["params"]:
            if parameter.grad is not None and optimizer.state.get(parameter):
                gradients.append(parameter.grad)
                states.append(optimizer.state[parameter])
        if not gradients:
            continue
        look = look and gradients[0].is_cpu  # there it costs nothing
        norms, means = _measure(gradients, [state["exp_avg_sq"] for state in states], flat=look)
        steps = torch.stack([state["step"] for state in states])
        history = (means / (1 - group["betas"][1] ** steps)).sqrt()
        factors: Tensor = torch.where(history > 0, limit * history / norms, 1.0).clamp(max=1.0)
        if look and factors.min() == 1:
            continue  # which saves a pass over all gradients
        torch._foreach_mul_(gradients, list(factors.to(gradients[0].dtype).unbind()))


def _measure(gradients: list[Tensor], squares: list[Tensor], *, flat: bool) -> tuple[Tensor, Tensor]:
    """‖g‖ and Σ v of each. A CPU takes half as long for dot products and sums of flat tensors as for norms, a GPU is
    faster with few kernels."""
    if not flat:
        return torch.stack(torch._foreach_norm(gradients)), torch.stack(torch._foreach_norm(squares, 1))
    # channels are last in memory: flat is no copy
    rows = [(gradient.permute(0, 2, 3, 1) if gradient.dim() == 4 else gradient).flatten() for gradient in gradients]
    return torch.stack([row.dot(row).sqrt() for row in rows]), torch.stack([v.sum() for v in squares])
