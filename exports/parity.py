"""Whether an artefact draws what the eager generator draws, measured at several batch sizes."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from ganctl.exports.errors import ParityError
from ganctl.exports.formats import Drawer, example_inputs
from ganctl.training.models.networks import Generator
from ganctl.training.utils.atomic_write import read_file

SIZES = (1, 2, 3, 7, 64, 256)
TOLERANCE = 1e-5  # of float32 images in [0, 1]

Run = Callable[..., Tensor]  # z, and where conditional label → image


def load(path: Path, kind: str) -> Run:
    """An artefact as a function on tensors, in the runtime that its users have."""
    content = read_file(path)  # the runtimes' own errors of reading have no form
    if kind == "onnx":
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]

        def run(*inputs: Tensor) -> Tensor:
            feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
            return torch.from_numpy(np.asarray(session.run(None, feed)[0]))

        return run
    if kind == "torchscript":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*")
            script: Run = torch.jit.load(io.BytesIO(content))
            return script
    assert kind == "pt2", kind
    program: Run = torch.export.load(io.BytesIO(content)).module()
    return program


@torch.inference_mode()
def measure(path: Path, kind: str, generator: Generator) -> dict[int, float]:
    """The largest absolute difference between artefact and eager generator, for each batch size.

    Raises:
        ParityError: it is above TOLERANCE, or not a number, at any size.
    """
    run, eager = load(path, kind), Drawer(generator).eval()
    differences = {}
    for n in SIZES:
        inputs = example_inputs(generator, n, seed=n)
        expected, found = eager(*inputs), run(*inputs)
        if found.shape != expected.shape:
            raise ParityError(
                f"{path.name}: gives {tuple(found.shape)} for {n} images, expected {tuple(expected.shape)}"
            )
        differences[n] = (found - expected).abs().max().item()
        if not differences[n] <= TOLERANCE:  # written so that NaN fails, too
            raise ParityError(
                f"{path.name}: differs from the checkpoint's generator by {differences[n]:.2e} at N = {n}, expected at"
                f" most {TOLERANCE:.0e}; nothing was exported. Try another --format, and report it with these versions"
            )
    return differences
