"""Gradients far beyond their history are cut to it."""

import torch

from tests.unit.training.steps import build


def test_a_gradient_beyond_its_history_is_cut_and_the_first_one_is_not() -> None:
    _, step = build("optimizer.clip=1.5", "loss.auxiliary=0.0")
    phase = step.phases[0]
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    parameters = list(phase.network.parameters())

    def move(size: float) -> None:
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, size)
        phase.move(scaler)

    for size, left in ((1.0, 1.0), (1.0, 1.0), (40.0, 1.5), (0.0, 0.0)):
        move(size)
        for parameter in parameters:
            torch.testing.assert_close(parameter.grad, torch.full_like(parameter, left), rtol=1e-3, atol=0)


def test_a_parameter_that_had_no_gradient_so_far_keeps_its_first_one() -> None:
    _, step = build("optimizer.clip=1.5")
    phase, parameter = step.phases[0], step.discriminator.get_parameter("logit.weight")
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for size in (0.0, 2.0):
        parameter.grad = torch.full_like(parameter, size)
        phase.move(scaler)
        torch.testing.assert_close(parameter.grad, torch.full_like(parameter, size))
