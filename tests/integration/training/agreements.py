"""Run by torchrun in test_ranks.py: tests communication between ranks. A failed assertion ends the process."""

import sys

import pytest
import torch
from torch import nn

from ganctl.training.config.duration import Duration
from ganctl.training.device.timing import ResolvedDuration
from ganctl.training.distributed.ranks import Ranks, choose_device, random_states, set_random_states
from ganctl.training.errors import CheckpointError, ConfigError, TrainingError
from ganctl.training.loop.control import LoopControl
from ganctl.training.models.sync_batch_norm import convert_sync_batch_norm
from tests.integration.training.captured import check_captured_steps

CPU = torch.device("cpu")


def main(task: str) -> None:
    ranks = Ranks.join()
    assert ranks.size == 2
    if task == "check":
        check(ranks)
    elif task == "rank 0 fails":
        ranks.run_on_main(fail)
        ranks.all_reduce_max([1])  # not reached
    elif task == "values differ":
        ranks.assert_equal_across_ranks("the weights", 1.0 if ranks.is_main else 2.0)
    elif task == "rank 0 ends":
        if ranks.is_main:
            return
        ranks.all_reduce_max([1])


def check(ranks: Ranks) -> None:
    check_collectives(ranks)
    check_sync_batch_norm(ranks)
    check_loop_control(ranks)
    check_mean_of_large_tensors(ranks)
    check_random_states(ranks)
    check_refused_batch_norm(ranks)
    check_captured_steps(ranks)
    if ranks.is_main:
        print("passed", choose_device("cpu", ranks))


def check_collectives(ranks: Ranks) -> None:
    assert ranks.local_slice(8) == (slice(0, 4) if ranks.is_main else slice(4, 8))
    assert ranks.all_gather_object(ranks.rank) == [0, 1]
    assert ranks.broadcast(ranks.rank) == 0
    assert ranks.run_on_main(lambda: f"rank {ranks.rank}") == "rank 0"
    assert ranks.all_reduce_max([ranks.rank, -ranks.rank]) == [1, 0]
    ranks.assert_equal_across_ranks("an equal value", "x")
    tensors = [torch.full((3,), float(ranks.rank)), torch.full((2, 2), 10.0 * ranks.rank)]
    ranks.all_reduce_mean(tensors)
    assert torch.equal(tensors[0], torch.full((3,), 0.5))
    assert torch.equal(tensors[1], torch.full((2, 2), 5.0))
    stacked = ranks.all_gather(torch.tensor([[1.0, 2.0]]) + ranks.rank)
    assert torch.equal(stacked, torch.tensor([[[1.0, 2.0]], [[2.0, 3.0]]]))


def check_mean_of_large_tensors(ranks: Ranks) -> None:
    """Tensors in the channels_last layout, and empty ones, are averaged correctly."""
    for dtype in (torch.float32, torch.float64):
        wide = torch.arange(700_000, dtype=dtype).view(10, 70, 100, 10).to(memory_format=torch.channels_last)
        mean = wide * (1 + 2 * ranks.rank)
        ranks.all_reduce_mean([mean, torch.empty(0, dtype=dtype)])
        assert torch.equal(mean, wide * 2)


def check_loop_control(ranks: Ranks) -> None:
    """After `agree`, all ranks have the requests of every rank, and the duration of rank 0."""
    duration = ResolvedDuration(Duration.parse("10s"))
    requests = LoopControl()
    requests.agree(ranks, duration)
    assert (requests.stop, requests.evaluation, requests.checkpoint, duration.images) == ("", False, False, None)
    if not ranks.is_main:
        requests.stop, requests.evaluate_at_stop, requests.checkpoint = "SIGTERM", False, True
    else:
        duration.images = 777
    requests.agree(ranks, duration)
    assert (requests.stop, requests.evaluate_at_stop, requests.evaluation) == ("SIGTERM", False, False)
    assert (requests.checkpoint, duration.images) == (True, 777)


def check_random_states(ranks: Ranks) -> None:
    """Each rank gets its own random state back."""
    torch.manual_seed(5 + ranks.rank)
    states = ranks.all_gather_object(random_states(CPU))
    expected = torch.rand(3)
    set_random_states(states, ranks, CPU)
    assert torch.equal(torch.rand(3), expected)
    others = ranks.all_gather_object(expected)
    assert not torch.equal(others[0], others[1])


def check_sync_batch_norm(ranks: Ranks) -> None:
    """Outputs, gradients and statistics equal those of one process with the whole batch."""
    for network, shape, options in (
        (nn.BatchNorm1d(3), (8, 3), {}),
        (nn.BatchNorm2d(3), (8, 3, 5, 5), {}),
        (nn.BatchNorm2d(3), (8, 3, 5, 5), {"affine": False}),
        (nn.BatchNorm2d(3), (8, 3, 5, 5), {"track_running_stats": False}),
        (nn.BatchNorm1d(3), (8, 3), {"momentum": None}),
    ):
        batch = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        results = []
        for group in (Ranks(), ranks):
            parent = nn.Sequential(type(network)(3, **options)).double()
            convert_sync_batch_norm(parent, group)
            x = batch[group.local_slice(8)].clone().requires_grad_(True)
            weights = torch.arange(x.numel() * group.size, dtype=torch.float64).view(shape)[group.local_slice(8)].sin()
            (gradient,) = torch.autograd.grad((parent(x) * weights).sum(), x)
            results.append([parent(x).detach(), gradient, *parent.state_dict().values()])
        for whole, share in zip(*results, strict=True):
            expected = whole[ranks.local_slice(8)] if whole.shape == torch.Size(shape) else whole
            torch.testing.assert_close(share, expected, rtol=1e-9, atol=1e-12)


def check_refused_batch_norm(ranks: Ranks) -> None:
    """Other kinds of batch normalization raise an error that names them."""

    class CustomBatchNorm(nn.BatchNorm2d): ...

    for kind in (CustomBatchNorm, nn.BatchNorm3d):
        with pytest.raises(ConfigError, match=rf"--nproc: .*\b{kind.__name__}\b"):
            convert_sync_batch_norm(nn.Sequential(kind(3)), ranks)


def fail() -> None:
    raise CheckpointError("run: a failure of rank 0")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except TrainingError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    finally:
        Ranks.leave()
