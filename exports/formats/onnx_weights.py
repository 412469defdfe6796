"""Stores weights of an ONNX graph in fewer bytes; runtimes expand them to float32 when they load the file.

The arithmetic stays float32. The expansion is a Cast, and a Mul for int8, of constants. ONNX Runtime computes both
once, when it loads the file ("constant folding"), so that the file is as fast as one of float32 weights.
"""

from collections.abc import Collection

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_MIN_VALUES = 256  # smaller tensors, such as biases, stay float32
_MAX_FLOAT16 = float(np.finfo(np.float16).max)


def store_as_float16(model: onnx.ModelProto) -> None:
    """Stores all float32 weights as float16, except small tensors and those that float16 cannot hold."""
    for weight in _float32_weights(model):
        values = numpy_helper.to_array(weight)
        if np.abs(values).max() <= _MAX_FLOAT16:
            expanded = weight.name
            weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{expanded}.float16"))
            _insert(model, helper.make_node("Cast", [weight.name], [expanded], to=TensorProto.FLOAT))


def store_as_int8(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Stores the float32 weights in `names` as int8 with a scale for each row (the first axis), symmetric.

    w ≈ scale · q, q = round(w / scale) in [−127, 127] (Nagel et al. 2021, arXiv:2106.08295, section 2.2).
    """
    for weight in _float32_weights(model):
        if weight.name in names:
            expanded = weight.name
            scale, values = quantize_rows(numpy_helper.to_array(weight))
            weight.CopyFrom(numpy_helper.from_array(values, f"{expanded}.int8"))
            model.graph.initializer.append(numpy_helper.from_array(scale, f"{expanded}.scale"))
            _insert(model, helper.make_node("Mul", [f"{expanded}.cast", f"{expanded}.scale"], [expanded]))
            _insert(model, helper.make_node("Cast", [weight.name], [f"{expanded}.cast"], to=TensorProto.FLOAT))


def quantize_rows(weight: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Returns the scale of each row, of shape [rows, 1, …], and the int8 values; see `store_as_int8`."""
    largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return scale, np.rint(weight / scale).astype(np.int8)


def _float32_weights(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    found = (tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT)
    return [tensor for tensor in found if np.prod(tensor.dims) >= _MIN_VALUES]


def _insert(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """Inserts a node at the start of the graph: it reads constants only."""
    model.graph.node.insert(0, node)
