"""ONNX format: one file for ONNX Runtime, with the upsampling of the convolutional generator rewritten for speed."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from ganctl.exports.formats.base import export_program, hide_exporter_warnings
from ganctl.exports.formats.onnx_rewrite import rewrite_upsampling
from ganctl.training.models.base import Generator

OPSET = 18  # the lowest that PyTorch's exporter writes
_IR_VERSION = 8  # the lowest that allows this opset; runtimes refuse a newer one than they know


def write(generator: Generator, metadata: Mapping[str, str]) -> bytes:
    """Writes an ONNX model; see `Format`."""
    return serialize(build(generator), metadata)


def build(generator: Generator) -> onnx.ModelProto:
    """Converts a generator in evaluation mode to an ONNX graph.

    The exporter's notes are deleted: they hold stack traces with the paths of this machine.
    """
    with hide_exporter_warnings():
        exported = torch.onnx.export(
            export_program(rewrite_upsampling(generator)),
            input_names=["z", "label"] if generator.conditional else ["z"],
            output_names=["image"],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert exported is not None, "dynamo=True returns a program"
        model: onnx.ModelProto = exported.model_proto
    model.ir_version = _IR_VERSION
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    for part in (model, graph, *graph.node, *graph.initializer, *values):
        part.ClearField("metadata_props")
    for value in values:
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:  # the exporter's name of the only dynamic size
                size.dim_param = "N"
    return model


def serialize(model: onnx.ModelProto, metadata: Mapping[str, str]) -> bytes:
    """Adds `metadata` to a model, checks the model, and returns its bytes."""
    for name, value in metadata.items():
        model.metadata_props.add(key=name, value=value)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def load(content: bytes, threads: int = 0) -> Callable[..., Tensor]:
    """Loads the file in ONNX Runtime on the CPU; see `Format`. `threads` 0 means one for each core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(np.asarray(session.run(None, feed)[0]))

    return run
