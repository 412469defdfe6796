"""Runs a generator so that an image's bytes never depend on what else is drawn with it.

Matrix products may round differently with the number of rows: a library picks its kernels by shape. So a batch is cut
into chunks of at most 32 rows, and a size is used only if it gave, when the model was loaded, bit for bit the floats
that the largest size gave, at every place of the chunk. ONNX Runtime passes with all sizes on the machines tried;
TorchScript fails below four rows, where oneDNN takes another path, and is then padded to four.
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

CHUNKS = tuple(range(1, 33))  # more rows at once are not faster

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


class Backend(Protocol):
    """A loaded generator: z float32 [N, latent_dim], label int64 [N] (None where unconditional) → float32 [N, C, H,
    W]."""

    def run(self, z: Floats, label: Labels | None) -> Floats: ...


class OnnxBackend:
    """ONNX Runtime on one thread: workers share the cores, so that more threads would only wait for each other."""

    def __init__(self, path: Path) -> None:
        # ONNX Runtime of 1.32 sends usage data to its maker unless told before it is imported.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(self, z: Floats, label: Labels | None) -> Floats:
        inputs = {"z": z} if label is None else {"z": z, "label": label}
        images: Floats = self._session.run(None, inputs)[0]
        return images


class TorchScriptBackend:
    """TorchScript on one thread, for the same reason."""

    def __init__(self, path: Path) -> None:
        import warnings

        import torch

        torch.set_num_threads(1)
        with warnings.catch_warnings():  # TorchScript is deprecated and works; a warning a worker helps nobody
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            self._module = torch.jit.load(str(path), map_location="cpu").eval()
        self._torch = torch

    def run(self, z: Floats, label: Labels | None) -> Floats:
        torch = self._torch
        # Without the optimising executor, which replaces its kernels after the first runs and with them the rounding.
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            inputs = [torch.from_numpy(z)] if label is None else [torch.from_numpy(z), torch.from_numpy(label)]
            images: Floats = self._module(*inputs).numpy()
            return images


BACKENDS: dict[str, Callable[[Path], Backend]] = {"onnx": OnnxBackend, "torchscript": TorchScriptBackend}


class Engine:
    """Draws any number of images through a back-end, in chunks of sizes proven equal (`sizes`, ascending)."""

    def __init__(self, backend: Backend, model: Model) -> None:
        self._backend = backend
        self._model = model
        self.sizes = self._proven_sizes()

    def generate(self, z: Floats, label: Labels | None) -> NDArray[np.uint8]:
        """z float32 [N, latent_dim] and label int64 [N] (None where unconditional) → uint8 [N, H, W, C]."""
        count, start = len(z), 0
        images: list[NDArray[np.uint8]] = []
        while start < count:
            size = self.sizes[max(0, bisect_right(self.sizes, count - start) - 1)]  # the largest that is filled
            stop = min(start + size, count)
            drawn = self._run(z[start:stop], None if label is None else label[start:stop], size)
            images.append(to_uint8(drawn).transpose(0, 2, 3, 1))
            start = stop
        return images[0] if len(images) == 1 else np.concatenate(images)

    def _run(self, z: Floats, label: Labels | None, size: int) -> Floats:
        """Runs a chunk of exactly `size` rows, filled up with zeros, and gives the rows that were asked for."""
        missing = size - len(z)
        if missing:
            z = np.concatenate((z, np.zeros((missing, z.shape[1]), np.float32)))
            label = None if label is None else np.concatenate((label, np.zeros(missing, np.int64)))
        return self._backend.run(z, label)[: size - missing]

    def _proven_sizes(self) -> tuple[int, ...]:
        """The chunk sizes that give the same floats as the largest; also the check that the model is what it says."""
        model, largest = self._model, CHUNKS[-1]
        z = latents(0, largest, model.latent_dim)
        label = draw_labels(0, largest, len(model.class_names)) if model.conditional else None
        reference = self._run(z, label, largest)
        expected = (largest, model.channels, model.height, model.width)
        if reference.shape != expected or reference.dtype != np.float32:
            raise ValueError(f"the model gives {reference.dtype} {reference.shape}, not float32 {expected}")
        if not np.isfinite(reference).all():
            raise ValueError("the model gives values that are not finite")
        turned = np.roll(np.arange(largest), 1)
        moved = self._run(z[turned], None if label is None else label[turned], largest)
        if not np.array_equal(moved, reference[turned]):
            return (1,)  # rows differ by their place: then each image is drawn alone, which is slow and exact
        return tuple(size for size in CHUNKS if self._equal(size, z, label, reference))

    def _equal(self, size: int, z: Floats, label: Labels | None, reference: Floats) -> bool:
        for start in range(0, len(z), size):
            part = slice(start, start + size)
            if not np.array_equal(self._run(z[part], None if label is None else label[part], size), reference[part]):
                return False
        return True
