"""StreamPool splits tensor lists into shares that hold each element once, in the same memory."""

import pytest
import torch
from torch import Tensor

from ganctl.training.device.streams import NO_STREAMS, StreamPool


@pytest.fixture
def two_streams(monkeypatch: pytest.MonkeyPatch) -> StreamPool:
    """A pool of two streams, as on a GPU; no work is launched on them."""
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    return StreamPool(torch.device("cuda"), 2)


def tensor_lists() -> list[list[Tensor]]:
    shapes = ((300, 200), (7,), (64, 32, 4, 4))
    weights = [torch.zeros(shape) for shape in shapes]
    weights[2] = weights[2].to(memory_format=torch.channels_last)
    return [weights, [torch.ones_like(weight) for weight in weights], [torch.tensor(float(i)) for i in range(3)]]


def test_each_element_is_in_one_share_with_the_same_element_of_the_other_lists(two_streams: StreamPool) -> None:
    weights, ones, scalars = tensor_lists()
    for share in two_streams.split([weights, ones, scalars]):
        for weight, one, scalar in zip(*share, strict=True):
            assert weight.shape == one.shape
            assert weight.numel() <= 32_768
            weight.add_(one).add_(scalar)
    for weight, scalar in zip(weights, scalars, strict=True):
        assert torch.equal(weight, torch.full_like(weight, 1 + scalar.item()))


def test_shares_have_similar_sizes(two_streams: StreamPool) -> None:
    one, two = (sum(tensor.numel() for tensor in share[0]) for share in two_streams.split([[torch.zeros(200_000)]]))
    assert abs(one - two) <= 16_384


def test_without_streams_there_is_one_share_of_whole_tensors_and_work_runs_at_once() -> None:
    lists = tensor_lists()
    assert list(NO_STREAMS.split(lists)) == [lists]
    with NO_STREAMS.stream(3):
        lists[0][0].add_(1)
    NO_STREAMS.join()
    assert lists[0][0].min() == 1
