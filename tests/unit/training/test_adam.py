"""Our way to a step of Adam ends where PyTorch's does."""

import copy
from typing import Any

import torch

from ganctl.training.adam import fused_step


def test_it_moves_weights_as_the_optimizers_own_step_does() -> None:
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((5, 3), (7,), (2,))]
    plain = copy.deepcopy(ours)
    optimizers = []
    for p in (ours, plain):
        groups: list[dict[str, Any]] = [{"params": p[:2], "lr": 0.1}, {"params": p[2:]}]
        optimizers.append(torch.optim.Adam(groups, betas=(0.3, 0.9), eps=1e-3, fused=True))
    for n in range(5):
        for a, b in zip(ours, plain, strict=True):
            a.grad = torch.randn(a.shape)
            b.grad = a.grad.clone()
        if n < 3:  # the last one joins later, and brings its state then
            ours[2].grad = plain[2].grad = None
        fused_step(optimizers[0])
        optimizers[1].step()
        for a, b in zip(ours, plain, strict=True):
            assert torch.equal(a, b)
    one, two = (optimizer.state_dict()["state"] for optimizer in optimizers)
    torch.testing.assert_close(one, two, rtol=0, atol=0)
