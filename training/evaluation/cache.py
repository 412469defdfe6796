"""On-disk cache of tensors for `ganctl evaluate`, keyed by a digest of every input of the computation.

The files are `real/DIGEST.safetensors` below `cache_path()`. Any of them may be deleted.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ganctl import __version__
from ganctl.training.checkpoint.format import weights_digest
from ganctl.training.config.cache_dir import keyed_path, read_cached, write_cached
from ganctl.training.pretrained.weights import read_tensors

FORMAT = 3  # raise it when the meaning or the computation of a cached tensor changes
_DIGEST_KEY = "sha256"


class TensorCache:
    """A folder of computed tensors."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        """`announce` receives a message if a file is damaged or cannot be written."""
        self._announce = announce
        self._write_failure_announced = False

    def path(self, inputs: Mapping[str, str | int]) -> Path | None:
        """The file for `inputs`, FORMAT and the versions of torch (its rounding differs) and ganctl."""
        key = {**inputs, "format": FORMAT, "torch": torch.__version__, "ganctl": __version__}
        return keyed_path("real", key, ".safetensors")

    def get_or_compute(
        self, inputs: Mapping[str, str | int], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Returns the cached tensors for `inputs`, or calls `compute` and caches its result.

        A damaged file or an unusable folder is announced; the tensors are then computed.
        """
        path = self.path(inputs)
        cached = read_cached(path, lambda path: read_tensors(path, _DIGEST_KEY), self._announce)
        if cached is not None:
            return cached[0]
        tensors = compute()
        content = safetensors.torch.save(tensors, metadata={_DIGEST_KEY: weights_digest(tensors)})
        reason = write_cached(path, content)
        if reason is not None and not self._write_failure_announced:
            self._write_failure_announced = True
            self._announce(f"{reason}; the statistics of the real images are not cached; they are computed each time")
        return tensors


def images_digest(images: Tensor) -> str:
    """SHA-256 of the shape and all pixels of uint8 images [N, C, H, W]."""
    return hashlib.sha256(f"{tuple(images.shape)}".encode() + images.contiguous().numpy().tobytes()).hexdigest()
