"""ONNX file with int8 weights and, in the layers with most of the work, int8 arithmetic: a quarter of the size.

Static quantization with quantize-dequantize nodes (QDQ): int8 weights with a scale for each output channel, uint8
activations with a scale for each tensor. Weights have 7 bits ("reduced range"), as the kernels of CPUs without VNNI add
pairs of products in 16 bits, which 8 bits would overflow: the images would depend on the CPU.

Dense layers with little work keep float32 arithmetic, with int8 weights: their inputs are the latents, whose rounding
errors all later layers amplify. See docs/experiments/int8.md for what each choice is worth.
"""

import logging
import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import compress
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, load_model, numpy_helper, shape_inference
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from ganctl.exports.errors import ExportError
from ganctl.exports.formats import onnx
from ganctl.exports.formats.base import example_inputs
from ganctl.exports.formats.onnx_weights import store_as_int8
from ganctl.training.models.base import Generator

load = onnx.load

_IMAGES = 256  # for the calibration; fewer if they are large
_VALUES = 1 << 20  # of all these images
_SEED = 2026  # of their latents: not those that the images are scored on
_LITTLE_WORK = 1 / 4  # dense layers with a smaller share of the work of the largest layer keep float32 arithmetic
_SHARES = (1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.2)  # of the range of all values that are tried as the range of a tensor
_UINT8_STEPS = 255

Feed = dict[str, NDArray[Any]]


def write(generator: Generator, metadata: Mapping[str, str]) -> bytes:
    """Writes a quantized ONNX model; see `Format`."""
    model = onnx.build(generator)
    names = ["z", "label"] if generator.conditional else ["z"]
    layers, small = _split_layers(model)
    if not layers:
        raise ExportError("--quantize int8: found no convolution or dense layer to compute in int8. Export without it")
    images = max(16, min(_IMAGES, _VALUES // generator.shape.size))
    feed = {n: t.numpy() for n, t in zip(names, example_inputs(generator, images, seed=_SEED), strict=True)}
    expected = _session(model).run(None, feed)[0]
    quantized = _quantize(model, layers, feed, {})
    ranges = _search_ranges(quantized, feed, expected)
    quantized = _quantize(model, layers, feed, ranges)
    store_as_int8(quantized, {node.input[1] for node in small})
    del quantized.metadata_props[:]
    return onnx.serialize(quantized, metadata)


def _split_layers(model: ModelProto) -> tuple[list[NodeProto], list[NodeProto]]:
    """Returns the layers for int8 (convolutions, and dense layers with much work), and the other dense layers."""
    inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in inferred.graph.value_info
    }
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in ("Gemm", "Conv") and node.input[1] in sizes]
    # multiplications: each weight is used once at each position of a convolution's output, and once in a dense layer
    work = [sizes[node.input[1]] * math.prod(shapes[node.output[0]][2:]) for node in layers]
    large = [node.op_type == "Conv" or w >= max(work) * _LITTLE_WORK for node, w in zip(layers, work, strict=True)]
    return list(compress(layers, large)), [node for node, is_large in zip(layers, large, strict=True) if not is_large]


def _quantize(model: ModelProto, layers: list[NodeProto], feed: Feed, ranges: Mapping[str, Any]) -> ModelProto:
    """Quantizes the given layers; `ranges` maps tensors to overrides of the range of their values."""
    with tempfile.TemporaryDirectory() as folder, _without_advice():
        file = Path(folder) / "quantized.onnx"
        quantize_static(
            _copy(model),  # the quantizer changes it
            file,
            _OneBatch(feed),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=[node.name for node in layers],
            op_types_to_quantize=["Gemm", "Conv"],
            extra_options={
                "OpTypesToExcludeOutputQuantization": ["Gemm"],  # its kernel returns float32
                "TensorQuantOverrides": dict(ranges),
            },
        )
        return load_model(file)


class _OneBatch(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types, so the base is Any
    """Gives the quantizer one batch of inputs."""

    def __init__(self, feed: Feed) -> None:
        self._batches = iter([feed])

    def get_next(self) -> Feed | None:
        return next(self._batches, None)


def _search_ranges(model: ModelProto, feed: Feed, expected: NDArray[np.float32]) -> dict[str, Any]:
    """Chooses the range of each activation by the error of the images: first its upper end, then its lower end.

    A narrower range cuts the rare large values and rounds all others to finer steps.

    Args:
        model: a quantized model, with the ranges of all values.
        feed: inputs.
        expected: images of the float32 model, float32 [N, C, H, W].

    Returns:
        overrides of `quantize_static`, by tensor.
    """
    tensors = {n.input[0]: (n.input[1], n.input[2]) for n in model.graph.node if n.op_type == "QuantizeLinear"}
    initial = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    chosen = {tensor: (initial[scale], initial[zero]) for tensor, (scale, zero) in tensors.items()}
    session = _session(_with_variable_ranges(model, [name for pair in tensors.values() for name in pair]))

    def error(values: Mapping[str, tuple[Any, Any]]) -> float:
        given = {name: value for t, pair in values.items() for name, value in zip(tensors[t], pair, strict=True)}
        return float(np.square(session.run(None, feed | given)[0] - expected).mean())

    for tensor, (scale, zero) in chosen.items():
        low, high = -float(zero) * float(scale), (_UINT8_STEPS - float(zero)) * float(scale)
        for end in ("high", "low"):
            best = math.inf, chosen[tensor], low, high
            for share in _SHARES:
                ends = (low, high * share) if end == "high" else (low * share, high)
                parameters = _parameters(*ends)
                best = min(best, (error(chosen | {tensor: parameters}), parameters, *ends), key=itemgetter(0))
            _, chosen[tensor], low, high = best
    return {tensor: [{"scale": scale, "zero_point": zero}] for tensor, (scale, zero) in chosen.items()}


def _parameters(low: float, high: float) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Returns scale and zero point of the range from `low` ≤ 0 to `high` ≥ 0, so that 0 is exact."""
    scale = max((high - low) / _UINT8_STEPS, float(np.finfo(np.float32).tiny))
    return np.array(scale, np.float32), np.array(np.clip(np.rint(-low / scale), 0, _UINT8_STEPS), np.uint8)


def _with_variable_ranges(model: ModelProto, names: list[str]) -> ModelProto:
    """Copies a model, with the constants in `names` as inputs that have these values unless others are given."""
    copy = _copy(model)
    types = {tensor.name: tensor.data_type for tensor in copy.graph.initializer}
    for name in names:
        copy.graph.input.append(helper.make_tensor_value_info(name, types[name], []))
    return copy


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _session(model: ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: constants as inputs are meant
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@contextmanager
def _without_advice() -> Iterator[None]:
    """Hides the advice of the quantizer to infer shapes and to fuse nodes before: there is nothing left to fuse."""
    logger = logging.getLogger()
    logger.addFilter(_is_no_advice)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_advice)


def _is_no_advice(record: logging.LogRecord) -> bool:
    return "pre-processing" not in record.getMessage()
