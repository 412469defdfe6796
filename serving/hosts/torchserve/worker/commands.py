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
from pathlib import Path

from ganctl.files import write_file
from ganctl.serving.hosts.torchserve.worker.model_host import ModelHost

CURRENT, DRAINING = "current", "draining"
_POLL_SECONDS = 0.1

log = logging.getLogger(__name__)


class Commands:
    """Follows the folder `state`."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._failed: Path | None = None
        self.draining = False
        self.model: ModelHost

    def load(self) -> None:
        """Loads the first model and starts polling `state`."""
        self.model = ModelHost(self._active_version())
        freeze_gc()
        self._poll()
        self._report(self.model.folder)
        threading.Thread(target=self._poll_forever, name="commands", daemon=True).start()

    def _poll_forever(self) -> None:
        while True:
            time.sleep(_POLL_SECONDS)
            self._poll()

    def _poll(self) -> None:
        self.draining = (self._state / DRAINING).exists()
        active = self._active_version()
        if active in (self.model.folder, self._failed):
            return
        # The old model answers until the new one is loaded completely; a batch uses one of them throughout.
        try:
            self.model = ModelHost(active)
        except Exception as error:  # no exception of an archive's code may end a worker that serves the old version
            log.exception("version %s cannot be loaded", active.name)
            self._failed = active
            self._report(active, repr(error))
            return
        self._failed = None
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
