"""The callback protocol: what an observer of a training run may override, read and ask for.

Callbacks run in the order in which they were given; `close` runs in reverse order, whatever happened. Exceptions go
through: a callback that fails ends the run. A hook that is not overridden costs nothing. Where many ranks train, a
callback runs on the first one alone, unless its class says `every_rank = True`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ganctl.training.config.schema import Config
from ganctl.training.data.base import Split
from ganctl.training.device.timing import ThroughputTimer
from ganctl.training.images.source import Source
from ganctl.training.models.base import Generator

FINISHED = ("completed", "early-stopping", "goal")  # reasons after which a run is complete, not merely stopped


class Run(Protocol):
    """What a callback sees of the trainer."""

    @property
    def config(self) -> Config: ...
    @property
    def run_dir(self) -> Path: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def step(self) -> int:
        """Updates done."""

    @property
    def images(self) -> int:
        """Real images seen."""

    @property
    def batch_size(self) -> int:
        """Images of a step, over all ranks."""

    @property
    def epoch_images(self) -> int:
        """Images that make an epoch."""

    @property
    def duration_images(self) -> int | None:
        """Images at which the run ends; None until a duration given as a time has been measured."""

    @property
    def progress(self) -> float:
        """Share of the duration that is behind us, 0 … 1; 0 until the duration is known."""

    @property
    def clock(self) -> ThroughputTimer:
        """Seconds since this process's first step, and images per second of the training steps alone."""

    @property
    def generator(self) -> Generator:
        """The averaged generator, which is what is scored, kept and exported; in evaluation mode."""

    @property
    def source(self) -> Source:
        """The same as a source of uint8 images."""

    def broken(self) -> str | None:
        """The name of a weight that is no finite number any more, None where all are. Waits for the device."""

    def draw(self, z: Tensor, label: Tensor) -> Tensor:
        """Images of the averaged generator, uint8 [N, C, H, W], for z [N, latent_dim] and labels [N] (unused where
        unconditional)."""

    def request_stop(self, reason: str, *, evaluate: bool = True) -> None:
        """Ends the run after this step; without evaluation where there is no time for one."""

    def request_evaluation(self) -> None:
        """Has the generator scored after this step. In `on_evaluation` and `on_checkpoint` it asks for nothing."""

    def request_checkpoint(self) -> None:
        """Has the state saved after this step. In `on_evaluation` and `on_checkpoint` it asks for nothing."""


class Callback:
    """Base of all callbacks. Override what you need; a misspelt `on_…` method is an error at once."""

    key: str = ""  # names the callback's state in checkpoints; the class's name by default
    every_rank: ClassVar[bool] = False  # whether it runs on each rank, not on the first alone
    produces: tuple[str, ...] = ()  # names of the scores that `on_measure` gives always, for others to watch
    watches: tuple[str, ...] = ()  # names of the scores that it needs; told at once where nobody produces them

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.key = cls.__dict__.get("key") or cls.__name__
        unknown = [name for name in cls.__dict__ if name.startswith("on_") and name not in HOOKS]
        if unknown:
            raise TypeError(f"{cls.__name__}.{unknown[0]} is no hook; there are {', '.join(HOOKS)}")

    def on_start(self, run: Run) -> None:
        """Before the first step; after the state was restored, where the run resumes."""

    def on_step(self, run: Run) -> None:
        """After each step."""

    def on_schedule(self, run: Run) -> float:
        """Before each step: a factor of the learning rates. A function of `run.progress` and `run.images` alone, or
        ranks and resumes would differ; needs `every_rank = True`."""
        return 1.0

    def on_log(self, run: Run, stats: Mapping[str, float]) -> None:
        """Every `log.every` steps, with the means of the losses since the last time."""

    def on_measure(self, run: Run, source: Source, split: Split) -> Mapping[str, Any]:
        """At each evaluation (val), and of the best checkpoint when the run is complete (test): scores of `source`."""
        return {}

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        """After a scoring on the validation split, with everybody's scores."""

    def on_checkpoint(self, run: Run, path: Path) -> None:
        """After a checkpoint was written."""

    def on_end(self, run: Run, reason: str, scores: Mapping[str, Any]) -> None:
        """After the last step's evaluation and checkpoint, with the scores that are reported; not after an error."""

    def close(self) -> None:
        """Always, last: give back files, screens, signal handlers."""

    def state_dict(self) -> dict[str, Any]:
        """What must survive a resume: JSON values and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes `state_dict`'s value up again."""


HOOKS = (
    "on_start", "on_schedule", "on_step", "on_log", "on_measure", "on_evaluation", "on_checkpoint", "on_end"
)  # fmt: skip


def overriding(callbacks: Sequence[Callback]) -> dict[str, list[Callback]]:
    """For each hook the callbacks that do something in it, in their order."""
    return {
        hook: [callback for callback in callbacks if getattr(type(callback), hook) is not getattr(Callback, hook)]
        for hook in HOOKS
    }
