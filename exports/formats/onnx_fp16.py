"""ONNX file with float16 weights and float32 arithmetic: half the size, the speed of the float32 file on a CPU.

Arithmetic in float16 would be slower: ONNX Runtime has no float16 kernels for most operators on x86 CPUs, and converts
the values before and after each one.
"""

from collections.abc import Mapping

from ganctl.exports.formats import onnx
from ganctl.exports.formats.onnx_weights import store_as_float16
from ganctl.training.models.base import Generator

load = onnx.load


def write(generator: Generator, metadata: Mapping[str, str]) -> bytes:
    """Writes an ONNX model with float16 weights; see `Format`."""
    model = onnx.build(generator)
    store_as_float16(model)
    return onnx.serialize(model, metadata)
