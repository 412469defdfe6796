"""Polls the active model version and the draining flag, and reports the loaded version.

The server writes into a folder, `state`: the link `current` points to the files of the active version, and the file
`draining` exists once the server is stopping. Each worker writes `worker-PID` there: JSON with the version that it
serves, or the error that kept it from loading one. So a restarted worker serves the same version as the others.
"""

import gc
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from ganctl.files import write_file

CURRENT, DRAINING = "current", "draining"
_POLL_SECONDS = 0.1

log = logging.getLogger(__name__)

Model = TypeVar("Model")


class Commands(Generic[Model]):
    """Follows the folder `state`; `model` is the loaded model of the active version."""

    def __init__(self, state: Path, load_model: Callable[[Path], Model]) -> None:
        """Prepares to follow `state`.

        Args:
            state: the folder.
            load_model: loads the model of an unpacked archive.
        """
        self._state, self._load_model = state, load_model
        self._loaded: Path
        self._failed: Path | None = None
        self.draining = False
        self.model: Model

    def load(self) -> None:
        """Loads the first model."""
        self._loaded = self._active_version()
        self.model = self._load_model(self._loaded)
        freeze_gc()

    def follow(self) -> None:
        """Reports that the worker answers, and starts polling `state`."""
        self._poll()
        self._report(self._loaded)
        threading.Thread(target=self._poll_forever, name="commands", daemon=True).start()

    def _poll_forever(self) -> None:
        while True:
            time.sleep(_POLL_SECONDS)
            self._poll()

    def _poll(self) -> None:
        self.draining = (self._state / DRAINING).exists()
        active = self._active_version()
        if active in (self._loaded, self._failed):
            return
        # The old model answers until the new one is loaded completely; a batch uses one of them throughout.
        try:
            self.model = self._load_model(active)
        except Exception as error:  # no exception of an archive's code may end a worker that serves the old version
            log.exception("version %s cannot be loaded", active.name)
            self._failed = active
            self._report(active, repr(error))
            return
        self._loaded, self._failed = active, None
        freeze_gc()
        self._report(active)

    def _active_version(self) -> Path:
        """The folder of the version to serve."""
        return (self._state / CURRENT).resolve(strict=True)

    def _report(self, folder: Path, error: str | None = None) -> None:
        report = json.dumps({"version": folder.name, "error": error})
        try:
            write_file(self._state / f"worker-{os.getpid()}", report)
        except OSError:  # a full disk makes a deployment fail, but must not stop replies
            log.warning("cannot report the loaded version to the server", exc_info=True)


def freeze_gc() -> None:
    """Excludes all loaded objects from garbage collection, which would scan them while requests wait."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
