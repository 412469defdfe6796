"""Pauses a training or an export in another process at a known place, until the test releases it or a signal arrives.

A test that stops or kills a command does it while the command is held. The command cannot end too early, however fast
it is, and the place is always the same.
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

ROOT = str(Path(__file__).parents[1])  # PYTHONPATH of the held process, so that it can import this module
CALLBACK = ("--callback", f"{__name__}:Held")
GENERATOR = f"model.generator='{__name__}:HeldGenerator'"
EXPORT = "the writing of TorchScript"
_FOLDER, _PLACE = "HELD_FOLDER", "HELD_AT"


class Hold:
    """The test's side of a hold: creates a folder, and synchronizes with the held process through files in it.

    A training with the arguments CALLBACK is held at the end of `step`, or in the evaluation of `step`. An export of a
    run with the setting GENERATOR is held if `step` is EXPORT.
    """

    def __init__(self, folder: Path, step: int | str, *, evaluation: bool = False) -> None:
        self._folder, self._place = folder, _place(step, evaluation)
        folder.mkdir()

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for the held process."""
        return {_FOLDER: str(self._folder), _PLACE: self._place, "PYTHONPATH": ROOT}

    @property
    def reached(self) -> bool:
        """Returns True if the process has reached the place."""
        return (self._folder / "held").exists()

    def wait(self, process: Any = None) -> None:
        """Waits until the process is held; `process` must not end before."""
        wait_for(lambda: self.reached, f"the process is held in {self._place}", process=process)

    def release(self) -> None:
        """Lets the process continue; it is not held again."""
        (self._folder / "released").touch()


class Held(Callback):
    """Holds rank 0 of a training. Does nothing without the environment variables."""

    def on_step(self, run: Run) -> None:
        _hold(_place(run.step, False))

    def on_measure(self, run: Run, source: Source, split: Split) -> Mapping[str, Any]:
        _hold(_place(run.step, True))
        return {}


class HeldGenerator(ConvGenerator):
    """The generator `conv`; holds an export while it traces the generator for TorchScript."""

    def __init__(self, settings: ModelSettings, shape: ImageShape, classes: int | None) -> None:
        super().__init__(settings.latent_dim, classes, shape, settings.base_channels)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        # the same as torch.jit.is_tracing(), which is untyped
        if torch._C._get_tracing_state() is not None:  # noqa: SLF001 - torch has no public typed function
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

    def recording(handler: Any) -> Callable[[int, FrameType | None], None]:
        def record(number: int, frame: FrameType | None) -> None:
            received.append(number)
            handler(number, frame)

        return record

    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, recording(handler))
    try:
        (folder / "held").touch()
        deadline = time.monotonic() + PATIENCE
        while not received and not (folder / "released").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
