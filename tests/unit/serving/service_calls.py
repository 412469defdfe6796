"""Requests to a service and their replies, without TorchServe."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ganctl.serving.archive.mar import BackendName
from ganctl.serving.handler.replies import Reply
from ganctl.serving.handler.service import Service
from tests.unit.serving.small_export import MODEL_FILES

JSON = {"Accept": "application/json"}
OPENAPI = {"Accept": "application/openapi+json"}

Call = tuple[dict[str, Any], dict[str, Any]]  # a request's fields and headers, as TorchServe passes them


def load_service(folder: Path, backend: BackendName = "onnx", **limits: int) -> Service:
    """Load the model of an export, or of an unpacked archive, as a worker does."""
    return Service.load(folder, {"backend": backend, "model_file": MODEL_FILES[backend], **limits})


def json_call(headers: dict[str, Any] | None = None, **fields: Any) -> Call:
    """A request with these fields as its JSON body."""
    return {"body": bytearray(json.dumps(fields).encode())}, headers or {}


def reply_to(service: Service, call: Call) -> Reply:
    """The reply to a batch of this one request."""
    (reply,) = service.answer([call])
    return reply


def pixels(reply: Reply) -> NDArray[np.uint8]:
    """The decoded pixels of a reply with status 200 and a PNG."""
    assert (reply.status, reply.media) == (200, "image/png"), reply.body
    with Image.open(io.BytesIO(reply.body)) as image:
        return np.asarray(image)


def openapi_of(service: Service) -> dict[str, Any]:
    """The OpenAPI description of a service."""
    reply = reply_to(service, json_call(OPENAPI))
    assert (reply.status, reply.media) == (200, "application/openapi+json")
    description: dict[str, Any] = json.loads(reply.body)
    return description
