"""The running average of the generator, the network that is evaluated, exported and served."""

from copy import deepcopy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from ganctl.training.device.step_inputs import Number
from ganctl.training.device.streams import NO_STREAMS, StreamPool

N = TypeVar("N", bound=nn.Module)


class EMA(Generic[N]):
    """`network` is the average of all weights that `current` has had, lately ones counting more."""

    def __init__(self, current: N, streams: StreamPool = NO_STREAMS) -> None:
        """Starts as a copy."""
        self.network = deepcopy(current)
        self.network.requires_grad_(False).eval()
        self._streams = streams
        self._weights: list[list[Tensor]] = [list(network.parameters()) for network in (self.network, current)]
        self._buffers = [
            [[b for b in network.buffers() if b.is_floating_point() == real] for network in (self.network, current)]
            for real in (True, False)  # apart: copied together, each would be by itself
        ]

    @torch.no_grad()
    def update(self, renewal: Number) -> None:
        """network ← network + renewal · (current − network)."""
        if isinstance(renewal, float):
            torch._foreach_lerp_(self._weights[0], self._weights[1], renewal)
            return
        # of a weight on the device there is no such kernel, but descent on ½‖network − current‖² is the same: its slope
        # is 1 · network − current
        for stream, (averages, currents) in enumerate(self._streams.split(self._weights)):
            with self._streams.stream(stream):
                torch._fused_sgd_(
                    averages,
                    currents,
                    [],
                    lr=renewal,
                    weight_decay=1.0,
                    maximize=True,
                    momentum=0.0,
                    dampening=0.0,
                    nesterov=False,
                    is_first_step=False,
                )

    @torch.no_grad()
    def copy_buffers(self) -> None:
        """What normalisation layers remember is not averaged, but as it is now."""
        for ours, others in self._buffers:
            if ours:
                torch._foreach_copy_(ours, others)
