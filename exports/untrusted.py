"""Refuses model files of other people that could run code or exhaust the machine, before they are loaded.

ONNX and TorchScript files are accepted if they hold what a generator needs: tensors, and operators without control flow
that read and write tensors only. A PT2 file is code: torch evaluates text and pickles that are in it.
"""

import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice

import onnx
from google.protobuf.message import DecodeError

from ganctl.exports.errors import ExportError

_MAX_BYTES = 1 << 30
_MAX_PARTS = 100_000  # nodes, weights and descriptions of values
_MAX_VALUES = 1 << 24  # of a tensor, per image
_CONTROL_FLOW = {"Loop", "Scan", "If", "SequenceMap"}  # no generator needs it, and it can run without an end
# their output can be larger than their inputs by any factor, which a value may decide
_SIZED_BY_VALUES = {"ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Resize", "Tile", "Upsample"}
_GRAPH = 7  # field of ModelProto
_LENGTH_DELIMITED = 2  # a wire type of Protocol Buffers
_REMEDY = "Do not use this file; export again from the checkpoint"

_CALL = re.compile(r"([A-Za-z_][\w.]*)\s*\(")
_CLASS = re.compile(r"^class (\w+)\(Module\)", re.MULTILINE)
_LOOP = re.compile(r"\b(while|for)\b")
_TORCH_OPERATORS = {
    "_convolution", "abs", "adaptive_avg_pool2d", "add", "addcmul", "addmm", "avg_pool2d", "batch_norm", "bmm", "cat",
    "chunk", "clamp", "conv2d", "conv_transpose2d", "cos", "div", "elu", "embedding", "exp", "expand", "flatten",
    "gelu", "group_norm", "hardtanh", "instance_norm", "layer_norm", "leaky_relu", "linear", "matmul", "max_pool2d",
    "mean", "mul", "narrow", "neg", "pad", "permute", "pixel_shuffle", "pow", "relu", "reshape", "rsqrt", "select",
    "sigmoid", "size", "silu", "sin", "slice", "softmax", "softplus", "sqrt", "squeeze", "stack", "sub", "sum", "tanh",
    "transpose", "unflatten", "unsqueeze", "upsample_bicubic2d", "upsample_bilinear2d", "upsample_nearest2d", "var",
    "view", "where",
}  # fmt: skip
_FUNCTIONS = {"annotate", "bool", "float", "forward", "int"}


def check_file(name: str, content: bytes, inputs: Sequence[str]) -> None:
    """Checks a model file of an export.

    Args:
        name: the file name; its suffix tells the format.
        content: the bytes of the file.
        inputs: names of the inputs, by the manifest.

    Raises:
        ExportError: the file is refused; the message says why.
    """
    if len(content) > _MAX_BYTES:
        raise ExportError(f"{name}: found {len(content):,} bytes, expected at most {_MAX_BYTES:,}. {_REMEDY}")
    if name.endswith(".onnx"):
        _check_onnx(name, content, inputs)
    elif name.endswith(".ts"):
        _check_torchscript(name, content)
    else:
        raise ExportError(
            f"{name}: found a PT2 file, which can run code when it is loaded, expected ONNX or TorchScript. Export"
            " again with --format onnx, or load it by torch.export.load if you trust its author"
        )


def _check_onnx(name: str, content: bytes, inputs: Sequence[str]) -> None:
    try:
        parts = sum(1 for _ in islice(_parts(content), _MAX_PARTS + 1))
        if parts <= _MAX_PARTS:
            model = onnx.load_model_from_string(content)
    except (DecodeError, ValueError) as error:
        raise _invalid_onnx(name, error) from error
    if parts > _MAX_PARTS:
        raise ExportError(f"{name}: found over {_MAX_PARTS:,} nodes and weights, expected a generator. {_REMEDY}")
    graph = model.graph
    foreign = {node.op_type for node in graph.node} & _CONTROL_FLOW
    foreign |= {node.domain for node in graph.node} - {"", "ai.onnx"}
    foreign |= {function.name for function in model.functions}
    if foreign:
        found = ", ".join(sorted(foreign))
        raise ExportError(f"{name}: found {found}, expected operators of ONNX without control flow. {_REMEDY}")
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    tensors = [*graph.initializer, *(a.t for a in attributes), *(t for a in attributes for t in a.tensors)]
    is_sparse = graph.sparse_initializer or any(a.HasField("sparse_tensor") or a.sparse_tensors for a in attributes)
    if is_sparse or any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
        raise ExportError(f"{name}: found sparse weights, or weights in another file, expected neither. {_REMEDY}")
    found_names = [value.name for value in graph.input], [value.name for value in graph.output]
    if found_names != ([*inputs], ["image"]):
        raise ExportError(
            f"{name}: found inputs and outputs {found_names}, expected {[*inputs]} and ['image']. {_REMEDY}"
        )
    try:
        onnx.checker.check_model(model)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise _invalid_onnx(name, error) from error
    _check_sizes(name, inferred.graph)


def _check_sizes(name: str, graph: onnx.GraphProto) -> None:
    """Refuses tensors that are too large, or whose size a value decides when the model runs; N is free."""
    values = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
    free = {size.dim_param for value in graph.input for size in value.type.tensor_type.shape.dim} - {""}
    for kind, output in ((node.op_type, output) for node in graph.node for output in node.output if output):
        shape = values[output].shape.dim if output in values and values[output].HasField("shape") else []
        is_known = len(shape) and all(size.dim_value or size.dim_param in free for size in shape)
        if kind in _SIZED_BY_VALUES and not is_known:
            raise ExportError(
                f"{name}: found a tensor of unknown size ({output}), expected fixed sizes but N. {_REMEDY}"
            )
        size = math.prod(max(dimension.dim_value, 1) for dimension in shape)
        if size > _MAX_VALUES:
            raise ExportError(f"{name}: found a tensor of {size:,} values, expected at most {_MAX_VALUES:,}. {_REMEDY}")


def _invalid_onnx(name: str, error: Exception) -> ExportError:
    return ExportError(f"{name}: is no valid ONNX model ({_first_line(error)}). {_REMEDY}")


def _parts(content: bytes) -> Iterator[int]:
    """Yields for each part of an ONNX graph, without decoding them: decoded parts take many times their bytes."""
    for number, graph in _fields(memoryview(content)):
        yield number
        if number == _GRAPH:
            yield from (field for field, _ in _fields(graph))


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
    """Refuses TorchScript with other operators than those of networks: some read and write files."""
    code = "\n".join(_read_code(name, content))
    known = _FUNCTIONS | set(_CLASS.findall(code)) | {f"torch.{each}" for each in _TORCH_OPERATORS}
    called = {call for call in _CALL.findall(code) if call not in known and not call.endswith(".forward")}
    called |= set(_LOOP.findall(code))
    if called:
        found = ", ".join(sorted(called))[:200]
        raise ExportError(f"{name}: found {found}, expected the operators of networks alone. {_REMEDY}")


def _read_code(name: str, content: bytes) -> list[str]:
    """Returns the source files in a TorchScript file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > _MAX_BYTES:
                raise ExportError(f"{name}: found {size:,} bytes unpacked, expected at most {_MAX_BYTES:,}. {_REMEDY}")
            names = archive.namelist()
            if not any(member.endswith("/constants.pkl") for member in names):
                raise ExportError(f"{name}: found a file of another kind, expected TorchScript. {_REMEDY}")
            code = [archive.read(member).decode() for member in names if "/code/" in member and member.endswith(".py")]
    # zipfile raises RuntimeError for encryption and unknown compressions, zlib.error and EOFError for damaged members
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, UnicodeDecodeError) as error:
        raise ExportError(f"{name}: is no valid TorchScript file ({_first_line(error)}). {_REMEDY}") from error
    if not code:
        raise ExportError(f"{name}: found a file of another kind, expected TorchScript. {_REMEDY}")
    return code


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
