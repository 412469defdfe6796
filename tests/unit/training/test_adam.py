"""FusedAdam updates weights as torch.optim.Adam does, and reads and writes its state."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from ganctl.training.optim.adam import FusedAdam

SHAPES = ((5, 3), (7,), (2,))


def train(optimizers: tuple[FusedAdam, torch.optim.Adam], parameters: tuple[list[nn.Parameter], ...]) -> None:
    for n in range(5):
        for fused, reference in zip(*parameters, strict=True):
            fused.grad = torch.randn(fused.shape)
            reference.grad = fused.grad.clone()
        if n < 3:  # the last parameter has no gradient at first, so its state starts later
            parameters[0][2].grad = parameters[1][2].grad = None
        for optimizer in optimizers:
            optimizer.step()


def build() -> tuple[tuple[FusedAdam, torch.optim.Adam], tuple[list[nn.Parameter], ...]]:
    torch.manual_seed(0)
    fused = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    reference = copy.deepcopy(fused)

    def groups(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
        return [{"params": parameters[:2], "lr": 0.1}, {"params": parameters[2:]}]

    options: dict[str, Any] = {"lr": 1e-3, "betas": (0.3, 0.9), "eps": 1e-3}
    optimizers = (FusedAdam(groups(fused), **options), torch.optim.Adam(groups(reference), fused=True, **options))
    return optimizers, (fused, reference)


def test_steps_and_their_state_equal_those_of_torch_optim_adam() -> None:
    optimizers, parameters = build()
    train(optimizers, parameters)
    assert all(map(torch.equal, *parameters))
    fused, reference = (optimizer.state_dict()["state"] for optimizer in optimizers)
    torch.testing.assert_close(fused, reference, rtol=0, atol=0)


def test_training_continues_from_a_state_of_torch_optim_adam() -> None:
    optimizers, parameters = build()
    train(optimizers, parameters)
    optimizers[0].load_state_dict(optimizers[1].state_dict())
    train(optimizers, parameters)
    assert all(map(torch.equal, *parameters))


def test_loaded_moments_get_the_memory_layout_of_their_parameter() -> None:
    parameter = nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    optimizer = FusedAdam([{"params": [parameter]}], lr=1e-3, betas=(0.0, 0.9), eps=1e-8)
    parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    stored = optimizer.state_dict()
    stored["state"][0] = {name: value.contiguous() for name, value in stored["state"][0].items()}
    optimizer.load_state_dict(stored)
    assert optimizer.state[parameter]["exp_avg_sq"].stride() == parameter.stride()


@pytest.mark.parametrize("overflowed", [False, True])
def test_the_loss_scaler_skips_an_update_that_overflowed(*, overflowed: bool) -> None:
    (optimizer, _), (parameters, _) = build()
    before = [parameter.detach().clone() for parameter in parameters]
    scaler: Any = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(sum(parameter.sum() for parameter in parameters)).backward()
    if overflowed:
        assert parameters[0].grad is not None
        parameters[0].grad[0, 0] = torch.inf
    scaler.step(optimizer)
    assert all(map(torch.equal, before, parameters)) == overflowed
    assert {float(state["step"]) for state in optimizer.state.values()} == {0.0 if overflowed else 1.0}
