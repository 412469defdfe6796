"""StreamPool: what is split is all there, once, in the same memory."""

import torch
from torch import Tensor

from ganctl.training.device.streams import NO_STREAMS, StreamPool


class Two(StreamPool):
    """Two streams, as a GPU has them, to split by."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"), 0)
        self._streams = [object(), object()]  # type: ignore[list-item]  # never launched on


def columns() -> list[list[Tensor]]:
    shapes = ((300, 200), (7,), (64, 32, 4, 4))
    weights = [torch.zeros(shape) for shape in shapes]
    weights[2] = weights[2].to(memory_format=torch.channels_last)
    return [weights, [torch.ones_like(weight) for weight in weights], [torch.tensor(float(i)) for i in range(3)]]


def test_every_number_is_in_one_share_beside_its_own() -> None:
    weights, ones, scalars = columns()
    for share in Two().split([weights, ones, scalars]):
        for weight, one, scalar in zip(*share, strict=True):
            assert weight.shape == one.shape
            assert weight.numel() <= 32_768
            weight.add_(one).add_(scalar)
    for weight, scalar in zip(weights, scalars, strict=True):
        assert torch.equal(weight, torch.full_like(weight, 1 + scalar.item()))


def test_shares_are_alike() -> None:
    one, two = (sum(tensor.numel() for tensor in share[0]) for share in Two().split([[torch.zeros(200_000)]]))
    assert abs(one - two) <= 16_384


def test_without_lanes_there_is_one_share_of_whole_tensors_and_work_runs_in_line() -> None:
    given = columns()
    assert list(NO_STREAMS.split(given)) == [given]
    with NO_STREAMS.stream(3):
        given[0][0].add_(1)
    NO_STREAMS.join()
    assert given[0][0].min() == 1
