"""Refuses model files of another kind than their name says, or that could exhaust the machine, before a load."""

import io
import math
import pickle
import zipfile
from collections.abc import Iterator
from itertools import islice

import onnx
import torch
from google.protobuf.message import DecodeError

from ganctl.exports.errors import ExportError

_MAX_BYTES = 1 << 30
_MAX_NODES = 100_000
_CONTROL_FLOW = {"Loop", "Scan", "If", "SequenceMap"}  # no generator needs it, and it can run without an end
_MAX_VALUES = 1 << 28  # of a tensor, per image
_GRAPH, _NODE = 7, 1  # fields of ModelProto and GraphProto
_LENGTH_DELIMITED = 2  # a wire type of Protocol Buffers
_REMEDY = "Do not use this file; export again from the checkpoint"


def check_file(name: str, content: bytes) -> None:
    """Checks a model file of an export.

    Args:
        name: the file name; its suffix tells the format.
        content: the bytes of the file.

    Raises:
        ExportError: the file is refused; the message says why.
    """
    if len(content) > _MAX_BYTES:
        raise ExportError(f"{name}: found {len(content):,} bytes, expected at most {_MAX_BYTES:,}. {_REMEDY}")
    if name.endswith(".onnx"):
        _check_onnx(name, content)
    elif name.endswith(".ts"):
        _check_torchscript(name, content)
    elif name.endswith(".pt2"):
        _check_pt2(name, content)


def _check_onnx(name: str, content: bytes) -> None:
    try:
        nodes = sum(1 for _ in islice(_nodes(content), _MAX_NODES + 1))
        if nodes <= _MAX_NODES:
            model = onnx.load_model_from_string(content)
    except (DecodeError, ValueError) as error:
        raise _invalid_onnx(name, error) from error
    if nodes > _MAX_NODES:
        raise ExportError(f"{name}: found over {_MAX_NODES:,} nodes, expected a generator. {_REMEDY}")
    foreign = {node.op_type for node in model.graph.node} & _CONTROL_FLOW
    foreign |= {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    foreign |= {function.name for function in model.functions}
    if foreign:
        found = ", ".join(sorted(foreign))
        raise ExportError(f"{name}: found {found}, expected operators of ONNX without control flow. {_REMEDY}")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise ExportError(f"{name}: found weights in another file, expected one file. {_REMEDY}")
    try:
        onnx.checker.check_model(model)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise _invalid_onnx(name, error) from error
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        size = math.prod(max(dimension.dim_value, 1) for dimension in value.type.tensor_type.shape.dim)
        if size > _MAX_VALUES:
            raise ExportError(f"{name}: found a tensor of {size:,} values, expected at most {_MAX_VALUES:,}. {_REMEDY}")


def _invalid_onnx(name: str, error: Exception) -> ExportError:
    return ExportError(f"{name}: is no valid ONNX model ({_first_line(error)}). {_REMEDY}")


def _nodes(content: bytes) -> Iterator[memoryview]:
    """Yields the nodes of an ONNX graph without decoding them: a decoded graph takes many times its bytes."""
    for number, graph in _fields(memoryview(content)):
        if number == _GRAPH:
            yield from (value for field, value in _fields(graph) if field == _NODE)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yields the number and the bytes of each length-delimited field of a Protocol Buffers message.

    Source: protobuf.dev, "Encoding".

    Raises:
        ValueError: the message ends within a field.
    """
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind, size = tag & 7, 0
        if kind == _LENGTH_DELIMITED:
            size, position = _varint(message, position)
        elif kind == 0:
            _, position = _varint(message, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"unknown wire type {kind}")
        if position + size > len(message):
            raise ValueError("the file is cut off")
        if kind == _LENGTH_DELIMITED:
            yield tag >> 3, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Returns the integer at a position, and the position after it."""
    value = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        value, position, shift = value | (byte & 127) << shift, position + 1, shift + 7
        if byte < 128:
            return value, position
    raise ValueError("the file is cut off")


def _check_torchscript(name: str, content: bytes) -> None:
    members = _members(name, content)
    if not any("/code/" in member for member in members) or not any(m.endswith("/constants.pkl") for m in members):
        raise ExportError(f"{name}: found a file of another kind, expected TorchScript. {_REMEDY}")


def _check_pt2(name: str, content: bytes) -> None:
    """Loads the pickles in the file without running code: torch.export.load would run them."""
    members = _members(name, content)
    if not any(member.endswith("/models/model.json") for member in members):
        raise ExportError(f"{name}: found a file of another kind, expected PT2. {_REMEDY}")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in members:
            if member.endswith((".pt", ".pkl", ".pickle")):
                try:
                    torch.load(io.BytesIO(archive.read(member)), weights_only=True)
                except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
                    found = f"found a pickle that is no tensor in {member} ({_first_line(error)})"
                    raise ExportError(f"{name}: {found}. {_REMEDY}") from error


def _members(name: str, content: bytes) -> list[str]:
    """Returns the names of the members of a zip file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > _MAX_BYTES:
                raise ExportError(f"{name}: found {size:,} bytes unpacked, expected at most {_MAX_BYTES:,}. {_REMEDY}")
            return archive.namelist()
    except zipfile.BadZipFile as error:
        raise ExportError(f"{name}: is no valid file of its kind ({_first_line(error)}). {_REMEDY}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
