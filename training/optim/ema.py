"""Exponential moving average (EMA) of the generator, the network that is evaluated, exported and served."""

from copy import deepcopy

import torch
from torch import Tensor

from ganctl.training.device.step_inputs import Number
from ganctl.training.device.streams import StreamPool
from ganctl.training.models.base import Generator


class EMA:
    """Keeps the EMA of a generator's weights.

    Attributes:
        network: a copy of the generator with the averaged weights, in evaluation mode.
    """

    def __init__(self, current: Generator, streams: StreamPool) -> None:
        """Starts as a copy of `current`; `streams` run the update's kernels."""
        self.network = deepcopy(current)
        self.network.requires_grad_(False).eval()
        self._streams = streams
        self._parameters: list[list[Tensor]] = [list(network.parameters()) for network in (self.network, current)]
        self._buffers = [
            [[b for b in network.buffers() if b.is_floating_point() == floating] for network in (self.network, current)]
            for floating in (True, False)  # separate lists: a list of mixed dtypes would be copied one by one
        ]

    @torch.no_grad()
    def update(self, weight: Number) -> None:
        """Updates the average: network ← network + weight · (current − network).

        Args:
            weight: 1 − decay; a float, or a scalar tensor on the device.
        """
        if isinstance(weight, float):
            torch._foreach_lerp_(self._parameters[0], self._parameters[1], weight)
            return
        # lerp has no kernel for a weight on the device. SGD on ½‖network − current‖² computes the same: with weight
        # decay 1 and `maximize`, its step is lr · (current − network)
        for stream, (averages, currents) in enumerate(self._streams.split(self._parameters)):
            with self._streams.stream(stream):
                torch._fused_sgd_(
                    averages,
                    currents,
                    [],
                    lr=weight,
                    weight_decay=1.0,
                    maximize=True,
                    momentum=0.0,
                    dampening=0.0,
                    nesterov=False,
                    is_first_step=False,
                )

    @torch.no_grad()
    def copy_buffers(self) -> None:
        """Copies the current buffers (running statistics of normalization layers), which are not averaged."""
        for averages, currents in self._buffers:
            if averages:
                torch._foreach_copy_(averages, currents)
