"""What `ganctl evaluate` remembers from one call to the next: tensors in the user's cache, each under the digest of all
that it depends on, so that nothing outdated is ever found.

Files are `real/DIGEST.safetensors` below `cache_dir()`; any of them may be deleted.
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
from ganctl.training.config.cache_dir import cache_dir, read_cached, write_cached

FORMAT = 1  # of what is kept: to be raised where its meaning changes, or how it is computed
_OF_CONTENTS = "sha256"


class TensorCache:
    """A folder of tensors by what they depend on."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        """`announce` is told when a file is damaged, or cannot be written."""
        self._announce = announce
        self._unkept_told = False
        cache = cache_dir()
        self.folder = cache / "real" if cache else None

    def path(self, facts: Mapping[str, str | int]) -> Path | None:
        """The file of what depends on `facts`, the format, and the versions of torch (for its rounding) and ganctl."""
        if self.folder is None:
            return None
        everything = {**facts, "format": FORMAT, "torch": torch.__version__, "ganctl": __version__}
        digest = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.safetensors"

    def get_or_compute(
        self, facts: Mapping[str, str | int], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The tensors of `compute`, from the file where there is a sound one; what is computed is kept.

        A damaged file, or a folder that cannot be used, is announced, and costs no more than the time.
        """
        path = self.path(facts)
        if (kept := read_cached(path, _read, self._announce)) is not None:
            return kept
        tensors = compute()
        content = safetensors.torch.save(tensors, metadata={_OF_CONTENTS: weights_digest(tensors)})
        reason = write_cached(path, content)
        if reason is not None and not self._unkept_told:
            self._unkept_told = True
            self._announce(f"{reason}; the real side cannot be kept, and the next evaluation computes it again")
        return tensors


def images_digest(images: Tensor) -> str:
    """SHA-256 of every pixel of uint8 images [N, C, H, W], and of their shape."""
    return hashlib.sha256(f"{tuple(images.shape)}".encode() + images.contiguous().numpy().tobytes()).hexdigest()


def _read(path: Path) -> dict[str, Tensor]:
    content = path.read_bytes()  # at once: `safe_open` opens a file twice, and another process may take it away between
    tensors = safetensors.torch.load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # its length stands before it
    expected = header.get("__metadata__", {}).get(_OF_CONTENTS)
    if (found := weights_digest(tensors)) != expected:
        raise ValueError(
            f"its contents have the SHA-256 {found[:16]}…, not the {str(expected)[:16]}… they were saved with"
        )
    return tensors
