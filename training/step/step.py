"""One training step: updates the discriminator, the generator and the generator's EMA.

A step on a GPU never waits for the device: statistics are summed in a device tensor and read once per log interval
(`read_stats`). Losses are in `losses/`. Scalars that the host changes at each step are in `StepInputs`, so the rest of
the step (`Step.update`) can be captured as a CUDA graph (`cuda_graph.py`). `Step.state_dict` holds all state that
changes from step to step.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ganctl.training.config.schema import Config
from ganctl.training.data.base import ImageSet
from ganctl.training.device.precision import Precision
from ganctl.training.device.step_inputs import StepInputs
from ganctl.training.device.streams import NO_STREAMS, StreamPool
from ganctl.training.distributed.ranks import SINGLE_RANK, Ranks, fingerprint
from ganctl.training.errors import divergence_error
from ganctl.training.losses.backend import Backend
from ganctl.training.losses.objective import PENALTIES, GANObjective
from ganctl.training.models.base import Generator
from ganctl.training.models.sync_batch_norm import convert_sync_batch_norm
from ganctl.training.optim.ema import EMA
from ganctl.training.optim.schedules import decay
from ganctl.training.step.nonfinite import NonFiniteDetector
from ganctl.training.step.phase import build_phase

_STREAMS = 4


class Step:
    """Updates both networks and the EMA generator on one batch: `step(images, labels, step=…, progress=…)`."""

    def __init__(
        self,
        config: Config,
        generator: Generator,
        discriminator: nn.Module,
        device: torch.device,
        *,
        precision: Precision | None = None,
        ranks: Ranks = SINGLE_RANK,
        capturable: bool = False,
        backend: type[Backend] | None = None,
        held_out: ImageSet | None = None,
    ) -> None:
        """Wraps both networks, in place.

        Args:
            config: the settings.
            generator: on `device`; the EMA starts as a copy of it.
            discriminator: on `device`.
            device: the device of the networks and batches.
            precision: number format of the passes; None for fp32.
            ranks: the ranks that train together.
            capturable: whether every `update` must run the same operations, so that a CUDA graph can capture it.
            backend: computes the gradients; None for the fastest one that supports all loss terms.
            held_out: images that are not trained on; only adaptive augmentation needs them.

        Raises:
            ConfigError: the discriminator does not support a gradient penalty or a loss term of the settings.
        """
        self.generator, self.discriminator, self.device = generator, discriminator, device
        self.rng = torch.Generator(device).manual_seed(config.train.seed)
        self._config, self.ranks, self.step_inputs = config, ranks, StepInputs(device, on_device=capturable)
        self._allow_sync = device.type == "cpu" and not capturable  # a CPU reads its tensors at no cost
        # kernels that are launched one by one gain nothing from side streams
        self._streams = StreamPool(device, _STREAMS) if capturable else NO_STREAMS
        self._ema = EMA(generator, self._streams)
        self.ema = self._ema.network
        self.objective = GANObjective(  # must see batch normalization before it is converted below
            config,
            generator,
            discriminator,
            precision=precision or Precision("fp32", device.type, "default"),
            ranks=ranks,
            rng=self.rng,
            step_inputs=self.step_inputs,
            streams=self._streams,
            backend=backend,
            held_out=held_out,
        )
        self._scaler = self.objective.scaler
        convert_sync_batch_norm(generator, ranks)
        convert_sync_batch_norm(discriminator, ranks)
        self.has_gradient_penalty = config.loss.has_gradient_penalty
        self._stat_names = self.objective.stat_names  # by part of a step
        names = [name for names in self._stat_names.values() for name in names]
        self._stats = torch.zeros(len(names), device=device)
        self._sums = dict(zip(names, self._stats.unbind(), strict=True))  # views of `_stats`
        self._stats_steps = dict.fromkeys(self._stat_names, 0)
        build = partial(build_phase, config=config, streams=self._streams, allow_sync=self._allow_sync)
        phases = [
            build("discriminator", discriminator, self.objective.backward_discriminator),
            build("generator", generator, self.objective.backward_generator),
        ]
        self.phases = phases if config.train.first_update == "discriminator" else phases[::-1]
        # CPU: checked only after a non-finite loss. GPU: checked after the first phase of each step. If both networks
        # are non-finite there, the second phase of the step before was the cause, so its network comes first.
        weights = {
            f"{phase.name}.{key}": tensor
            for phase in reversed(self.phases)
            for key, tensor in phase.network.state_dict(keep_vars=True).items()
            if tensor.is_floating_point()
        }
        self._nonfinite = NonFiniteDetector(weights, device)

    def __call__(self, images: Tensor, labels: Tensor, *, step: int, progress: float, lr_factor: float = 1.0) -> None:
        """Updates both networks once.

        Args:
            images: uint8 [N, C, H, W] on the step's device: this rank's share of the batch.
            labels: int64 [N] on the same device.
            step: number of steps done before this one.
            progress: completed fraction of the run's duration, 0 … 1; the penalties follow it.
            lr_factor: factor of the learning rates.
        """
        self.update(images, labels, self.prepare(step=step, progress=progress, lr_factor=lr_factor))

    def prepare(self, *, step: int, progress: float, lr_factor: float = 1.0) -> tuple[str, ...]:
        """Sets the per-step scalars (the host's part of a step) and returns the parts of the step that are due.

        The parts are the names of the phases, in order, and PENALTIES.
        Gradient penalties change little from step to step. With `loss.penalty_every`, only every k-th step computes
        them, with k times their weight ("lazy regularization", Karras et al. 2020, arXiv:1912.04958, section 3.1).
        """
        optimizer, loss = self._config.optimizer, self._config.loss
        penalty_factor = decay(
            "cosine", progress, optimizer.decay_start, loss.penalty_final_factor, optimizer.decay_end
        )
        self.step_inputs.set(
            lr_factor=lr_factor,
            penalty_factor=loss.penalty_every * penalty_factor,
            # the EMA decay ramps up, so that early weights lose their influence quickly
            ema_weight=1 - min(self._config.train.ema_decay, (1 + step) / (10 + step)),
        )
        due = tuple(phase.name for phase in self.phases if (step + 1) % phase.every == 0)
        if self.has_gradient_penalty and (step + 1) % loss.penalty_every == 0:
            due = (*due, PENALTIES)
        for name in due:
            self._stats_steps[name] += 1
        return due

    def update(self, images: Tensor, labels: Tensor, due: Sequence[str]) -> None:
        """Runs the `due` parts and updates the EMA (the device's part of a step), by the scalars of `prepare`."""
        phases = [phase for phase in self.phases if phase.name in due]
        both = len(phases) == len(self.phases)
        batch = self.objective.prepare(images, labels, both=both, penalized=PENALTIES in due)
        # the generator's weights are final for this step after this phase
        ema_phase = phases[0 if phases[0].network is self.generator else -1]
        for phase in phases:
            phase.set_lr_factor(self.step_inputs.lr_factor)
            result = phase.backward(batch)
            if self._allow_sync and not math.isfinite(result.loss.item()):
                self._nonfinite.check()
            self._streams.join()
            phase.step(self._scaler, self.ranks)
            if phase is phases[0] and not self._allow_sync:
                with self._streams.stream(0):  # overlaps with the next phase
                    self._nonfinite.check()
            if phase is ema_phase:
                self._ema.update(self.step_inputs.ema_weight)
            with self._streams.stream(_STREAMS - 1):
                values = [value.detach() for value in result.stats.values()]
                torch._foreach_add_([self._sums[name] for name in result.stats], values)
        self._streams.join()
        self._ema.copy_buffers()  # the generator's last forward pass changed them
        if self._scaler.is_enabled():
            self._scaler.update()  # both phases share one scale

    def read_stats(self) -> dict[str, float]:
        """Means of the statistics since the last call, over all ranks; and `lr`, the generator's learning rate.

        Penalties are missing if no step since then computed any. Waits for the device.
        """
        sums = self._stats.clone()
        self.ranks.all_reduce_mean([sums])
        counts = [max(1, self._stats_steps[part]) for part, names in self._stat_names.items() for _ in names]
        values = {name: value / n for name, value, n in zip(self._sums, sums.tolist(), counts, strict=True)}
        if not self._stats_steps[PENALTIES]:
            values = {name: value for name, value in values.items() if name not in self._stat_names[PENALTIES]}
        self._stats.zero_()
        self._stats_steps = dict.fromkeys(self._stat_names, 0)
        (generator,) = (phase for phase in self.phases if phase.name == "generator")
        values |= {"lr": generator.base_lr * float(self.step_inputs.lr_factor)}
        return values | ({"loss_scale": self._scaler.get_scale()} if self._scaler.is_enabled() else {})

    def first_nonfinite(self) -> str | None:
        """The name of the first tensor with NaN or inf, None if all are finite. Waits for the device.

        Covers weights, buffers, the EMA, Adam's moments, and the running statistics of the losses.
        """
        extra = {f"ema.{key}": value for key, value in self.ema.state_dict().items()}
        extra |= {f"losses.{key}": value for key, value in self.objective.state_dict().items()}
        for phase in self.phases:
            for key, parameter in phase.network.named_parameters():
                moments = phase.optimizer.state.get(parameter, {})
                extra |= {f"{moment} of {phase.name}.{key}": value for moment, value in moments.items()}
        return self._nonfinite.first_nonfinite(extra)

    def check(self, step: int) -> None:
        """Checks that the state may be evaluated or saved.

        Raises:
            TrainingError: a tensor contains NaN or inf, or ranks have different weights.
        """
        if name := self.first_nonfinite():
            raise divergence_error(f"{name}: found NaN or inf", step)
        if self.ranks.size > 1:
            weights = [*self._nonfinite.tensors.values(), *self.ema.state_dict().values()]
            self.ranks.assert_equal_across_ranks(f"the weights at step {step}", fingerprint(weights))

    def state_dict(self) -> dict[str, Any]:
        """Networks, EMA, optimizers, running statistics of the losses, loss scaler, random stream, open statistics."""
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
            "stats": torch.stack(self.ranks.all_gather_object(self._stats.cpu())),  # [ranks, names]
            "stats_names": list(self._sums),
            "stats_steps": dict(self._stats_steps),
            "threads": torch.get_num_threads(),  # the split of a sum over threads changes its rounding
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state of `state_dict`."""
        self.load_networks(state)
        for phase in self.phases:
            phase.optimizer.load_state_dict(state["optimizers"][phase.name])
            if phase.clip:
                phase.clip.load_state_dict(state.get("clipping", {}).get(phase.name))
        self.objective.load_state_dict(state["objectives"])
        if self._scaler.is_enabled() and state["scaler"]:  # empty if the precision was changed to fp16
            self._scaler.load_state_dict(state["scaler"])
        if state["device"] == self.device.type:
            self.rng.set_state(state["rng"].cpu())
        else:  # generators of other device types have other states: start a new stream that the run has not used
            self.rng.manual_seed(int.from_bytes(hashlib.sha256(state["rng"].numpy().tobytes()).digest()[:7], "big"))
        if state["stats_names"] == list(self._sums):  # else the loss was changed on purpose: the means start anew
            by_rank = state["stats"]
            self._stats.copy_(by_rank[self.ranks.rank] if len(by_rank) == self.ranks.size else by_rank.mean(dim=0))
            self._stats_steps |= state["stats_steps"]

    def load_networks(self, state: dict[str, Any]) -> None:
        """Loads only the networks and the EMA from `state`, as the start of another run."""
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.ema.load_state_dict(state["ema"])
        self._nonfinite.reset()

    def recover(self, rng_state: Tensor) -> None:
        """Undoes a failed capture: restores the random stream to `rng_state` and clears the scaler's partial state."""
        if self.device.type == "cuda":  # a new generator state: the old one still expects the end of the capture
            fresh = torch.Generator(self.device)
            fresh.set_state(rng_state)
            self.rng.graphsafe_set_state(fresh.graphsafe_get_state())
        else:
            self.rng.set_state(rng_state)
        if self._scaler.is_enabled():
            self._scaler._per_optimizer_states.clear()
