"""Reads weights from a safetensors file that contains their digest."""

from pathlib import Path

import safetensors.torch
from torch import Tensor

from ganctl.training.checkpoint.format import read_metadata, weights_digest

DIGEST_KEY = "weights_sha256"  # of the metadata


def read_tensors(path: Path, digest_key: str = DIGEST_KEY) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads the tensors and the metadata of a safetensors file, which contain the `weights_digest` of the tensors.

    Raises:
        OSError: the file cannot be read.
        Exception: its content is damaged.
    """
    content = path.read_bytes()  # one read: `safe_open` opens the file twice, and another process may delete it between
    tensors, metadata = safetensors.torch.load(content), read_metadata(content)
    if (found := weights_digest(tensors)) != (expected := metadata[digest_key]):
        raise ValueError(f"SHA-256 of its tensors: found {found}, expected {expected}")
    return tensors, metadata
