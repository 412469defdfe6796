"""Holds a training or an export in another process at a known place, until the test lets it go on or a signal arrives.

A test that stops or kills a command does it while the command is held: it is surely not over yet, however fast it is,
and the place is always the same one.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.config.schema import ModelSettings
from ganctl.training.data.base import Split
from ganctl.training.images.source import Source
from ganctl.training.models.base import ImageShape
from ganctl.training.models.conv import ConvGenerator
from tests.waiting import PATIENCE, wait_for

ROOT = str(Path(__file__).parents[1])  # to find this module in the process that is to be held
CALLBACK = ("--callback", f"{__name__}:Held")
GENERATOR = f"model.generator='{__name__}:HeldGenerator'"
EXPORT = "the writing of TorchScript"
_FOLDER, _PLACE = "HELD_FOLDER", "HELD_AT"


class Hold:
    """The test's side, in a folder that it makes. With the words CALLBACK a training is held at the end of `step` or in
    its evaluation; an export of a run with the setting GENERATOR at EXPORT."""

    def __init__(self, folder: Path, step: int | str, *, evaluation: bool = False) -> None:
        self._folder, self._place = folder, _place(step, evaluation)
        folder.mkdir()

    @property
    def environment(self) -> dict[str, str]:
        """Variables for the process that is to be held."""
        return {_FOLDER: str(self._folder), _PLACE: self._place, "PYTHONPATH": ROOT}

    @property
    def reached(self) -> bool:
        """Whether the run is held, or has been."""
        return (self._folder / "held").exists()

    def wait(self, process: Any = None) -> None:
        """Returns once the run is held."""
        wait_for(lambda: self.reached, f"the run is held in {self._place}", process=process)

    def release(self) -> None:
        """Lets it go on, and holds it no more."""
        (self._folder / "released").touch()


class Held(Callback):
    """Holds the first rank of a run. Without the variables it does nothing."""

    def on_step(self, run: Run) -> None:
        _hold(_place(run.step, False))

    def on_measure(self, run: Run, source: Source, split: Split) -> Mapping[str, Any]:
        _hold(_place(run.step, True))
        return {}


class HeldGenerator(ConvGenerator):
    """The generator `conv`, held while it is written as TorchScript."""

    def __init__(self, settings: ModelSettings, shape: ImageShape, classes: int | None) -> None:
        super().__init__(settings.latent_dim, classes, shape, settings.base_channels)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        # as torch.jit.is_tracing, which has no types
        if torch._C._get_tracing_state() is not None:  # noqa: SLF001 - torch's
            _hold(EXPORT)
        return super().forward(z, label)


def _place(step: int | str, evaluation: bool) -> str:
    return step if isinstance(step, str) else f"{'the evaluation of ' if evaluation else ''}step {step}"


def _hold(place: str) -> None:
    if place != os.environ.get(_PLACE):
        return
    folder = Path(os.environ[_FOLDER])
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}

    def noticed(handler: Any) -> Callable[[int, FrameType | None], None]:
        def notice(number: int, frame: FrameType | None) -> None:
            received.append(number)
            handler(number, frame)

        return notice

    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, noticed(handler))
    try:
        (folder / "held").touch()
        deadline = time.monotonic() + PATIENCE
        while not received and not (folder / "released").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
