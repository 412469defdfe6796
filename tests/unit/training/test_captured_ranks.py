"""A captured step of several ranks: here a world of one, which sends each message to itself by a real process group.

With several ranks: `test_ranks.py`, by recordings on a CPU.
"""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore

from ganctl.training.distributed.ranks import Ranks
from ganctl.training.errors import RankLostError
from ganctl.training.models.sync_batch_norm import convert_sync_batch_norm
from ganctl.training.step.cuda_graph import WARMUP_STEPS, capture_on_cuda
from tests.unit.training.recorded import recorded
from tests.unit.training.runners import build_runner, settings, state, train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
STEPS = WARMUP_STEPS + 4


class WorldOfOne(Ranks):
    """A single rank that sends its messages all the same."""

    @property
    def communicates(self) -> bool:
        return True


@contextmanager
def world() -> Iterator[Ranks]:
    """A process group of one rank; as in a training, the default group is gloo, and GPU tensors go through NCCL."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        yield WorldOfOne()
    finally:
        Ranks.leave()


def final_state(device: torch.device, preset: str, **options: Any) -> dict[str, torch.Tensor]:
    step, runner = build_runner(settings("loss.penalty_every=1", preset=preset), device, **options)
    losses = train(step, runner, steps=STEPS)
    captured = "eager_reason" not in options
    assert (runner.eager_reason is None, bool(runner.replays)) == (captured, captured)
    values = {key: value.clone() for key, value in state(step).items()}
    return values | {name: torch.tensor(value) for name, value in losses.items()}


def test_a_step_with_messages_computes_the_bits_of_one_without() -> None:
    alone = final_state(CPU, "conv", capture=recorded)
    with world() as ranks:
        for options in ({"eager_reason": "for comparison"}, {"capture": recorded}):
            sent = final_state(CPU, "conv", ranks=ranks, **options)
            for key, value in alone.items():
                assert torch.equal(value, sent[key]), key


def test_a_process_that_leaves_the_ranks_drops_its_graphs_first() -> None:
    """NCCL waits for the end of all graphs that hold a message, before it destroys its communicator."""
    with world() as ranks:
        step, runner = build_runner(settings("loss.penalty_every=1"), ranks=ranks, capture=recorded)
        train(step, runner, steps=STEPS)
        assert runner.replays
        left = build_runner(settings(), ranks=ranks, capture=recorded)  # is collected before
        del left
    assert not runner.replays


def test_a_message_that_cannot_be_captured_is_no_lost_rank(caplog: pytest.LogCaptureFixture) -> None:
    def fail(work: Callable[[], None], rng: torch.Generator) -> Callable[[], None]:
        raise RankLostError("another rank ended (NCCL error)") from RuntimeError("NCCL error: invalid usage\nand more")

    step, runner = build_runner(settings("loss.penalty_every=1"), capture=fail)
    with caplog.at_level(logging.WARNING):
        train(step, runner, steps=STEPS)
    assert runner.eager_reason == "the capture failed: NCCL error: invalid usage"
    assert "another rank" not in caplog.text


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:.* does not have a deterministic implementation:UserWarning")
@pytest.mark.parametrize("preset", ["conv", "lightning-basic-gan", "residual"])
def test_messages_by_nccl_are_captured_and_a_replay_computes_the_same_as_the_eager_step(preset: str) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        alone = final_state(CUDA, preset, capture=capture_on_cuda)
        with world() as ranks:
            captured = final_state(CUDA, preset, ranks=ranks, capture=capture_on_cuda)
            eager = final_state(CUDA, preset, ranks=ranks, eager_reason="for comparison")
    finally:
        torch.use_deterministic_algorithms(False)
    for key, value in eager.items():
        torch.testing.assert_close(captured[key], value, rtol=1e-3, atol=1e-5, msg=key)
        if preset == "conv":  # the others have batch normalization over ranks, or sums without a fixed order
            assert torch.equal(captured[key], alone[key]), key
            assert torch.equal(captured[key], value), key


@pytest.mark.gpu
def test_a_replay_with_messages_never_waits_for_the_device() -> None:
    with world() as ranks:
        step, runner = build_runner(settings("loss.penalty_every=1"), CUDA, ranks=ranks)
        train(step, runner)
        assert runner.eager_reason is None
        index = torch.arange(16, device=CUDA)
        torch.cuda.set_sync_debug_mode("error")
        try:
            runner((index,), step=20, progress=0.5)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False)], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_batch_normalization_of_ranks_on_a_gpu_computes_that_of_pytorch(
    layer: nn.Module, memory_format: torch.memory_format
) -> None:
    x = torch.randn(8, 3, 5, 5, dtype=torch.float64, device=CUDA).to(memory_format=memory_format)
    x = x[:, :, 0, 0] if isinstance(layer, nn.BatchNorm1d) else x
    results = []
    with world() as ranks:
        for group in (Ranks(), ranks):
            parent = nn.Sequential(copy.deepcopy(layer)).to(CUDA, torch.float64)
            convert_sync_batch_norm(parent, group)
            inputs = x.clone().requires_grad_()
            outputs = parent(inputs)
            (outputs * x.sin()).sum().backward()
            gradients = [tensor.grad for tensor in (inputs, *parent.parameters()) if tensor.grad is not None]
            results.append([outputs.detach(), *gradients, parent[0].running_mean, parent[0].running_var])
    for expected, value in zip(*results, strict=True):
        torch.testing.assert_close(value, expected)
