"""TorchServe's entry point, which an archive's `ganctl_entry.py` imports; no other module here depends on a host."""

import logging
import os
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

from .service import Service


class Context(Protocol):
    """The part of TorchServe's context that `handle` uses."""

    model_yaml_config: dict[str, Any]

    @property
    def system_properties(self) -> dict[str, Any]: ...
    def get_all_request_header(self, idx: int) -> dict[str, Any]: ...
    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None: ...
    def set_response_header(self, idx: int, key: str, value: str) -> None: ...


_service: Service | None = None


def handle(data: Sequence[Mapping[str, Any]] | None, context: Context) -> list[bytes] | None:
    """Load the model if `data` is None, as in TorchServe's first call; else answer the batch `data`."""
    global _service
    if data is None:
        os.environ["TS_DECODE_INPUT_REQUEST"] = "false"  # TorchServe's decoding would lose repeated JSON keys and NaN
        _service = Service.load(Path(context.system_properties["model_dir"]), context.model_yaml_config["handler"])
        logging.getLogger().setLevel(logging.WARNING)  # the worker logs several lines for each batch at INFO
        return None
    assert _service is not None, "the first call loads the model"
    replies = _service.answer([(inputs, context.get_all_request_header(i)) for i, inputs in enumerate(data)])
    if (observe := getattr(context, "observe", None)) is not None:  # only ganctl's own workers have it
        observe(_service.observation)
    for i, reply in enumerate(replies):
        context.set_response_status(code=reply.status, phrase=HTTPStatus(reply.status).phrase, idx=i)
        for name, value in _service.http_headers(reply).items():
            context.set_response_header(i, name, value)
    return [reply.body for reply in replies]
