"""The base class of callbacks, and the protocol `Run`, through which they read a training run and send requests to it.

Callbacks run in the order in which they were given; `close` runs in reverse order, also after an error. An exception in
a callback ends the run. A hook that is not overridden costs nothing. With several ranks, a callback runs on rank 0
only, unless its class sets `every_rank = True`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from ganctl.training.config.schema import Config
from ganctl.training.data.base import Split
from ganctl.training.device.timing import ResolvedDuration, ThroughputTimer
from ganctl.training.images.source import Source
from ganctl.training.models.base import Generator

FINISHED = ("completed", "early-stopping", "goal")  # stop reasons after which a run is complete


class Run(Protocol):
    """The attributes and requests of the trainer that a callback may use."""

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
        """Training steps done."""

    @property
    def images(self) -> int:
        """Real images trained on, over all ranks."""

    @property
    def batch_size(self) -> int:
        """Images per step, over all ranks."""

    @property
    def epoch_images(self) -> int:
        """Images per epoch."""

    @property
    def duration(self) -> ResolvedDuration:
        """The duration of the run; its `images` is None until a duration given as a time has been measured."""

    @property
    def progress(self) -> float:
        """Completed fraction of the duration, 0 … 1; 0 until the duration is known."""

    @property
    def timer(self) -> ThroughputTimer:
        """The seconds since this process's first step, and the throughput."""

    @property
    def generator(self) -> Generator:
        """The EMA generator, which is scored, saved and exported; in evaluation mode."""

    @property
    def source(self) -> Source:
        """The EMA generator as a source of uint8 images."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Texts about the start of the run for its log; empty after `on_start`."""

    def first_nonfinite(self) -> str | None:
        """Returns the name of the first tensor with NaN or inf; None if all are finite. Synchronizes the device."""

    def request_stop(self, reason: str, *, evaluate: bool = True) -> None:
        """Ends the run after this step; `evaluate=False` skips the last evaluation."""

    def request_evaluation(self) -> None:
        """Evaluates and saves after this step. No effect in `on_evaluation` and `on_checkpoint`."""

    def request_checkpoint(self) -> None:
        """Saves the state after this step. No effect in `on_evaluation` and `on_checkpoint`."""


class Callback:
    """Base class of all callbacks. Override hooks as needed; a misspelled `on_…` method raises TypeError."""

    key: str = ""  # key of the callback's state in checkpoints; default: the class name
    every_rank: ClassVar[bool] = False  # True: runs on every rank; False: on rank 0 only
    provided_scores: tuple[str, ...] = ()  # names of the scores that `on_measure` always returns
    required_scores: tuple[str, ...] = ()  # names of the scores that it reads; checked before the run starts

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.key = cls.__dict__.get("key") or cls.__name__
        unknown = [name for name in cls.__dict__ if name.startswith("on_") and name not in HOOKS]
        if unknown:
            raise TypeError(
                f"{cls.__name__}: found {unknown[0]}, expected hooks among {', '.join(HOOKS)}. Rename the method."
            )

    def overrides(self, hook: str) -> bool:
        """Returns whether the class overrides a hook; other hooks are not called."""
        return getattr(type(self), hook) is not getattr(Callback, hook)

    def on_start(self, run: Run) -> None:
        """Called before the first step, after the state of a resumed run is restored."""

    def on_schedule(self, run: Run) -> float:
        """Called before each step; returns a factor of the learning rates.

        It must depend on `run.progress` and `run.images` alone, or ranks and resumed runs would differ. It needs
        `every_rank = True`.
        """
        return 1.0

    def on_step(self, run: Run) -> None:
        """Called after each step."""

    def on_log(self, run: Run, stats: Mapping[str, float]) -> None:
        """Called every `log.every` steps, with the mean losses since the last call."""

    def on_measure(self, run: Run, source: Source, split: Split) -> Mapping[str, Any]:
        """Returns scores of `source`.

        Called at each evaluation (`split` "val"), and for the best checkpoint of a complete run (`split` "test").
        """
        return {}

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        """Called after an evaluation on the validation split, with the scores of all callbacks."""

    def on_checkpoint(self, run: Run, path: Path) -> None:
        """Called after a checkpoint was written to `path`."""

    def on_end(self, run: Run, reason: str, scores: Mapping[str, Any]) -> None:
        """Called after the last evaluation and checkpoint, with the reported scores; not after an error before that."""

    def on_exception(self, run: Run, error: Exception) -> None:
        """Called after an error in a start, a step or an end, before `close`; the error is raised afterwards.

        An exception in this hook is logged, and replaces neither that error nor the calls of other callbacks.
        """

    def close(self) -> None:
        """Always called last; releases files, terminals and signal handlers."""

    def state_dict(self) -> dict[str, Any]:
        """Returns the state to save in checkpoints: JSON values and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state that `state_dict` returned."""


HOOKS = [name for name in vars(Callback) if name.startswith("on_")]
