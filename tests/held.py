"""Holds a training in another process at a known place, until the test lets it go on or a signal arrives.

A test that stops or kills a run does it while the run is held: it is surely not over yet, however fast it trains, and
the place is always the same one.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from training.callback import Callback, Run
from training.data import Split
from training.sources import Source

from .waiting import PATIENCE, wait_for

CALLBACK = ("--callback", f"{__name__}:Held")
_FOLDER, _PLACE = "HELD_FOLDER", "HELD_AT"


class Hold:
    """The test's side, in a folder that it makes: the run is held at the end of a step, or in its evaluation."""

    def __init__(self, folder: Path, step: int, *, evaluation: bool = False) -> None:
        self._folder, self._place = folder, _place(step, evaluation)
        folder.mkdir()

    @property
    def environment(self) -> dict[str, str]:
        """Variables for the process that is to be held; it needs the words CALLBACK, too."""
        return {_FOLDER: str(self._folder), _PLACE: str(self._place)}

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
    """The run's side, on the first rank. Without the variables it does nothing."""

    def on_step(self, run: Run) -> None:
        self._hold(_place(run.step, False))

    def on_measure(self, run: Run, source: Source, split: Split) -> Mapping[str, Any]:
        self._hold(_place(run.step, True))
        return {}

    def _hold(self, place: str) -> None:
        if place != os.environ.get(_PLACE):
            return
        folder = Path(os.environ[_FOLDER])
        received: list[int] = []
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}

        def noticed(handler: Any) -> Callable[[int, FrameType | None], None]:
            def notice(number: int, frame: FrameType | None) -> None:
                received.append(number)
                if callable(handler):
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


def _place(step: int, evaluation: bool) -> str:
    return f"{'the evaluation of ' if evaluation else ''}step {step}"
