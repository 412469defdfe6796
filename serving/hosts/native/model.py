"""A model that the native host serves: the handler of an unpacked archive, with its generator."""

import copy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import yaml

from ganctl.serving.hosts.worker.model_host import import_handler

if TYPE_CHECKING:
    from ganctl.serving.handler.replies import Reply
    from ganctl.serving.handler.request import Request
    from ganctl.serving.handler.service import Service  # workers import the handler of the archive


class NativeModel:
    """The loaded handler of the archive that is unpacked in `folder`, for a model of this name.

    `service` draws small requests on the event loop, `large_service` large ones in a thread. They share the generator.
    """

    def __init__(self, folder: Path, name: str) -> None:
        handler = import_handler(folder)
        settings = yaml.safe_load((folder / "model-config.yaml").read_bytes())["handler"]
        self.service: Service = handler.Service.load(folder, settings, name)
        self.large_service = copy.copy(self.service)  # with measurements of its own
        self._request_type: type = sys.modules["ganctl_handler.request"].Request

    def is_request(self, parsed: "Request | Reply") -> "TypeGuard[Request]":
        """Returns whether `service.parse` gave a request to draw; else it gave the reply."""
        return isinstance(parsed, self._request_type)
