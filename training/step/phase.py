"""One network's update: its optimizer, what teaches it, and how it moves, alone or as one of several ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ganctl.training.config.schema import Config
from ganctl.training.device.step_inputs import Number
from ganctl.training.device.streams import NO_STREAMS, StreamPool
from ganctl.training.distributed.ranks import SOLO, Ranks
from ganctl.training.losses.backend import Batch
from ganctl.training.losses.terms import LossResult
from ganctl.training.optim.adam import FusedAdam
from ganctl.training.optim.grad_clip import GradientClip
from ganctl.training.optim.param_groups import param_groups


@dataclass(frozen=True)
class Phase:
    """One network's update, on every `every`-th step: `learn` leaves gradients in its weights, `move` follows them."""

    name: str
    network: nn.Module
    optimizer: FusedAdam
    rates: tuple[float, ...]  # of the optimizer's groups, by the settings
    rates_on_device: Tensor  # the same
    backward_loss: Callable[[Batch], LossResult]
    every: int = 1
    clip: GradientClip | None = None  # of gradients far beyond their history

    @property
    def rate(self) -> float:
        """The learning rate as it is now, of a layer whose factor is 1."""
        group = self.optimizer.param_groups[0]
        return float(group["lr"] / group["scale"])

    def set_rate(self, factor: Number) -> None:
        """The learning rates become `factor` times the settings'."""
        if isinstance(factor, Tensor):
            rates: Sequence[Number] = (self.rates_on_device * factor).unbind()
        else:
            rates = [rate * factor for rate in self.rates]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def backward(self, batch: Batch) -> LossResult:
        """New gradients in the place of old ones."""
        self.optimizer.zero_grad()
        return self.backward_loss(batch)

    def step(self, scaler: torch.amp.GradScaler, ranks: Ranks = SOLO) -> None:
        """Averages the gradients over the ranks, cuts what is beyond their history, and takes one step."""
        gradients = [parameter.grad for parameter in self.network.parameters()]
        ranks.all_reduce_mean([gradient for gradient in gradients if gradient is not None])
        optimizer = cast(torch.optim.Optimizer, self.optimizer)  # as far as GradScaler is concerned
        if self.clip:
            scaler.unscale_(optimizer)
            self.clip()
        scaler.step(optimizer)


def build_phase(
    name: str,
    network: nn.Module,
    backward_loss: Callable[[Batch], LossResult],
    config: Config,
    *,
    streams: StreamPool = NO_STREAMS,
    allow_sync: bool,
) -> Phase:
    """The discriminator's or the generator's (`name`), by the settings.

    Args:
        streams: where the optimizer's kernels run side by side.
        allow_sync: whether a CPU may look at numbers to save itself work.
    """
    adam, of_generator = config.optimizer, name == "generator"
    lr = adam.lr if of_generator else adam.lr_discriminator or adam.lr
    groups = param_groups(network, lr_by_fan_in=of_generator and adam.lr_by_fan_in)
    optimizer = FusedAdam(groups, lr=lr, betas=(adam.beta1, adam.beta2), eps=adam.eps, streams=streams)
    clip = GradientClip(optimizer, adam.grad_clip_ratio, allow_sync=allow_sync) if adam.grad_clip_ratio else None
    rates = tuple(lr * group["scale"] for group in groups)
    on_device = torch.tensor(rates, device=next(network.parameters()).device)
    every = config.train.n_critic if of_generator else 1
    return Phase(name, network, optimizer, rates, on_device, backward_loss, every, clip)
