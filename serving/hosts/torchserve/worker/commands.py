"""What a worker is to do, by the server's word: which version to serve, and whether to refuse what still comes.

The server writes its word into a folder, `state`: the link `current` leads to the version's files, and the file
`draining` means that the server is about to end. A worker tells there, in a file named by its process id, what it
serves or why it cannot. So a worker that starts anew serves what its neighbours serve.
"""

import gc
import json
import logging
import os
import threading
from pathlib import Path

from ganctl.serving.hosts.torchserve.worker.model_host import ModelHost

CURRENT, DRAINING = "current", "draining"
_LOOKS_EVERY = 0.1  # seconds

log = logging.getLogger(__name__)


class Commands:
    """Keeps to `state`; without one, the model is the one that the front end names, for good."""

    def __init__(self, state: Path | None) -> None:
        self._state = state
        self._handler = ""
        self._failed: Path | None = None
        self.draining = False
        self.model: ModelHost

    def load(self, folder: Path, handler: str) -> None:
        """Loads the first model, and from now on follows what the server says."""
        self._handler = handler
        self.model = ModelHost(self._named() or folder, handler)
        _settle()
        if self._state is not None:
            self._look()
            self._tell(self.model.folder)
            threading.Thread(target=self._follow, name="orders", daemon=True).start()

    def _follow(self) -> None:
        pause = threading.Event()
        while not pause.wait(_LOOKS_EVERY):
            self._look()

    def _look(self) -> None:
        assert self._state is not None
        self.draining = (self._state / DRAINING).exists()
        named = self._named()
        if named is None or named in (self.model.folder, self._failed):
            return
        # Meanwhile the old model answers; a batch takes the new one when that is there as a whole.
        try:
            model = ModelHost(named, self._handler)
        except Exception as error:  # whatever an archive's code raises must not end a worker that serves the old one
            log.exception("version %s cannot be loaded", named.name)
            self._failed = named
            self._tell(named, repr(error))
            return
        self.model = model
        self._failed = None
        _settle()
        self._tell(named)

    def _named(self) -> Path | None:
        """The folder of the version to serve."""
        return None if self._state is None else (self._state / CURRENT).resolve(strict=True)

    def _tell(self, folder: Path, error: str | None = None) -> None:
        assert self._state is not None
        told = self._state / f"worker-{os.getpid()}"
        aside = told.with_suffix(".new")
        try:
            aside.write_text(json.dumps({"version": folder.name, "error": error}), encoding="utf-8")
            aside.replace(told)
        except OSError:  # a disk that is full keeps a deployment from ending well, but nobody from being answered
            log.warning("the server is not told what this worker serves", exc_info=True)


def _settle() -> None:
    """Keeps the garbage collector from looking through all that is loaded, again and again, while requests wait."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
