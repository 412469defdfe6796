"""One update of both networks, as data: two phases, each with its network, its optimizer and its loss.

A step never waits for the device: losses are summed in a tensor there and read once per log interval (`read_stats`).
The losses are in `losses/`; the scalars that the host changes from step to step are `StepInputs`, so that the rest,
`Step.update`, may be captured (`cuda_graph.py`). `Step.state_dict` holds everything that changes from step to step.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ganctl.training.config.schema import Config
from ganctl.training.device.precision import Precision
from ganctl.training.device.step_inputs import StepInputs
from ganctl.training.device.streams import NO_STREAMS, StreamPool
from ganctl.training.distributed.ranks import SOLO, Ranks, fingerprint
from ganctl.training.errors import TrainingError
from ganctl.training.losses.backend import Backend
from ganctl.training.losses.objective import GANObjective
from ganctl.training.models.base import Generator
from ganctl.training.models.sync_batch_norm import share_batch_statistics
from ganctl.training.optim.ema import EMA
from ganctl.training.optim.schedules import decay
from ganctl.training.step.nonfinite import NonFiniteDetector
from ganctl.training.step.phase import build_phase

STATS = {
    "discriminator": (
        "loss_d",
        "real_logit",
        "fake_logit",
        "r1",
        "r2",
        "wgan_gp",
        "classification",
        "latent_reconstruction",
    ),
    "generator": ("loss_g", "feature_matching"),
}  # what each phase records, one number a step
_STREAMS = 4
_NAMES = [name for names in STATS.values() for name in names]


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
        backend: type[Backend] | None = None,
    ) -> None:
        """Takes the networks as they are on `device`; the average starts as a copy of the generator.

        `capturable`: every `update` does the same operations with the same numbers from the host, as a graph will.
        `backend`: carries the gradients; None: the fastest one that can.

        Raises:
            ConfigError: a penalty is asked for on a discriminator whose images see each other.
        """
        self.generator, self.discriminator, self.device = generator, discriminator, device
        self.rng = torch.Generator(device).manual_seed(config.train.seed)
        self._config, self._ranks, self._step_inputs = config, ranks, StepInputs(device, on_device=capturable)
        self._allow_sync = device.type == "cpu" and not capturable  # where it costs nothing to look at a number
        self._streams = (
            StreamPool(device, _STREAMS) if capturable else NO_STREAMS
        )  # launched one by one, they would cost more
        precision = precision or Precision("fp32", device.type, "default")
        self._scaler = precision.scaler()
        self._ema = EMA(generator, self._streams)
        self.ema = self._ema.network
        self.objective = GANObjective(  # looks for batch normalisation, which is another class once it is shared
            config,
            generator,
            discriminator,
            precision=precision,
            scaler=self._scaler,
            ranks=ranks,
            rng=self.rng,
            step_inputs=self._step_inputs,
            streams=self._streams,
            backend=backend,
        )
        share_batch_statistics(generator, ranks)
        share_batch_statistics(discriminator, ranks)
        self.penalised = config.loss.penalised
        self._stats = torch.zeros(len(_NAMES), device=device)
        self._sums = dict(zip(_NAMES, self._stats.unbind(), strict=True))  # the same memory
        self._stats_steps = dict.fromkeys(STATS, 0)
        phases = [
            build_phase(name, network, teach, config, streams=self._streams, allow_sync=self._allow_sync)
            for name, network, teach in (
                ("discriminator", discriminator, self.objective.backward_discriminator),
                ("generator", generator, self.objective.backward_generator),
            )
        ]
        self.phases = phases if config.train.first_update == "discriminator" else phases[::-1]
        # looked at on a CPU, where looking at a loss costs nothing, only when one is no finite number; else once a
        # step, after its first move. If that one broke something, nothing else is broken yet; if both networks are,
        # the later one of the step before was first
        weights = {
            f"{phase.name}.{key}": tensor
            for phase in reversed(self.phases)
            for key, tensor in phase.network.state_dict(keep_vars=True).items()
            if tensor.is_floating_point()
        }
        self._nonfinite = NonFiniteDetector(weights, device)

    def __call__(self, images: Tensor, labels: Tensor, *, step: int, progress: float, rate: float = 1.0) -> None:
        """One update of both networks.

        Args:
            images: uint8 [N, C, H, W] on the step's device: this rank's share.
            labels: int64 [N] there.
            step: how many steps were done before this one.
            progress: share of the duration that is behind us, 0 … 1; the penalties follow it.
            rate: factor of the learning rates.
        """
        self.update(images, labels, self.prepare(step=step, progress=progress, rate=rate))

    def prepare(self, *, step: int, progress: float, rate: float = 1.0) -> tuple[str, ...]:
        """The host's part: sets the step_inputs, and says which phases are due, by name in their order."""
        when, end = self._config.optimizer, self._config.loss.penalty_final_factor
        self._step_inputs.set(
            rate=rate,
            penalty=decay("cosine", progress, when.decay_start, end, when.decay_end),
            # the average's decay ramps up so that early weights are soon forgotten
            renewal=1 - min(self._config.train.ema_decay, (1 + step) / (10 + step)),
        )
        due = tuple(phase.name for phase in self.phases if (step + 1) % phase.every == 0)
        for name in due:
            self._stats_steps[name] += 1
        return due

    def update(self, images: Tensor, labels: Tensor, due: Sequence[str]) -> None:
        """The device's part, by the step_inputs as they are: `due` phases, and the average."""
        batch = self.objective.prepare(images, labels, both=len(due) == len(self.phases))
        phases = [phase for phase in self.phases if phase.name in due]
        averaged = phases[0 if phases[0].network is self.generator else -1]  # after it the generator stays as it is
        for phase in phases:
            phase.set_rate(self._step_inputs.rate)
            result = phase.backward(batch)
            if self._allow_sync and not math.isfinite(result.loss.item()):
                self._nonfinite.check()
            self._streams.join()
            phase.step(self._scaler, self._ranks)
            if phase is phases[0] and not self._allow_sync:
                with self._streams.stream(0):  # beside the phase that follows
                    self._nonfinite.check()
            if phase is averaged:
                self._ema.update(self._step_inputs.renewal)
            with self._streams.stream(_STREAMS - 1):
                self._record(result.stats)
        self._streams.join()
        self._ema.copy_buffers()  # the generator's last pass has changed them
        if self._scaler.is_enabled():
            self._scaler.update()  # once for both phases: they share one scale

    def draw(self, n: int) -> Tensor:
        """n fresh latents for this rank, [n, latent_dim], from the step's own random stream."""
        return self.objective.draw_latents(n)

    def read_stats(self) -> dict[str, float]:
        """The means since the last reading, over all ranks. The one place where the host waits for the device."""
        means = self._stats.clone()
        self._ranks.all_reduce_mean([means])
        counts = [max(1, self._stats_steps[phase]) for phase, names in STATS.items() for _ in names]
        self._stats.zero_()
        self._stats_steps = dict.fromkeys(STATS, 0)
        values = {name: value / n for name, value, n in zip(_NAMES, means.tolist(), counts, strict=True)}
        values |= {"lr": self.phases[0].rate}
        return values | ({"loss_scale": self._scaler.get_scale()} if self._scaler.is_enabled() else {})

    def broken(self) -> str | None:
        """The name of what first came to hold no finite number: a weight, a buffer, an average, a moment of Adam's,
        what the losses remember. None where all are sound. Waits for the device."""
        everything = {f"ema.{key}": value for key, value in self.ema.state_dict().items()}
        everything |= {f"the losses' {key}": value for key, value in self.objective.state_dict().items()}
        for phase in self.phases:
            for key, parameter in phase.network.named_parameters():
                moments = phase.optimizer.state.get(parameter, {})
                everything |= {f"{moment} of {phase.name}.{key}": value for moment, value in moments.items()}
        return self._nonfinite.name(everything)

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
            weights = [*self._nonfinite.tensors.values(), *self.ema.state_dict().values()]
            self._ranks.assert_equal_across_ranks(f"the weights at step {step}", fingerprint(weights))

    def state_dict(self) -> dict[str, Any]:
        """Both networks, their average, both optimizers, what the losses remember, the loss scaler, the random stream,
        the open statistics."""
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": {phase.name: phase.optimizer.state_dict() for phase in self.phases},
            "clipping": {phase.name: phase.clip.state_dict() for phase in self.phases if phase.clip},
            "objectives": self.objective.state_dict(),
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
            if phase.clip:
                phase.clip.load_state_dict(state.get("clipping", {}).get(phase.name))
        self.objective.load_state_dict(state["objectives"])
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
        self._nonfinite.reset()

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

    def _record(self, values: dict[str, Tensor]) -> None:
        torch._foreach_add_([self._sums[name] for name in values], [value.detach() for value in values.values()])
