"""The Open Inference Protocol, version 2, over REST: the protocol of Triton, KServe and their clients.

https://github.com/kserve/open-inference-protocol, with Triton's extension for binary tensors.
"""

import asyncio
import io
import json
import math
import struct
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ganctl import __version__
from ganctl.serving.hosts.native.batcher import Answer, Batcher
from ganctl.serving.hosts.native.http_reply import HttpReply

if TYPE_CHECKING:
    from ganctl.serving.handler.model import Model

_JSON = "application/json"
_HEADER_LENGTH = "inference-header-content-length"
_DTYPES: dict[str, type[np.generic]] = {
    "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
_LABELS = ("label", "digits")  # names of the same input
_SCALARS = ("seed", "truncation", "count")

Json = dict[str, Any]


class InferenceError(Exception):
    """A request that cannot be answered."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class _Inference(NamedTuple):
    """A decoded request: its inputs by name, and how the output is sent."""

    identity: str | None
    inputs: dict[str, NDArray[Any]]
    binary: bool


class OpenInference:
    """Answers the requests below `/v2`."""

    def __init__(self, batchers: Mapping[str, Batcher], is_ready: Callable[[], bool]) -> None:
        """Prepares the paths.

        Args:
            batchers: answer the requests to the model of each name.
            is_ready: whether new requests should be sent here; not while the worker drains.
        """
        self._batchers, self._is_ready = batchers, is_ready

    async def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> HttpReply:
        """Answers one request; an error has the form that the protocol prescribes."""
        try:
            return await self._answer(method, path.strip("/").split("/")[1:], headers, body)
        except InferenceError as error:
            return _json_reply(error.status, {"error": str(error)})

    async def _answer(self, method: str, parts: list[str], headers: Mapping[str, str], body: bytes) -> HttpReply:
        is_infer = parts[-1:] == ["infer"]
        if method not in (("POST",) if is_infer else ("GET", "HEAD")):
            raise InferenceError(HTTPStatus.METHOD_NOT_ALLOWED, f"found the method {method}, expected another one")
        if not parts:
            server = {"name": "ganctl", "version": __version__, "extensions": ["binary_tensor_data"]}
            return _json_reply(HTTPStatus.OK, server)
        if parts == ["health", "live"]:
            return HttpReply(HTTPStatus.OK, {}, b"")
        if parts == ["health", "ready"]:
            return self._readiness()
        batcher = self._batchers.get(parts[1]) if parts[0] == "models" and len(parts) > 1 else None
        if batcher is None:
            names = ", ".join(self._batchers)
            raise InferenceError(HTTPStatus.NOT_FOUND, f"found no model at this path; the models are {names}")
        name, rest = parts[1], parts[2:]
        if rest[:1] == ["versions"] and len(rest) > 1:
            if rest[1] != batcher.version:
                found = f"found the version {rest[1]!r} of {name}, expected {batcher.version!r}"
                raise InferenceError(HTTPStatus.NOT_FOUND, found)
            rest = rest[2:]
        if rest == ["ready"]:
            return self._readiness()
        if rest == ["infer"]:
            return await _infer(name, batcher, headers, body)
        if rest:
            raise InferenceError(HTTPStatus.NOT_FOUND, f"found {'/'.join(rest)!r}, expected ready or infer")
        return _json_reply(HTTPStatus.OK, _metadata(name, batcher.version, batcher.interface))

    def _readiness(self) -> HttpReply:
        """A worker listens only after it has loaded every model, so it is ready until it drains."""
        return HttpReply(HTTPStatus.OK if self._is_ready() else HTTPStatus.SERVICE_UNAVAILABLE, {}, b"")


def _metadata(name: str, version: str, model: "Model") -> Json:
    """Describes the inputs and the output of a model."""
    labels = [{"name": "label", "datatype": "INT64", "shape": [-1]}] if model.conditional else []
    optional = [
        {"name": "count", "datatype": "INT64", "shape": [1]},
        {"name": "seed", "datatype": "INT64", "shape": [1]},
        {"name": "truncation", "datatype": "FP32", "shape": [1]},
        {"name": "z", "datatype": "FP32", "shape": [-1, model.latent_dim]},
    ]
    image = {"name": "image", "datatype": "UINT8", "shape": [-1, model.channels, model.height, model.width]}
    return {
        "name": name, "versions": [version], "platform": "ganctl", "inputs": [*labels, *optional], "outputs": [image],
    }  # fmt: skip


async def _infer(name: str, batcher: Batcher, headers: Mapping[str, str], body: bytes) -> HttpReply:
    inference = _decode(headers, body)
    inputs = inference.inputs
    label = next((inputs[each] for each in _LABELS if each in inputs), None)
    if "z" in inputs:
        if others := [each for each in _SCALARS if each in inputs]:
            raise InferenceError(
                HTTPStatus.BAD_REQUEST, f"found z with {', '.join(others)}, expected z with label only"
            )
        images = await _generate(batcher, inputs["z"], label)
        answer_headers = {"X-Model-Version": batcher.version}
    else:
        fields: Json = {each: inputs[each].reshape(-1)[0].item() for each in _SCALARS if each in inputs}
        if label is not None:
            fields |= {"digits": label.reshape(-1).tolist()}
        answering: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        body = json.dumps(fields).encode()
        batcher.answer({"body": body}, {"accept": "application/x-npz", "content-type": _JSON}, answering.set_result)
        answer = await answering
        if answer.status != HTTPStatus.OK:
            raise InferenceError(answer.status, _problem_text(answer.body))
        answer_headers = {key: value for key, value in answer.headers.items() if key in ("X-Seed", "X-Model-Version")}
        with np.load(io.BytesIO(answer.body)) as arrays:
            images = arrays["images"]
    model = batcher.interface
    images = np.ascontiguousarray(images.reshape(-1, model.channels, model.height, model.width))
    output: Json = {"name": "image", "datatype": "UINT8", "shape": list(images.shape)}
    reply: Json = {"model_name": name, "model_version": batcher.version, "outputs": [output]}
    if inference.identity is not None:
        reply["id"] = inference.identity
    if not inference.binary:
        output["data"] = images.reshape(-1).tolist()
        return HttpReply(HTTPStatus.OK, answer_headers | {"content-type": _JSON}, json.dumps(reply).encode())
    output["parameters"] = {"binary_data_size": images.nbytes}
    head = json.dumps(reply).encode()
    answer_headers |= {"content-type": "application/octet-stream", _HEADER_LENGTH: str(len(head))}
    return HttpReply(HTTPStatus.OK, answer_headers, head + images.tobytes())


async def _generate(batcher: Batcher, z: NDArray[Any], label: NDArray[Any] | None) -> NDArray[np.uint8]:
    """Generates the images of latents, uint8 [N, C, H, W]."""
    model = batcher.interface
    if z.ndim != 2 or z.shape[1] != model.latent_dim or not 1 <= len(z) <= model.max_count:
        expected = f"[N, {model.latent_dim}] with N from 1 to {model.max_count}"
        raise InferenceError(HTTPStatus.BAD_REQUEST, f"z: found the shape {list(z.shape)}, expected {expected}")
    if not np.isfinite(z).all():
        raise InferenceError(HTTPStatus.BAD_REQUEST, "z: found NaN or infinity, expected finite values")
    if not model.conditional:
        if label is not None:
            raise InferenceError(HTTPStatus.BAD_REQUEST, "label: this model has no labels: leave the input out")
        return await batcher.generate({"z": z.astype(np.float32)})
    classes = len(model.class_names)
    if label is None or label.reshape(-1).shape != (len(z),) or not ((label >= 0) & (label < classes)).all():
        expected = f"{len(z)} labels from 0 to {classes - 1}, one for each row of z"
        raise InferenceError(HTTPStatus.BAD_REQUEST, f"label: expected {expected}")
    return await batcher.generate({"z": z.astype(np.float32), "label": label.reshape(-1).astype(np.int64)})


def _decode(headers: Mapping[str, str], body: bytes) -> _Inference:
    """Decodes the JSON of a request and the binary tensors after it."""
    length = headers.get(_HEADER_LENGTH)
    if length is not None and (not length.isdecimal() or len(length) > 19 or int(length) > len(body)):
        found = f"{_HEADER_LENGTH}: found {length!r}, expected a number of at most {len(body)}"
        raise InferenceError(HTTPStatus.BAD_REQUEST, found)
    end = int(length) if length is not None else len(body)
    try:
        request = json.loads(body[:end])
        tensors, outputs = request["inputs"], request.get("outputs", [])
        inputs: dict[str, NDArray[Any]] = {}
        for tensor in tensors:
            values, end = _tensor(tensor, body, end)
            if tensor["name"] not in (*_LABELS, *_SCALARS, "z") or tensor["name"] in inputs:
                names = ", ".join((*_LABELS, *_SCALARS, "z"))
                raise ValueError(f"found the input {tensor['name']!r}, expected each of {names} once at most")
            inputs[tensor["name"]] = values
        if [each for each in outputs if each["name"] != "image"]:
            raise ValueError("found other outputs, expected image")
        parameters = outputs[0].get("parameters", {}) if outputs else request.get("parameters", {})
        binary = parameters.get("binary_data", parameters.get("binary_data_output", False))
        identity = request.get("id")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, struct.error) as error:
        raise InferenceError(HTTPStatus.BAD_REQUEST, f"the request: {error!r:.200}") from error
    return _Inference(identity if isinstance(identity, str) else None, inputs, binary is True)


def _tensor(tensor: Json, body: bytes, start: int) -> tuple[NDArray[Any], int]:
    """Returns the values of an input, and where the binary data after them starts."""
    dtype, shape = _DTYPES[tensor["datatype"]], [int(side) for side in tensor["shape"]]
    size = math.prod(shape)
    length = tensor.get("parameters", {}).get("binary_data_size")
    if min(shape, default=1) < 1 or (length is None and len(np.ravel(tensor["data"])) != size):
        raise ValueError(f"{tensor['name']}: found other data than of the shape {shape}")
    if length is None:
        return np.array(tensor["data"], dtype).reshape(shape), start
    end = start + size * np.dtype(dtype).itemsize
    if length != end - start or end > len(body):
        raise ValueError(f"{tensor['name']}: found {length} bytes, expected those of the shape {shape}")
    return np.frombuffer(body[start:end], np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(shape), end


def _problem_text(body: bytes) -> str:
    """Returns the text of a problem of the handler."""
    problem = json.loads(body)
    errors = problem.get("errors", [])
    return "; ".join(f"{error['field']}: {error['detail']}" for error in errors) or str(problem["detail"])


def _json_reply(status: int, record: Json) -> HttpReply:
    return HttpReply(status, {"content-type": _JSON}, json.dumps(record).encode())
