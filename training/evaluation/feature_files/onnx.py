"""ONNX files, run by ONNX Runtime."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ganctl.training.evaluation.feature_files.base import (
    SIZE,
    LoadedNetwork,
    normalize,
    reason,
    resize,
    unusable,
)

_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}
_FEATURE_NAMES = re.compile("pooler|embed|feature", re.IGNORECASE)
_EXPECTED_INPUT = "one of images, uint8, float or float16, [N, 3, height, width] or [N, height, width, 3]"


def recognizes(path: Path) -> bool:
    """Returns whether a file has the name of an ONNX file; the content has no mark."""
    return path.suffix.lower() == ".onnx"


def load(path: Path, device: torch.device) -> LoadedNetwork:
    """Opens a network with one input: uint8 images, or those of `normalize`, in its fixed size or 224 × 224.

    Raises:
        DataError: the file is damaged, or the network has other inputs.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it when it is imported
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    providers = [name for name in [*wanted, "CPUExecutionProvider"] if name in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        further_files = _weight_files(path)
    except Exception as error:  # ONNX Runtime has no base class of its errors
        raise unusable(path, f"no ONNX file that can be run ({reason(error)})", "an intact one") from error
    inputs, outputs = session.get_inputs(), [entry.name for entry in session.get_outputs()]
    input_ = inputs[0]
    if len(inputs) != 1 or input_.type not in _TYPES or not _is_shape_of_images(input_.shape):
        found = ", ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in inputs)
        raise unusable(path, f"found the input{'s' if len(inputs) > 1 else ''} {found}", _EXPECTED_INPUT)
    output = next(filter(_FEATURE_NAMES.search, outputs), outputs[0])
    description = "ONNX" if len(outputs) == 1 else f"ONNX, the output {output} of {', '.join(outputs)}"
    dtype, batch = _TYPES[input_.type], input_.shape[0]
    channels_last = input_.shape[1] != 3 and input_.shape[3] == 3
    height, width = (
        side if isinstance(side, int) else SIZE for side in (input_.shape[1:3] if channels_last else input_.shape[2:])
    )

    def run_batch(images: Tensor) -> Tensor:
        size = (height, width)
        values = resize(images, size).round() if dtype == np.uint8 else normalize(images, size)
        values = values.permute(0, 2, 3, 1).contiguous() if channels_last else values
        return torch.from_numpy(session.run([output], {input_.name: values.cpu().numpy().astype(dtype)})[0])

    def run(images: Tensor) -> object:
        if not isinstance(batch, int):
            return run_batch(images)
        filled = pad(images, (0, 0, 0, 0, 0, 0, 0, -len(images) % batch))
        return torch.cat([run_batch(chunk) for chunk in filled.split(batch)])[: len(images)]

    return LoadedNetwork(run, description, further_files)


def _is_shape_of_images(shape: Sequence[Any]) -> bool:
    """Returns whether a shape, in which a text or None stands for any number, has an axis for three channels."""
    return len(shape) == 4 and (shape[1] == 3 or shape[3] == 3 or not isinstance(shape[1], int))


def _weight_files(path: Path) -> tuple[Path, ...]:
    """Returns the files that hold weights of an ONNX file."""
    import onnx  # here: training imports this module, and does without the package

    model = onnx.load(path, load_external_data=False)
    entries = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    return tuple(path.parent / name for name in sorted({entry.value for entry in entries if entry.key == "location"}))
