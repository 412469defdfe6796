"""One update of both networks, as data: two phases, each with its network, its optimizer and its loss.

A step never waits for the device: losses are summed in a tensor there and read once per log interval (`read_stats`).
Everything that changes from step to step, and only that, is in `Step.state_dict`.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.config import Config
from training.losses import LOSSES, squared_gradient_norm
from training.models import Generator, to_float

STATS = ("loss_d", "loss_g", "real_logit", "fake_logit", "r1", "r2")


@dataclass(frozen=True)
class Batch:
    """What a step sees: real images in [−1, 1] [N, C, H, W] and the labels [N] that real and fake share."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Phase:
    """One network's update: `loss(batch)` gives the scalar that `optimizer` makes smaller."""

    name: str
    network: nn.Module
    optimizer: torch.optim.Adam
    loss: Callable[[Batch], Tensor]

    def update(self, batch: Batch) -> None:
        """Computes gradients for the network's own parameters only, and takes one step.

        backward() rather than grad(): it lays each gradient out in memory as its parameter, and the fused Adam reads
        both as flat arrays (with a convolution's permuted gradient it would silently update the wrong weights).
        """
        self.optimizer.zero_grad()
        self.loss(batch).backward(inputs=list(self.network.parameters()))
        self.optimizer.step()


class Step:
    """Updates both networks and the averaged generator on one batch; `step(images, labels)` is all the loop calls."""

    def __init__(self, config: Config, generator: Generator, discriminator: nn.Module, device: torch.device) -> None:
        """Takes the networks as they are on `device`; the average starts as a copy of the generator."""
        self.generator, self.discriminator, self.device = generator, discriminator, device
        self.ema = deepcopy(generator).requires_grad_(False).eval()
        self.rng = torch.Generator(device).manual_seed(config.train.seed)
        self._config, self._loss = config, LOSSES[config.loss.name]
        self._penalised = config.loss.r1 > 0 or config.loss.r2 > 0
        self._penalty_scale = 1.0
        adam = config.optimizer
        self._adam_settings: dict[str, Any] = {"betas": (adam.beta1, adam.beta2), "eps": adam.eps}
        self._stats = torch.zeros(len(STATS), device=device)
        self._stats_steps = 0
        phases = [
            Phase("discriminator", discriminator, self._adam(discriminator), self._discriminator_loss),
            Phase("generator", generator, self._adam(generator), self._generator_loss),
        ]
        self.phases = phases if config.train.first == "discriminator" else phases[::-1]

    def __call__(self, images: Tensor, labels: Tensor, *, step: int, progress: float) -> None:
        """One update of both networks.

        Args:
            images: uint8 [N, C, H, W] on the step's device.
            labels: int64 [N] there.
            step: how many steps were done before this one.
            progress: share of the horizon that is behind us, 0 … 1.
        """
        decay = self._decay(progress)
        self._penalty_scale = 1 - (1 - self._config.loss.penalty_end) * (1 - decay)
        learning_rate = self._config.optimizer.lr * (decay if self._config.optimizer.schedule == "cosine" else 1)
        batch = Batch(to_float(images), labels)
        for phase in self.phases:
            phase.optimizer.param_groups[0]["lr"] = learning_rate
            phase.update(batch)
        self._average(step)
        self._stats_steps += 1

    def draw(self, n: int) -> Tensor:
        """n fresh latents, float32 [n, z_dim], from the step's own random stream."""
        return torch.randn(n, self.generator.z_dim, device=self.device, generator=self.rng)

    def read_stats(self) -> dict[str, float]:
        """The means since the last reading. The one place where the host waits for the device."""
        means = (self._stats / max(1, self._stats_steps)).tolist()
        self._stats.zero_()
        self._stats_steps = 0
        return dict(zip(STATS, means, strict=True)) | {"lr": self.phases[0].optimizer.param_groups[0]["lr"]}

    def broken(self) -> str | None:
        """The name of a weight that is no longer a finite number, None where all are. Waits for the device."""
        for phase in self.phases:
            name, network = phase.name, phase.network
            sums = torch.stack([parameter.detach().sum() for parameter in network.parameters()])
            if not sums.isfinite().all():
                parameters = list(network.named_parameters())
                first = sums.isfinite().logical_not().nonzero()[0].item()
                return f"{name}.{parameters[int(first)][0]}"
        return None

    def state_dict(self) -> dict[str, Any]:
        """Both networks, their average, both optimizers, the random stream and the open statistics."""
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": {phase.name: phase.optimizer.state_dict() for phase in self.phases},
            "rng": self.rng.get_state(),
            "stats": self._stats,
            "stats_steps": self._stats_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up where `state_dict` was taken."""
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.ema.load_state_dict(state["ema"])
        for phase in self.phases:
            phase.optimizer.load_state_dict(state["optimizers"][phase.name])
            phase.optimizer.param_groups[0].update(self._adam_settings)  # they may have been changed on purpose
        self.rng.set_state(state["rng"].cpu())
        self._stats.copy_(state["stats"])
        self._stats_steps = state["stats_steps"]

    def _discriminator_loss(self, batch: Batch) -> Tensor:
        n = len(batch.images)
        with torch.no_grad():
            fakes = self.generator(self.draw(n), batch.labels)
        # real and fake in one pass: exact, as the discriminator has no batch statistics
        images = torch.cat([batch.images, fakes]).requires_grad_(self._penalised)
        logits = self.discriminator(images, batch.labels.repeat(2))
        loss = adversarial = self._loss.discriminator(logits[:n], logits[n:])
        r1 = r2 = torch.zeros((), device=self.device)
        if self._penalised:
            norms = squared_gradient_norm(logits, images)
            r1, r2 = norms[:n].mean(), norms[n:].mean()
            loss = loss + self._penalty_scale / 2 * (self._config.loss.r1 * r1 + self._config.loss.r2 * r2)
        self._record(loss_d=adversarial, real_logit=logits[:n].mean(), fake_logit=logits[n:].mean(), r1=r1, r2=r2)
        return loss

    def _generator_loss(self, batch: Batch) -> Tensor:
        fakes = self.generator(self.draw(len(batch.images)), batch.labels)
        real = None
        if self._loss.needs_real:
            with torch.no_grad():
                real = self.discriminator(batch.images, batch.labels)
        loss = self._loss.generator(real, self.discriminator(fakes, batch.labels))
        self._record(loss_g=loss)
        return loss

    def _record(self, **values: Tensor) -> None:
        for name, value in values.items():
            self._stats[STATS.index(name)] += value.detach()

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """ema ← decay · ema + (1 − decay) · generator; the decay ramps up so that early weights are soon forgotten."""
        decay = min(self._config.train.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.generator.parameters()), 1 - decay)
        for average, current in zip(self.ema.buffers(), self.generator.buffers(), strict=True):
            average.copy_(current)

    def _decay(self, progress: float) -> float:
        """1 until `decay_from`, then half a cosine to 0 at the end of the horizon."""
        start = self._config.optimizer.decay_from
        if progress <= start:
            return 1.0
        done = min(1.0, (progress - start) / (1 - start))
        return 0.5 * (1 + torch.cos(torch.tensor(torch.pi * done)).item())

    def _adam(self, network: nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(network.parameters(), lr=self._config.optimizer.lr, fused=True, **self._adam_settings)
