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

OPSET = 20


def write(generator: Generator, metadata: Mapping[str, str]) -> bytes:
    """Writes an ONNX model; see `Format`."""
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
        model = exported.model_proto
        for name, value in metadata.items():
            model.metadata_props.add(key=name, value=value)
        onnx.checker.check_model(model, full_check=True)
        content: bytes = model.SerializeToString(deterministic=True)
    return content


def load(content: bytes) -> Callable[..., Tensor]:
    """Loads the file in ONNX Runtime on the CPU; see `Format`."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(np.asarray(session.run(None, feed)[0]))

    return run
