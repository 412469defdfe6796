"""Runs a generator so that an image's bytes never depend on the other images of its batch.

Matrix products may round differently for another number of rows, because a library chooses its kernel by shape. A
batch is therefore cut into chunks of at most 32 rows. A chunk size is used only if, in a test when the model is loaded,
it gives exactly the floats of the largest size, at every position in the chunk. With ONNX Runtime all sizes pass on the
machines tried. With TorchScript, sizes below four fail, as oneDNN uses another kernel; they are padded to four rows.
On a GPU, few sizes are tried, as each is a CUDA graph (`cuda.py`).
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import cuda
from .common.latents import draw_labels, latents
from .common.pixels import to_uint8
from .model import Model
from .torchscript import fixed_kernels, load_module

CHUNKS = tuple(range(1, 33))  # candidate chunk sizes on a CPU; larger ones are not faster

Floats = NDArray[np.float32]
Inputs = dict[str, NDArray[Any]]  # `z`, float32 [N, latent_dim], and `label`, int64 [N], for a conditional model
Backend = Callable[[Inputs], Floats]  # a loaded generator; it returns images, float32 [N, C, H, W]


def _load_onnx(path: Path) -> Backend:
    """Load a model into ONNX Runtime on one thread: the workers share the cores, and threads would wait."""
    # ONNX Runtime 1.32 sends usage data to its maker unless this is set before the import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0]


def _load_torchscript(path: Path) -> Backend:
    """Load a TorchScript file on the CPU, on one thread, as for `_load_onnx`."""
    import torch

    torch.set_num_threads(1)
    module = load_module(path, "cpu")

    def run(inputs: Inputs) -> Floats:
        with fixed_kernels():
            images: Floats = module(*map(torch.from_numpy, inputs.values())).numpy()
            return images

    return run


BACKENDS: dict[str, Callable[[Path], Backend]] = {
    "onnx": _load_onnx,
    "onnx-fp16": _load_onnx,
    "onnx-int8": _load_onnx,
    "torchscript": _load_torchscript,
}


class Engine:
    """Generates any number of images with a backend, in chunks.

    `sizes` are the chunk sizes whose results were equal when the model was loaded, ascending. `device` is `cpu`, or the
    name of the GPU.
    """

    def __init__(self, backend: Backend, model: Model, *, sizes: Sequence[int] = CHUNKS, device: str = "cpu") -> None:
        """Test which of the candidate `sizes`, ascending, give equal images."""
        self._backend, self.device = backend, device
        self.sizes = self._check_sizes(model, sizes)

    @classmethod
    def load(cls, backend: str, path: Path, model: Model, environment: Mapping[str, str]) -> "Engine":
        """Load the model file of a backend onto the device that the environment asks for.

        Raises:
            ValueError: that device cannot run the model, or the model does not fit its manifest.
        """
        if (gpu := cuda.find_gpu(environment, backend)) is not None:
            return cls(cuda.load_torchscript(path), model, sizes=cuda.CHUNKS, device=gpu)
        return cls(BACKENDS[backend](path), model)

    def generate(self, inputs: Inputs) -> NDArray[np.uint8]:
        """Generate images, uint8 [N, H, W, C]."""
        images = [to_uint8(chunk).transpose(0, 2, 3, 1) for chunk in self._run(inputs, self.sizes)]
        return images[0] if len(images) == 1 else np.concatenate(images)

    def _run(self, inputs: Inputs, sizes: Sequence[int]) -> Iterator[Floats]:
        """Run the backend on chunks of the given sizes; yields the images of each chunk, float32 [N, C, H, W]."""
        count, start = len(inputs["z"]), 0
        while start < count:
            size = sizes[max(0, bisect_right(sizes, count - start) - 1)]  # the largest that can be filled
            chunk = {name: _pad(rows[start : start + size], size) for name, rows in inputs.items()}
            yield self._backend(chunk)[: count - start]
            start += size

    def _check_sizes(self, model: Model, sizes: Sequence[int]) -> tuple[int, ...]:
        """Those of `sizes` that give the same floats as the largest one.

        Raises:
            ValueError: the model's output differs from its manifest, or is not finite.
        """
        largest = sizes[-1]
        inputs: Inputs = {"z": latents(0, largest, model.latent_dim)}
        if model.conditional:
            inputs["label"] = draw_labels(0, largest, len(model.class_names))
        reference = self._backend(inputs)
        expected = (largest, model.channels, model.height, model.width)
        if reference.shape != expected or reference.dtype != np.float32:
            raise ValueError(f"model output: found {reference.dtype} {reference.shape}, expected float32 {expected}")
        if not np.isfinite(reference).all():
            raise ValueError("model output: found NaN or infinity, expected finite values")
        rolled = self._backend({name: np.roll(rows, 1, axis=0) for name, rows in inputs.items()})
        if not np.array_equal(rolled, np.roll(reference, 1, axis=0)):
            return (1,)  # the result depends on the position in the chunk, so one image at a time: slow but exact
        return tuple(size for size in sizes if np.array_equal(np.concatenate([*self._run(inputs, [size])]), reference))


def _pad(rows: NDArray[Any], size: int) -> NDArray[Any]:
    """Append rows of zeros up to `size` rows."""
    missing = size - len(rows)
    return np.concatenate((rows, np.zeros((missing, *rows.shape[1:]), rows.dtype))) if missing else rows
