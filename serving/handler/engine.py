"""Runs a generator so that an image's bytes never depend on the other images of its batch.

Matrix products may round differently for another number of rows, because a library chooses its kernel by shape. A
batch is therefore cut into chunks of at most 32 rows. A chunk size is used only if, in a test when the model is loaded,
it gives exactly the floats of the largest size, at every position in the chunk. With ONNX Runtime all sizes pass on the
machines tried. With TorchScript, sizes below four fail, as oneDNN uses another kernel; they are padded to four rows.
"""

import os
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .common.latents import draw_labels, latents
from .common.pixels import to_uint8
from .model import Model

CHUNKS = tuple(range(1, 33))  # candidate chunk sizes; larger ones are not faster

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


class Backend(Protocol):
    """A loaded generator."""

    def run(self, z: Floats, label: Labels | None) -> Floats:
        """Generate images, float32 [N, C, H, W].

        Args:
            z: latents, float32 [N, latent_dim].
            label: int64 [N]; None for an unconditional model.
        """


class OnnxBackend:
    """ONNX Runtime on one thread, as the workers share the cores and more threads would wait for each other."""

    def __init__(self, path: Path) -> None:
        # ONNX Runtime 1.32 sends usage data to its maker unless this is set before the import.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(self, z: Floats, label: Labels | None) -> Floats:
        """See `Backend.run`."""
        inputs = {"z": z} if label is None else {"z": z, "label": label}
        images: Floats = self._session.run(None, inputs)[0]
        return images


class TorchScriptBackend:
    """TorchScript on one thread, as for `OnnxBackend`."""

    def __init__(self, path: Path) -> None:
        import warnings

        import torch

        torch.set_num_threads(1)
        with warnings.catch_warnings():  # TorchScript is deprecated, but works; each worker would log the warning
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            self._module = torch.jit.load(str(path), map_location="cpu").eval()
        self._torch = torch

    def run(self, z: Floats, label: Labels | None) -> Floats:
        """See `Backend.run`."""
        torch = self._torch
        # The optimizing executor would replace the kernels after the first runs, which changes the rounding.
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            inputs = [torch.from_numpy(z)] if label is None else [torch.from_numpy(z), torch.from_numpy(label)]
            images: Floats = self._module(*inputs).numpy()
            return images


BACKENDS: dict[str, Callable[[Path], Backend]] = {"onnx": OnnxBackend, "torchscript": TorchScriptBackend}


class Engine:
    """Generates any number of images with a back-end, in chunks.

    `sizes` are the chunk sizes whose results were equal when the model was loaded, ascending.
    """

    def __init__(self, backend: Backend, model: Model) -> None:
        self._backend = backend
        self._model = model
        self.sizes = self._check_sizes()

    def generate(self, z: Floats, label: Labels | None) -> NDArray[np.uint8]:
        """Generate images, uint8 [N, H, W, C].

        Args:
            z: latents, float32 [N, latent_dim].
            label: int64 [N]; None for an unconditional model.
        """
        count, start = len(z), 0
        images: list[NDArray[np.uint8]] = []
        while start < count:
            size = self.sizes[max(0, bisect_right(self.sizes, count - start) - 1)]  # the largest that can be filled
            stop = min(start + size, count)
            chunk = self._run(z[start:stop], None if label is None else label[start:stop], size)
            images.append(to_uint8(chunk).transpose(0, 2, 3, 1))
            start = stop
        return images[0] if len(images) == 1 else np.concatenate(images)

    def _run(self, z: Floats, label: Labels | None, size: int) -> Floats:
        """Run a chunk padded with zeros to `size` rows; returns the images without padding, float32 [N, C, H, W]."""
        padding = size - len(z)
        if padding:
            z = np.concatenate((z, np.zeros((padding, z.shape[1]), np.float32)))
            label = None if label is None else np.concatenate((label, np.zeros(padding, np.int64)))
        return self._backend.run(z, label)[: size - padding]

    def _check_sizes(self) -> tuple[int, ...]:
        """The chunk sizes that give the same floats as the largest one.

        Raises:
            ValueError: the model's output differs from its manifest, or is not finite.
        """
        model, largest = self._model, CHUNKS[-1]
        z = latents(0, largest, model.latent_dim)
        label = draw_labels(0, largest, len(model.class_names)) if model.conditional else None
        reference = self._run(z, label, largest)
        expected = (largest, model.channels, model.height, model.width)
        if reference.shape != expected or reference.dtype != np.float32:
            raise ValueError(f"model output: found {reference.dtype} {reference.shape}, expected float32 {expected}")
        if not np.isfinite(reference).all():
            raise ValueError("model output: found NaN or infinity, expected finite values")
        order = np.roll(np.arange(largest), 1)
        rolled = self._run(z[order], None if label is None else label[order], largest)
        if not np.array_equal(rolled, reference[order]):
            return (1,)  # the result depends on the position in the chunk, so one image at a time: slow but exact
        return tuple(size for size in CHUNKS if self._equals(size, z, label, reference))

    def _equals(self, size: int, z: Floats, label: Labels | None, reference: Floats) -> bool:
        """Returns whether chunks of this size give exactly `reference`."""
        for start in range(0, len(z), size):
            part = slice(start, start + size)
            if not np.array_equal(self._run(z[part], None if label is None else label[part], size), reference[part]):
                return False
        return True
