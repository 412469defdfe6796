"""The callback protocol: what an observer of a training run may override, read and ask for.

Callbacks run in the order in which they were given; `close` runs in reverse order, whatever happened. Exceptions go
through: a callback that fails ends the run. A hook that is not overridden costs nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor

from training.config import Config


class Run(Protocol):
    """What a callback sees of the trainer."""

    @property
    def config(self) -> Config: ...
    @property
    def run_dir(self) -> Path: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def step(self) -> int:
        """Updates done."""

    @property
    def images(self) -> int:
        """Real images seen."""

    @property
    def epoch_images(self) -> int:
        """Images that make an epoch."""

    @property
    def horizon_images(self) -> int | None:
        """Images at which the run ends; None until a horizon given as a time has been measured."""

    @property
    def seconds(self) -> float:
        """Seconds since this process's first step, evaluations included."""

    @property
    def images_per_second(self) -> float:
        """Rate of the training steps alone."""

    def draw(self, z: Tensor, label: Tensor) -> Tensor:
        """Images of the averaged generator, uint8 [N, C, H, W], for z [N, z_dim] and labels [N] (unused where
        unconditional)."""

    def request_stop(self, reason: str, *, evaluate: bool = True) -> None:
        """Ends the run after this step; without evaluation where there is no time for one."""

    def request_evaluation(self) -> None:
        """Has the generator scored after this step."""

    def request_checkpoint(self) -> None:
        """Has the state saved after this step."""


class Callback:
    """Base of all callbacks. Override what you need; a misspelt `on_…` method is an error at once."""

    key: ClassVar[str] = ""  # names the callback's state in checkpoints; the class's name by default

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

    def on_log(self, run: Run, stats: Mapping[str, float]) -> None:
        """Every `log.every` steps, with the means of the losses since the last time."""

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        """After a scoring on the validation split."""

    def on_checkpoint(self, run: Run, path: Path) -> None:
        """After a checkpoint was written."""

    def on_end(self, run: Run, reason: str) -> None:
        """After the last step's evaluation and checkpoint; not after an error."""

    def close(self) -> None:
        """Always, last: give back files, screens, signal handlers."""

    def state_dict(self) -> dict[str, Any]:
        """What must survive a resume: JSON values and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes `state_dict`'s value up again."""


HOOKS = ("on_start", "on_step", "on_log", "on_evaluation", "on_checkpoint", "on_end")
