"""An optimizer's step shared among the ranks of one machine: each moves its part of the weights that all of them read.

As ZeRO does (Rajbhandari et al. 2020, arXiv:1910.02054, stages 1 and 2), with what crosses the network there lying in
memory here: a rank writes down the gradients that others need, adds theirs to its own, and moves its weights where the
others find them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ganctl.training.distributed import Ranks
from ganctl.training.shared_memory import SharedMemory, flatten


@dataclass(frozen=True)
class _Place:
    """Of a parameter: which of its numbers, in their order in memory, this rank moves; where it writes down the
    gradients of the others, stretch by stretch; and where the other ranks write down those of its own."""

    own: slice
    given: tuple[tuple[slice, Tensor], ...]
    received: tuple[Tensor, ...]


class Share:
    """This rank's part of a network's parameters: one of as many stretches of their numbers, in their order."""

    @staticmethod
    def of_network(network: nn.Module, ranks: Ranks) -> "Share | None":
        """Takes part with the other ranks; the network's weights move to where all of them see them. All come here at
        the same time, with the same weights. None where ranks have no memory in common."""
        parameters = list(network.parameters())
        alike = len({(p.dtype, p.device.type) for p in parameters}) == 1 and parameters[0].is_cpu
        if ranks.memory is None or not alike or not all(map(_is_row, parameters)):
            return None
        gradients = torch.empty(ranks.size, sum(p.numel() for p in parameters), dtype=parameters[0].dtype)
        places = ranks.memory.empty([*parameters * 3, gradients])
        if places is None:
            return None
        n = len(parameters)
        return Share(ranks, ranks.memory, parameters, places[:n], places[n : 2 * n], places[2 * n : 3 * n], places[-1])

    def __init__(
        self,
        ranks: Ranks,
        memory: SharedMemory,
        parameters: Sequence[nn.Parameter],
        weights: Sequence[Tensor],
        means: Sequence[Tensor],
        squares: Sequence[Tensor],
        gradients: Tensor,
    ) -> None:
        """See `of_network`: tensors laid out as the parameters, and gradients [ranks, numbers], in common memory."""
        self._ranks, self._memory, self._gradients = ranks, memory, gradients
        self._moments = {
            parameter: {"exp_avg": mean, "exp_avg_sq": square}
            for parameter, mean, square in zip(parameters, means, squares, strict=True)
        }
        for parameter, weight in zip(parameters, weights, strict=True):
            parameter.data = weight.copy_(parameter.data)
        self._places: dict[Tensor, _Place] = dict(
            zip(parameters, self._cut([p.numel() for p in parameters]), strict=True)
        )
        self._rows: dict[Tensor, Tensor] = {}  # by what they are part of: whatever stays where it is
        self._gradient_rows: dict[Tensor, Tensor] = {}  # this step's

    def _cut(self, sizes: Sequence[int]) -> Iterator[_Place]:
        """The places of parameters of so many numbers."""
        rank, total, begin = self._ranks.rank, sum(sizes), 0
        first, last = (total * bound // self._ranks.size for bound in (rank, rank + 1))
        for size in sizes:
            by_rank = self._gradients[:, begin : begin + size]
            own = slice(*(min(max(0, bound - begin), size) for bound in (first, last)))
            others = [part for part in (slice(0, own.start), slice(own.stop, size)) if part.start < part.stop]
            received = [row[own] for other, row in enumerate(by_rank) if other != rank]
            yield _Place(own, tuple((part, by_rank[rank][part]) for part in others), tuple(received))
            begin += size

    @torch.no_grad()
    def average_(self) -> None:
        """Replaces this rank's part of the gradients by the means over all ranks. The rest stays as it is.

        Raises:
            RankLostError: a rank has ended.
        """
        gradients = [(p.grad, flatten(p.grad), place) for p, place in self._places.items() if p.grad is not None]
        given = [(there, flat[part]) for _, flat, place in gradients for part, there in place.given]
        torch._foreach_copy_([there for there, _ in given], [here for _, here in given])
        self._memory.meet()
        self._gradient_rows = {gradient: flat[place.own] for gradient, flat, place in gradients}
        rows = list(self._gradient_rows.values())
        for count, theirs in enumerate(zip(*(place.received for *_, place in gradients), strict=True), start=2):
            torch._foreach_lerp_(rows, theirs, 1 / count)  # the mean of one more: a sum would have to be divided, too

    @torch.no_grad()
    def of(self, parameters: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
        """This rank's part of tensors that belong to these parameters, as rows, empty where others move all of one;
        single numbers as they are."""
        rows = []
        for parameter, tensor in zip(parameters, tensors, strict=True):
            row = self._gradient_rows.get(tensor, self._rows.get(tensor))
            if row is None:
                row = self._rows[tensor] = flatten(tensor)[self._places[parameter].own] if tensor.dim() else tensor
            rows.append(row)
        return rows

    def put_in_common(self, tensors: Sequence[Tensor]) -> bool:
        """Moves tensors, the same on every rank, to where all see them (in place), if there is room."""
        places = self._memory.empty(tensors)
        for tensor, place in zip(tensors, places or [], strict=False):
            tensor.data = place.copy_(tensor)
        return places is not None

    def sum_(self, x: Tensor) -> None:
        """Replaces some numbers, each about this rank's part, by their sums: about all."""
        self._ranks.average_([x])
        x.mul_(self._ranks.size)

    def keep_moments(self, optimizer: torch.optim.Adam) -> None:
        """Puts what Adam remembers, nothing yet or a loaded state, to where all ranks see it."""
        for parameter, moments in self._moments.items():
            state = optimizer.state[parameter]
            for name, moment in moments.items():
                state[name] = moment.copy_(state[name]) if name in state else moment.zero_()
            state.setdefault("step", torch.zeros(()))

    def meet(self) -> None:
        """Goes on when every rank has moved its part."""
        self._memory.meet()


def _is_row(x: Tensor) -> bool:
    """Whether it can be cut: numbers side by side in memory, not a single one, which counts and factors are."""
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return x.dim() > 0 and x.numel() > 0 and (x.is_contiguous() or last)
