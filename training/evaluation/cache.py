"""On-disk cache of tensors for `ganctl evaluate`, keyed by a digest of every input of the computation.

The files are `real/DIGEST.safetensors` below `cache_path()`. Any of them may be deleted.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ganctl import __version__
from ganctl.training.checkpoint.format import weights_digest
from ganctl.training.config.cache_dir import cache_path, read_cached, write_cached

FORMAT = 1  # raise it when the meaning or the computation of a cached tensor changes
_DIGEST_KEY = "sha256"


class TensorCache:
    """A folder of computed tensors."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        """`announce` receives a message if a file is damaged or cannot be written."""
        self._announce = announce
        self._write_failure_announced = False
        self.folder = cache_path("real")

    def path(self, inputs: Mapping[str, str | int]) -> Path | None:
        """The file for `inputs`, FORMAT and the versions of torch (its rounding differs) and ganctl."""
        if self.folder is None:
            return None
        key = {**inputs, "format": FORMAT, "torch": torch.__version__, "ganctl": __version__}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.safetensors"

    def get_or_compute(
        self, inputs: Mapping[str, str | int], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Returns the cached tensors for `inputs`, or calls `compute` and caches its result.

        A damaged file or an unusable folder is announced; the tensors are then computed.
        """
        path = self.path(inputs)
        if (cached := read_cached(path, _read, self._announce)) is not None:
            return cached
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


def _read(path: Path) -> dict[str, Tensor]:
    content = path.read_bytes()  # one read: `safe_open` opens the file twice, and another process may delete it between
    tensors = safetensors.torch.load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # 8 bytes of length, then the header
    expected = header.get("__metadata__", {}).get(_DIGEST_KEY)
    if (found := weights_digest(tensors)) != expected:
        raise ValueError(f"SHA-256 of its tensors: found {found[:16]}…, expected {str(expected)[:16]}…")
    return tensors
