"""A step of PyTorch's fused Adam without what its `step` does beside: hooks and checks cost half as much as the
arithmetic of small networks."""

import sys

import torch
from torch import Tensor

from ganctl.training.lanes import NO_LANES, Columns, Lanes
from ganctl.training.shares import Share


@torch.no_grad()
def fused_step(optimizer: torch.optim.Adam, lanes: Lanes = NO_LANES, share: Share | None = None) -> None:
    """`optimizer.step()` of an Adam that is `fused`, and asks for nothing but rates, betas and ε; or this rank's share.

    Kingma & Ba 2015, arXiv:1412.6980, algorithm 1. With β₁ = 0 the mean of gradients is the last one: that stands
    in its place, and the optimizer's own (`exp_avg`) stays as it is: a quarter less memory to move.
    """
    moved = [[p for p in group["params"] if p.grad is not None] for group in optimizer.param_groups]
    for parameter in (parameter for parameters in moved for parameter in parameters):
        if not optimizer.state.get(parameter):
            optimizer.state[parameter] = _state(parameter)
    torch._foreach_add_([optimizer.state[parameter]["step"] for parameters in moved for parameter in parameters], 1)
    for group, parameters in zip(optimizer.param_groups, moved, strict=True):
        if not parameters:
            continue
        states = [optimizer.state[parameter] for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        means = [state["exp_avg"] for state in states] if group["betas"][0] else gradients
        squares, steps = ([state[name] for state in states] for name in ("exp_avg_sq", "step"))
        columns: Columns = [parameters, gradients, means, squares, steps]
        if share:
            columns = [share.of(parameters, column) for column in columns]
        for lane, (weights, slopes, first, second, counts) in enumerate(lanes.split(columns)):
            with lanes.lane(lane):
                torch._fused_adam_(
                    weights,
                    slopes,
                    first,
                    second,
                    [],
                    counts,
                    lr=group["lr"],
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    weight_decay=0.0,
                    eps=group["eps"],
                    amsgrad=False,
                    maximize=False,
                )
    lanes.join()


def _state(parameter: Tensor) -> dict[str, Tensor]:
    """What the optimizer's own first step makes; that would import PyTorch's compiler."""
    return {
        "step": torch.zeros((), device=parameter.device),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }


def leave_the_compiler_out() -> None:
    """PyTorch's optimizers import its compiler when one is made, a second of start-up, so that some of their methods
    stay out of its graphs. Nothing here is compiled: they may run as they are."""
    if "torch._dynamo" in sys.modules:
        return
    for method in vars(torch.optim.Optimizer).values():
        if function := getattr(method, "__wrapped__", None):
            setattr(function, "__dynamo_disable", function)  # where `torch._compile._disable_dynamo` keeps the other
