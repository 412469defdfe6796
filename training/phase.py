"""One network's update: its optimizer, what teaches it, and how it moves, alone or as one of several ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ganctl.training.adam import fused_step, leave_the_compiler_out
from ganctl.training.clipping import Clipping
from ganctl.training.config import Config
from ganctl.training.dials import Number
from ganctl.training.distributed import SOLO, Ranks
from ganctl.training.lanes import NO_LANES, Lanes
from ganctl.training.layer_rates import rate_groups
from ganctl.training.objectives import Batch, Learnt
from ganctl.training.shares import Share


@dataclass(frozen=True)
class Phase:
    """One network's update, on every `every`-th step: `learn` leaves gradients in its weights, `move` follows them."""

    name: str
    network: nn.Module
    optimizer: torch.optim.Adam
    rates: tuple[float, ...]  # of the optimizer's groups, by the settings
    rates_on_device: Tensor  # the same
    teach: Callable[[Batch], Learnt]
    every: int = 1
    share: Share | None = None  # that this rank moves; None: all
    clip: Clipping | None = None  # of gradients far beyond their history

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

    def learn(self, batch: Batch) -> Learnt:
        """New gradients in the place of old ones."""
        for group in self.optimizer.param_groups:  # zero_grad does this in ten times the time
            for parameter in group["params"]:
                parameter.grad = None
        return self.teach(batch)

    def move(self, scaler: torch.amp.GradScaler, ranks: Ranks = SOLO, lanes: Lanes = NO_LANES) -> None:
        """Averages the gradients over the ranks, cuts what is beyond their history, and takes one step. With a share,
        all weights have moved once the ranks have met (`share.meet`)."""
        if self.share:
            self.share.average_()
        elif ranks.size > 1:
            gradients = [parameter.grad for parameter in self.network.parameters()]
            ranks.average_([gradient for gradient in gradients if gradient is not None])
        if self.clip:
            scaler.unscale_(self.optimizer)
            self.clip()
        if scaler.is_enabled():
            scaler.step(self.optimizer)
        else:
            fused_step(self.optimizer, lanes, self.share)

    def load_optimizer(self, state: dict[str, Any]) -> None:
        """Takes up an optimizer's state, with the betas and ε of this run: they may have been changed on purpose."""
        chosen = {name: self.optimizer.defaults[name] for name in ("betas", "eps", "capturable")}
        self.optimizer.load_state_dict(state)
        _lay_out_as_parameters(self.optimizer)
        for group in self.optimizer.param_groups:
            group.update(chosen)
        if self.share:
            self.share.keep_moments(self.optimizer)


def build_phase(
    name: str,
    network: nn.Module,
    teach: Callable[[Batch], Learnt],
    config: Config,
    *,
    capturable: bool,
    look: bool,
    share: Share | None,
) -> Phase:
    """The discriminator's or the generator's (`name`), by the settings.

    Args:
        capturable: whether it is going to be recorded as a graph.
        look: whether a CPU may look at numbers to save itself work.
        share: what this rank moves of the network.
    """
    adam, of_generator = config.optimizer, name == "generator"
    lr = adam.lr if of_generator else adam.lr_discriminator or adam.lr
    groups = rate_groups(network, by_fan_in=of_generator and adam.by_fan_in)
    leave_the_compiler_out()
    optimizer = torch.optim.Adam(
        groups, lr=lr, betas=(adam.beta1, adam.beta2), eps=adam.eps, capturable=capturable, fused=True
    )
    if share:
        share.keep_moments(optimizer)
    clip = Clipping(optimizer, adam.clip, look=look, share=share) if adam.clip else None
    rates = tuple(lr * group["scale"] for group in groups)
    on_device = torch.tensor(rates, device=next(network.parameters()).device)
    every = config.train.generator_every if of_generator else 1
    return Phase(name, network, optimizer, rates, on_device, teach, every, share, clip)


def _lay_out_as_parameters(optimizer: torch.optim.Optimizer) -> None:
    """A file holds moments in the usual order of memory; the fused Adam reads them in the order of their parameter."""
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                moments[name] = torch.empty_like(parameter).copy_(value)
