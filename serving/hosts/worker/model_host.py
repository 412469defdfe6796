"""Loads the handler and the generator of an unpacked archive into a worker."""

import importlib
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ganctl.serving.hosts.worker.messages import PredictReply, PredictRequest

if TYPE_CHECKING:
    from ganctl.serving.handler.service import Observation  # workers import the handler of the archive

_IMPORTING = threading.Lock()  # the models of a server may be loaded at the same time
_HANDLER = "ganctl_entry"  # the module of every archive of ganctl that defines TorchServe's `handle`


class Context:
    """The part of TorchServe's `Context` that the handler uses: settings in, status and headers of the replies out.

    `observe` is an addition: our handler calls it with the measurements of a batch.
    """

    def __init__(self, folder: Path) -> None:
        config = yaml.safe_load((folder / "model-config.yaml").read_bytes())
        self.model_yaml_config: dict[str, Any] = config
        self.system_properties: dict[str, Any] = {"model_dir": str(folder)}
        self.start_batch(())

    def start_batch(self, batch: Sequence[PredictRequest]) -> None:
        """Resets the context for a new batch."""
        self._requests = batch
        self.statuses = [(200, "OK")] * len(batch)
        self.headers: list[dict[str, str]] = [{} for _ in batch]
        self.observation: Observation | None = None

    def get_all_request_header(self, idx: int) -> dict[str, str]:
        return self._requests[idx].headers

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.statuses[idx] = code, phrase

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self.headers[idx][key] = value

    def observe(self, observation: "Observation") -> None:
        self.observation = observation


class ModelHost:
    """The handler and the generator of the archive that is unpacked in `folder`, loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._context = Context(folder)
        self._handle = import_handler(folder).handle
        self._handle(None, self._context)

    def answer(self, batch: Sequence[PredictRequest]) -> "tuple[list[PredictReply], Observation | None]":
        """Returns the replies, in the order of the requests, and the handler's measurements."""
        context = self._context
        context.start_batch(batch)
        bodies = self._handle([request.inputs for request in batch], context)
        replies = [
            PredictReply(request.identity, *status, headers, body)
            for request, status, headers, body in zip(batch, context.statuses, context.headers, bodies, strict=True)
        ]
        return replies, context.observation


def import_handler(folder: Path) -> Any:
    """Imports the handler's module of `folder`, even if modules of the same names of an older version are in use."""
    with _IMPORTING:
        return _import_handler(folder)


def _import_handler(folder: Path) -> Any:
    own = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] in own]:
        del sys.modules[loaded]
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(_HANDLER)
    finally:
        sys.path.remove(str(folder))
