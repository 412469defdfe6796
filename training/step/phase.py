"""One network's part of a training step: its loss, its optimizer and its gradient clipping."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ganctl.training.config.schema import Config
from ganctl.training.device.step_inputs import Number
from ganctl.training.device.streams import StreamPool
from ganctl.training.distributed.ranks import SINGLE_RANK, Ranks
from ganctl.training.losses.backend import Batch
from ganctl.training.losses.terms import LossResult
from ganctl.training.optim.adam import FusedAdam
from ganctl.training.optim.grad_clip import GradientClip
from ganctl.training.optim.param_groups import param_groups


@dataclass(frozen=True)
class Phase:
    """One network's update, due in every `every`-th step: `backward` sets gradients, `step` applies them."""

    name: str
    network: nn.Module
    optimizer: FusedAdam
    lrs: tuple[float, ...]  # base learning rates of the optimizer's groups
    lrs_on_device: Tensor  # the same values
    backward_loss: Callable[[Batch], LossResult]
    every: int = 1
    clip: GradientClip | None = None

    @property
    def base_lr(self) -> float:
        """The learning rate of parameters whose `scale` is 1, before the factor of the schedule."""
        return self.lrs[0] / float(self.optimizer.param_groups[0]["scale"])

    def set_lr_factor(self, factor: Number) -> None:
        """Sets every learning rate to `factor` times its base value."""
        if isinstance(factor, Tensor):
            lrs: Sequence[Number] = (self.lrs_on_device * factor).unbind()
        else:
            lrs = [lr * factor for lr in self.lrs]
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
            group["lr"] = lr

    def backward(self, batch: Batch) -> LossResult:
        """Replaces the network's gradients by those of the loss on `batch`."""
        self.optimizer.zero_grad()
        return self.backward_loss(batch)

    def step(self, scaler: torch.amp.GradScaler, ranks: Ranks = SINGLE_RANK) -> None:
        """Averages the gradients over the ranks, clips them, and takes one optimizer step."""
        ranks.all_reduce_mean([p.grad for p in self.network.parameters() if p.grad is not None])
        optimizer = cast(torch.optim.Optimizer, self.optimizer)  # has the members that GradScaler uses
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
    streams: StreamPool,
    allow_sync: bool,
) -> Phase:
    """Builds the phase of the discriminator or the generator from the settings.

    Args:
        name: "discriminator" or "generator".
        network: the network to update.
        backward_loss: computes the network's loss on a batch and sets its gradients.
        config: the settings.
        streams: side streams for the optimizer's kernels.
        allow_sync: whether the host may read device values to skip work.
    """
    adam, is_generator = config.optimizer, name == "generator"
    lr = adam.lr if is_generator else adam.lr_discriminator or adam.lr
    groups = param_groups(network, lr_by_fan_in=is_generator and adam.lr_by_fan_in)
    optimizer = FusedAdam(groups, lr=lr, betas=(adam.beta1, adam.beta2), eps=adam.eps, streams=streams)
    clip = GradientClip(optimizer, adam.grad_clip_ratio, allow_sync=allow_sync) if adam.grad_clip_ratio else None
    lrs = tuple(lr * group["scale"] for group in groups)
    lrs_on_device = torch.tensor(lrs, device=next(network.parameters()).device)
    every = config.train.n_critic if is_generator else 1
    return Phase(name, network, optimizer, lrs, lrs_on_device, backward_loss, every, clip)
