"""One update of both networks, as data: two phases, each with its network, its optimizer and its loss.

A step never waits for the device: losses are summed in a tensor there and read once per log interval (`read_stats`).
What is computed in a phase is in `objectives.py`; what the host changes from step to step is on `dials.py`, so that the
rest, `Step.update`, may be captured (`graph.py`). Everything that changes from step to step, and only that, is in
`Step.state_dict`.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.adam import fused_step
from training.clipping import Clipping
from training.config import Config
from training.dials import Dials, Number
from training.distributed import SOLO, Ranks, fingerprint, share_batch_statistics
from training.errors import TrainingError
from training.lanes import NO_LANES, Lanes
from training.layer_rates import rate_groups
from training.models import Generator
from training.objectives import Batch, Learnt, Objectives
from training.precision import Precision
from training.schedules import decay

STATS = {
    "discriminator": ("loss_d", "real_logit", "fake_logit", "r1", "r2", "gp", "auxiliary", "latent"),
    "generator": ("loss_g", "matching"),
}  # what each phase records, one number a step
_LANES = 4
_NAMES = [name for names in STATS.values() for name in names]


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
        """Averages the gradients over the ranks, cuts what is beyond their history, and takes one step."""
        if ranks.size > 1:
            gradients = [parameter.grad for parameter in self.network.parameters()]
            ranks.average_([gradient for gradient in gradients if gradient is not None])
        if self.clip:
            scaler.unscale_(self.optimizer)
            self.clip()
        if scaler.is_enabled():
            scaler.step(self.optimizer)
        else:
            fused_step(self.optimizer, lanes)


class Step:
    """Updates both networks and the averaged generator on one batch; `step(images, labels)` is all the loop calls."""

    def __init__(
        self,
        config: Config,
        generator: Generator,
        discriminator: nn.Module,
        device: torch.device,
        *,
        precision: Precision | None = None,
        ranks: Ranks = SOLO,
        capturable: bool = False,
    ) -> None:
        """Takes the networks as they are on `device`; the average starts as a copy of the generator.

        `capturable`: every `update` does the same operations with the same numbers from the host, as a graph will.

        Raises:
            ConfigError: a penalty is asked for on a discriminator whose images see each other.
        """
        self.generator, self.discriminator, self.device = generator, discriminator, device
        self.ema = deepcopy(generator).requires_grad_(False).eval()
        self._averages: list[list[Tensor]] = [list(network.parameters()) for network in (self.ema, generator)]
        self._buffers = [
            [
                [buffer for buffer in network.buffers() if buffer.is_floating_point() == real]
                for network in (self.ema, generator)
            ]
            for real in (True, False)  # apart: copied together, each would be by itself
        ]
        self.rng = torch.Generator(device).manual_seed(config.train.seed)
        self._config, self._ranks, self._dials = config, ranks, Dials(device, on_device=capturable)
        self._look = device.type == "cpu" and not capturable  # where it costs nothing to look at a number
        self._lanes = Lanes(device, _LANES) if capturable else NO_LANES  # launched one by one, they would cost more
        precision = precision or Precision("fp32", device.type, "default")
        self._scaler = precision.scaler()
        self.objectives = Objectives(  # looks for batch normalisation, which is another class once it is shared
            config,
            generator,
            discriminator,
            precision=precision,
            scaler=self._scaler,
            ranks=ranks,
            rng=self.rng,
            dials=self._dials,
            lanes=self._lanes,
        )
        share_batch_statistics(generator, ranks)
        share_batch_statistics(discriminator, ranks)
        self.penalised = self.objectives.penalised
        self._stats = torch.zeros(len(_NAMES), device=device)
        self._sums = dict(zip(_NAMES, self._stats.unbind(), strict=True))  # the same memory
        self._stats_steps = dict.fromkeys(STATS, 0)
        adam = config.optimizer
        self._adam_settings: dict[str, Any] = {
            "betas": (adam.beta1, adam.beta2),
            "eps": adam.eps,
            "capturable": capturable,
        }
        learn = self.objectives
        phases = [
            self._phase("discriminator", discriminator, adam.lr_discriminator or adam.lr, learn.teach_discriminator),
            self._phase("generator", generator, adam.lr, learn.teach_generator, config.train.generator_every),
        ]
        self.phases = phases if config.train.first == "discriminator" else phases[::-1]
        self._weights = {
            f"{phase.name}.{key}": tensor
            for phase in reversed(self.phases)  # see `_watch`
            for key, tensor in phase.network.state_dict(keep_vars=True).items()
            if tensor.is_floating_point()
        }
        self._first_broken = torch.zeros(len(self._weights), dtype=torch.bool, device=device)

    def __call__(self, images: Tensor, labels: Tensor, *, step: int, progress: float, rate: float = 1.0) -> None:
        """One update of both networks.

        Args:
            images: uint8 [N, C, H, W] on the step's device: this rank's share.
            labels: int64 [N] there.
            step: how many steps were done before this one.
            progress: share of the horizon that is behind us, 0 … 1; the penalties follow it.
            rate: factor of the learning rates.
        """
        self.update(images, labels, self.prepare(step=step, progress=progress, rate=rate))

    def prepare(self, *, step: int, progress: float, rate: float = 1.0) -> tuple[str, ...]:
        """The host's part: sets the dials, and says which phases are due, by name in their order."""
        when, end = self._config.optimizer, self._config.loss.penalty_end
        self._dials.set(
            rate=rate,
            penalty=decay("cosine", progress, when.decay_from, end, when.decay_until),
            # the average's decay ramps up so that early weights are soon forgotten
            renewal=1 - min(self._config.train.ema, (1 + step) / (10 + step)),
        )
        due = tuple(phase.name for phase in self.phases if (step + 1) % phase.every == 0)
        for name in due:
            self._stats_steps[name] += 1
        return due

    def update(self, images: Tensor, labels: Tensor, due: Sequence[str]) -> None:
        """The device's part, by the dials as they are: `due` phases, and the average."""
        batch = self.objectives.begin(images, labels, both=len(due) == len(self.phases))
        phases = [phase for phase in self.phases if phase.name in due]
        generator_first = phases[0].network is self.generator
        for phase in phases:
            phase.set_rate(self._dials.rate)
            learnt = phase.learn(batch)
            if self._look and not math.isfinite(learnt.loss.item()):
                self._watch()
            self._lanes.join()
            phase.move(self._scaler, self._ranks, self._lanes)
            if phase is phases[0]:  # beside the phase that follows
                if not self._look:
                    with self._lanes.lane(0):
                        self._watch()
                if generator_first:
                    self._average()
            with self._lanes.lane(_LANES - 1):
                self._record(learnt.stats)
        if not generator_first:
            self._average()
        self._lanes.join()
        for ours, others in self._buffers:  # the generator's last pass has changed them
            if ours:
                torch._foreach_copy_(ours, others)
        if self._scaler.is_enabled():
            self._scaler.update()  # once for both phases: they share one scale

    def draw(self, n: int) -> Tensor:
        """n fresh latents for this rank, [n, z_dim], from the step's own random stream."""
        return self.objectives.draw(n)

    def read_stats(self) -> dict[str, float]:
        """The means since the last reading, over all ranks. The one place where the host waits for the device."""
        means = self._stats.clone()
        self._ranks.average_([means])
        counts = [max(1, self._stats_steps[phase]) for phase, names in STATS.items() for _ in names]
        self._stats.zero_()
        self._stats_steps = dict.fromkeys(STATS, 0)
        values = {name: value / n for name, value, n in zip(_NAMES, means.tolist(), counts, strict=True)}
        values |= {"lr": self.phases[0].rate}
        return values | ({"loss_scale": self._scaler.get_scale()} if self._scaler.is_enabled() else {})

    def broken(self) -> str | None:
        """The name of what first came to hold no finite number: a weight, a buffer, an average, a moment of Adam's,
        what the losses remember. None where all are sound. Waits for the device."""
        everything = self._weights | {f"ema.{key}": value for key, value in self.ema.state_dict().items()}
        everything |= {f"the losses' {key}": value for key, value in self.objectives.state_dict().items()}
        for phase in self.phases:
            for key, parameter in phase.network.named_parameters():
                moments = phase.optimizer.state.get(parameter, {})
                everything |= {f"{moment} of {phase.name}.{key}": value for moment, value in moments.items()}
        everything = {key: value for key, value in everything.items() if value.is_floating_point()}
        broken = self._first_broken if self._first_broken.any() else _not_finite(list(everything.values()))
        return list(everything)[int(broken.nonzero()[0])] if broken.any() else None

    def check(self, step: int) -> None:
        """Nothing that is not a number, and nothing that ranks differ in, is to be scored or saved.

        Raises:
            TrainingError: a weight is no finite number, or ranks have different weights.
        """
        if broken := self.broken():
            raise TrainingError(
                f"{broken} is no longer finite at step {step}; the checkpoint before stays the last one. Lower"
                " optimizer.lr, or raise loss.r1 and loss.r2"
            )
        if self._ranks.size > 1:
            weights = [*self._weights.values(), *self.ema.state_dict().values()]
            self._ranks.need_equal(f"the weights at step {step}", fingerprint(weights))

    def state_dict(self) -> dict[str, Any]:
        """Both networks, their average, both optimizers, what the losses remember, the loss scaler, the random stream,
        the open statistics."""
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": {phase.name: _plain(phase.optimizer.state_dict()) for phase in self.phases},
            "clipping": {phase.name: phase.clip.state_dict() for phase in self.phases if phase.clip},
            "objectives": self.objectives.state_dict(),
            "scaler": self._scaler.state_dict(),
            "rng": self.rng.get_state(),
            "device": self.device.type,
            "stats": torch.stack(self._ranks.gather(self._stats.cpu())),  # of each rank
            "stats_steps": dict(self._stats_steps),
            "threads": torch.get_num_threads(),  # sums round as they are split
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up where `state_dict` was taken."""
        self.load_networks(state)
        for phase in self.phases:
            phase.optimizer.load_state_dict(state["optimizers"][phase.name])
            _lay_out_as_parameters(phase.optimizer)
            for group in phase.optimizer.param_groups:
                group.update(self._adam_settings)  # they may have been changed on purpose
            if phase.clip:
                phase.clip.load_state_dict(state.get("clipping", {}).get(phase.name))
        self.objectives.load_state_dict(state["objectives"])
        if self._scaler.is_enabled() and state["scaler"]:  # empty where the precision was changed on purpose
            self._scaler.load_state_dict(state["scaler"])
        if state["device"] == self.device.type:
            self.rng.set_state(state["rng"].cpu())
        else:  # another kind of device has another kind of stream: a new one, that is none of the run's so far
            self.rng.manual_seed(int.from_bytes(hashlib.sha256(state["rng"].numpy().tobytes()).digest()[:7], "big"))
        stats = state["stats"]
        same_ranks = len(stats) == self._ranks.size
        self._stats.copy_(stats[self._ranks.rank] if same_ranks else stats.mean(dim=0))
        self._stats_steps = dict(state["stats_steps"])

    def load_networks(self, state: dict[str, Any]) -> None:
        """Takes the networks and their average alone, as a beginning for another run."""
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.ema.load_state_dict(state["ema"])
        self._first_broken.zero_()

    def recover(self, rng_state: Tensor) -> None:
        """After a capture that failed: what it has left half done is undone, the random stream is as it was."""
        if self.device.type == "cuda":  # another stream in the place of one that still waits for the capture's end
            fresh = torch.Generator(self.device)
            fresh.set_state(rng_state)
            self.rng.graphsafe_set_state(fresh.graphsafe_get_state())
        else:
            self.rng.set_state(rng_state)
        if self._scaler.is_enabled():
            self._scaler._per_optimizer_states.clear()

    def _watch(self) -> None:
        """Remembers, on the device, which weights are broken when the first ones are: some steps later all will be. On
        a CPU, where looking at a loss costs nothing, only when one is no finite number; else once a step, after its
        first move. If that one broke something, nothing else is broken yet; if both networks are, the later one of the
        step before was first, and `_weights` begins with it."""
        broken = _not_finite(list(self._weights.values()))
        self._first_broken.copy_(torch.where(self._first_broken.any(), self._first_broken, broken))

    def _record(self, values: dict[str, Tensor]) -> None:
        torch._foreach_add_([self._sums[name] for name in values], [value.detach() for value in values.values()])

    @torch.no_grad()
    def _average(self) -> None:
        """ema ← ema + renewal · (generator − ema)."""
        renewal = self._dials.renewal
        if isinstance(renewal, float):
            torch._foreach_lerp_(self._averages[0], self._averages[1], renewal)
            return
        # of a weight on the device there is no such kernel, but descent on ½‖ema − generator‖² is the same: its slope
        # is 1 · ema − generator
        for lane, (averages, currents) in enumerate(self._lanes.split(self._averages)):
            with self._lanes.lane(lane):
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

    def _phase(
        self, name: str, network: nn.Module, lr: float, teach: Callable[[Batch], Learnt], every: int = 1
    ) -> Phase:
        by_fan_in = name == "generator" and self._config.optimizer.by_fan_in
        groups = rate_groups(network, by_fan_in=by_fan_in)
        optimizer = torch.optim.Adam(groups, lr=lr, fused=True, **self._adam_settings)
        limit = self._config.optimizer.clip
        clip = Clipping(optimizer, limit, look=self._look) if limit else None
        rates = tuple(lr * group["scale"] for group in groups)
        return Phase(name, network, optimizer, rates, torch.tensor(rates, device=self.device), teach, every, clip)


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state with its rates as Python's numbers, wherever they are kept."""
    return state | {"param_groups": [group | {"lr": float(group["lr"])} for group in state["param_groups"]]}


def _lay_out_as_parameters(optimizer: torch.optim.Optimizer) -> None:
    """A file holds moments in the usual order of memory; the fused Adam reads them in the order of their parameter."""
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                moments[name] = torch.empty_like(parameter).copy_(value)


@torch.no_grad()
def _not_finite(tensors: list[Tensor]) -> Tensor:
    """bool [len(tensors)]: which of them hold a number that is none."""
    return (torch.stack(torch._foreach_norm(tensors, ord=math.inf)) < math.inf).logical_not()
