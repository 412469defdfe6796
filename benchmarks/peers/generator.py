"""Image generation for the peer servers: the export's generator.onnx in ONNX Runtime, and PNG by Pillow."""

import io
import math
import os

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from ganctl.benchmarks.peers import GENERATOR


class Generator:
    """Generates digits on one thread, because the workers share the cores."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        path = os.environ[GENERATOR]
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._latent_dim = self._session.get_inputs()[0].shape[1]
        self._random = np.random.default_rng()

    def generate(self, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Generates an image for each label, int64 [N], in one pass: uint8 [N, H, W]."""
        z = self._random.standard_normal((len(labels), self._latent_dim), dtype=np.float32)
        (images,) = self._session.run(None, {"z": z, "label": labels})
        pixels: NDArray[np.uint8] = (255 * images[:, 0] + 0.5).astype(np.uint8)
        return pixels

    def labels(self, digit: int | None, count: int) -> NDArray[np.int64]:
        """Returns the labels of a request, int64 [count]: the digit repeated, or random digits."""
        return self._random.integers(10, size=count) if digit is None else np.full(count, digit)


def png(images: NDArray[np.uint8]) -> bytes:
    """Encodes images, uint8 [N, H, W], as one PNG: a square grid, or the image itself if N is 1."""
    n, height, width = images.shape
    side = math.isqrt(n - 1) + 1
    cells = np.zeros((side * side, height, width), np.uint8)
    cells[:n] = images
    grid = cells.reshape(side, side, height, width).swapaxes(1, 2).reshape(side * height, side * width)
    file = io.BytesIO()
    Image.fromarray(grid).save(file, "PNG")
    return file.getvalue()
