"""Gradients whose norm is far above its running RMS are clipped."""

import copy

import torch

from tests.unit.training.steps import batch, build


def test_a_gradient_above_its_running_rms_is_clipped_and_the_first_one_is_not() -> None:
    _, step = build("optimizer.grad_clip_ratio=1.5", "loss.classification=0.0")
    phase = step.phases[0]
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    parameters = list(phase.network.parameters())

    def step_with_gradient(size: float) -> None:
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, size)
        phase.step(scaler)

    for size, clipped in ((1.0, 1.0), (1.0, 1.0), (40.0, 1.5), (0.0, 0.0)):
        step_with_gradient(size)
        for parameter in parameters:
            torch.testing.assert_close(parameter.grad, torch.full_like(parameter, clipped), rtol=1e-3, atol=0)


def test_the_first_gradient_other_than_0_is_not_clipped() -> None:
    _, step = build("optimizer.grad_clip_ratio=1.5")
    phase, parameter = step.phases[0], step.discriminator.get_parameter("logit.weight")
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for size in (0.0, 2.0):
        parameter.grad = torch.full_like(parameter, size)
        phase.step(scaler)
        torch.testing.assert_close(parameter.grad, torch.full_like(parameter, size))


def test_the_running_mean_equals_the_sum_of_adams_second_moments() -> None:
    _, step = build("optimizer.grad_clip_ratio=0.5")
    for n in range(6):
        step(*batch(), step=n, progress=0.0)
    for phase in step.phases:
        assert phase.clip is not None
        means = phase.clip.state_dict()["means"]
        parameters = [p for group in phase.optimizer.param_groups for p in group["params"]]
        sums = torch.stack([phase.optimizer.state[p]["exp_avg_sq"].sum() for p in parameters])
        torch.testing.assert_close(means, sums, rtol=1e-4, atol=0)


def test_a_checkpoint_without_clipping_state_takes_it_from_its_optimizer() -> None:
    _, step = build()
    for n in range(4):
        step(*batch(), step=n, progress=0.0)
    state = copy.deepcopy(step.state_dict())
    expected = state.pop("clipping")
    _, restored = build()
    restored.load_state_dict(state)
    for phase in restored.phases:
        assert phase.clip is not None
        torch.testing.assert_close(phase.clip.state_dict(), expected[phase.name], rtol=1e-4, atol=0)


def test_an_infinite_gradient_does_not_change_the_running_mean() -> None:
    _, step = build()
    step(*batch(), step=0, progress=0.0)
    phase = step.phases[0]
    assert phase.clip is not None
    before = copy.deepcopy(phase.clip.state_dict())
    for parameter in phase.network.parameters():
        parameter.grad = torch.full_like(parameter, float("inf"))
    phase.clip()
    torch.testing.assert_close(phase.clip.state_dict(), before, rtol=0, atol=0)
