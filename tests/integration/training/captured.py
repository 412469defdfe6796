"""Used by agreements.py: several ranks record and replay a step together, or give up the capture together."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from ganctl.training.distributed.ranks import Ranks
from ganctl.training.optim.adam import FusedAdam
from ganctl.training.step.cuda_graph import WARMUP_STEPS
from ganctl.training.step.step import Step
from tests.unit.training.recorded import Recorder, recorded
from tests.unit.training.runners import BATCH, build_runner, settings, state, train

STEPS = WARMUP_STEPS + 3  # a recording and two replays


class Unrecorded(Ranks):
    """Ranks whose messages a `Recorder` does not see."""

    def all_reduce_mean(self, tensors: Sequence[Tensor]) -> None:
        with _disable_current_modes():
            super().all_reduce_mean(tensors)


def check_captured_steps(ranks: Ranks) -> None:
    for preset in ("conv", "lightning-basic-gan", "residual"):  # batch normalization; energy distance
        check_replays(ranks, preset)
    check_operations(ranks)
    check_failed_capture(ranks)
    check_shared_overflow(ranks)


def check_replays(ranks: Ranks, preset: str) -> None:
    """Replays with their messages compute the bits of the eager step, on every rank."""
    augmented = "augment.probability=adaptive" if preset == "conv" else "augment.probability=0.0"
    config = settings(augmented, "loss.penalty_every=1", preset=preset)
    eager_step, eager_runner = build_runner(config, ranks=ranks, eager_reason="for comparison")
    captured_step, captured_runner = build_runner(config, ranks=ranks, capture=recorded)
    assert train(eager_step, eager_runner, steps=STEPS) == train(captured_step, captured_runner, steps=STEPS)
    assert captured_runner.replays, "nothing was replayed"
    assert_equal(eager_step, captured_step)
    captured_step.check(STEPS)  # all ranks have the same weights


def check_operations(ranks: Ranks) -> None:
    """Besides the messages, a rank runs the operations of a training without ranks; messages have one order."""

    def record(group: Ranks) -> list[str]:
        _, runner = build_runner(settings(), ranks=group, eager_reason="recorded by the test")
        index = torch.arange(BATCH // ranks.size)
        for n in range(3):
            runner((index,), step=n, progress=0.0)
        recorder = Recorder()
        with recorder:
            runner((index,), step=3, progress=0.0)
        return recorder.names

    alone, unrecorded, complete = record(Ranks()), record(Unrecorded(ranks.rank, ranks.size)), record(ranks)
    assert unrecorded == alone
    assert len(complete) > len(alone)
    assert "aten._local_scalar_dense.default" not in complete, "a message is read on the host"
    ranks.assert_equal_across_ranks("the operations", complete)


def check_failed_capture(ranks: Ranks) -> None:
    """If one rank cannot capture, all ranks run eagerly, and compute the same as without an attempt."""

    def capture(work: Callable[[], None], rng: torch.Generator) -> Callable[[], None]:
        if not ranks.is_main:
            torch.rand(1, generator=rng)  # as a capture that fails after its first operations
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        return work  # as on CUDA, a capture runs nothing

    eager_step, eager_runner = build_runner(settings(), ranks=ranks, eager_reason="for comparison")
    failed_step, failed_runner = build_runner(settings(), ranks=ranks, capture=capture)
    assert train(eager_step, eager_runner, steps=STEPS) == train(failed_step, failed_runner, steps=STEPS)
    failure = "the capture failed: operation not permitted when stream is capturing"
    assert failed_runner.eager_reason == (f"on rank 1, {failure}" if ranks.is_main else failure)
    assert not failed_runner.replays, "rank 0 dropped its graph"
    assert_equal(eager_step, failed_step)


def check_shared_overflow(ranks: Ranks) -> None:
    """If the gradients of one rank overflow in fp16, all ranks skip the update and lower the scale of the loss."""
    step, _ = build_runner(settings("optimizer.grad_clip_ratio=0"))
    network, scaler = nn.Linear(2, 1), torch.amp.GradScaler("cpu", init_scale=8.0)
    network.load_state_dict({"weight": torch.ones(1, 2), "bias": torch.zeros(1)})
    adam = FusedAdam([{"params": network.parameters()}], lr=0.1, betas=(0.0, 0.9), eps=1e-8)
    phase = replace(step.phases[0], network=network, optimizer=adam)
    gradient = 1.0 if ranks.is_main else torch.inf
    scaler.scale(network(torch.ones(1, 2)).sum()).backward()
    for parameter in network.parameters():
        assert parameter.grad is not None
        parameter.grad.fill_(gradient)
    phase.step(scaler, ranks)
    scaler.update()
    assert torch.equal(network.weight, torch.ones(1, 2))
    assert scaler.get_scale() == 4.0


def assert_equal(expected: Step, step: Step) -> None:
    for key, value in state(expected).items():
        assert torch.equal(value, state(step)[key]), key
