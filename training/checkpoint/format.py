"""Checkpoint files: a complete training state in one safetensors file, written atomically and verified by a digest.

The state is a tree of dicts and lists with tensors and JSON values as leaves. The tensors are stored as tensors of the
file, and the rest as a JSON text in its metadata. Nothing is pickled. The `sha256` in the metadata is the digest of the
whole file with that field set to zeros, so that any changed or missing byte is detected.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ganctl import __version__
from ganctl.files import write_file
from ganctl.training.errors import CheckpointError, TrainingError, VersionError

SUFFIX = ".safetensors"
_FORMAT_PREFIX = "ganctl-checkpoint-"  # followed by the version of the metadata and the tree
_FORMAT = f"{_FORMAT_PREFIX}1"
_NO_DIGEST = "0" * 64
_DIGEST_FIELD = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_TENSOR, _ITEMS, _NUMBER = "$tensor", "$items", "$number"


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint that was read: its state, and the verified digest of its file."""

    path: Path
    sha256: str
    state: dict[str, Any]
    version: str | None = None  # of ganctl; versions before 0.2.0 wrote none

    @property
    def step(self) -> int:
        """Number of training steps."""
        return int(self.state["progress"]["step"])

    @property
    def metrics(self) -> dict[str, Any]:
        """The scores of the evaluation at the end of a stopped run, if there was one; else those before this save."""
        return dict(self.state.get("look") or self.state["metrics"])


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes `state` to `path` atomically.

    Raises:
        OSError: the disk is full or the folder cannot be written; `path` is unchanged.
        TrainingError: a leaf of `state` is neither a tensor nor a JSON value.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_extract_tensors(state, "", tensors), allow_nan=False)
    storages = Counter(tensor.untyped_storage().data_ptr() for tensor in tensors.values())
    for name, tensor in tensors.items():
        if storages[tensor.untyped_storage().data_ptr()] > 1:  # tied weights: safetensors refuses shared storage
            tensors[name] = tensor.clone()
    metadata = {"format": _FORMAT, "ganctl_version": __version__, "sha256": _NO_DIGEST, "state": tree}
    content = bytearray(safetensors.torch.save(tensors, metadata))
    position = _digest_position(content)
    assert position is not None, "the digest field was just written"
    content[position] = hashlib.sha256(content).hexdigest().encode()
    write_file(path, content)


def read_checkpoint(path: Path) -> LoadedCheckpoint:
    """Reads a checkpoint and verifies its digest; the tensors are on the CPU.

    Raises:
        CheckpointError: the file is absent, truncated, damaged, or not a checkpoint.
        VersionError: the file has another format version.
    """
    try:
        content = bytearray(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file, expected a checkpoint. Check the path") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}. Use another checkpoint") from error
    metadata = read_metadata(content)
    version, found_format = metadata.get("ganctl_version"), metadata.get("format", "")
    if found_format.startswith(_FORMAT_PREFIX) and found_format != _FORMAT:
        raise VersionError(path, version, [f"it has the format {found_format!r}, expected {_FORMAT!r}."])
    position = _digest_position(content)
    if position is None:
        raise CheckpointError(f"{path}: found a truncated or another file, expected a checkpoint of ganctl")
    expected = content[position].decode()
    content[position] = _NO_DIGEST.encode()
    if hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(f"{path}: damaged: its SHA-256 is not the one in it. Use another checkpoint")
    try:
        tensors = safetensors.torch.load(bytes(content))
        state = _insert_tensors(json.loads(metadata["state"]), tensors)
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: found another safetensors file, expected a checkpoint ({error!r})") from error
    return LoadedCheckpoint(path, expected, state, version)


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of weights; it does not depend on their file."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def read_metadata(content: bytes | bytearray) -> dict[str, str]:
    """The metadata of a safetensors file; empty if the content is not one."""
    try:
        header = json.loads(content[8 : 8 + _header_length(content)])
    except ValueError:
        return {}
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def _digest_position(content: bytearray) -> slice | None:
    """The position of the digest in the header; None if there is no digest."""
    field = _DIGEST_FIELD.search(content, 8, 8 + _header_length(content))
    return None if field is None else slice(*field.span(1))


def _header_length(content: bytes | bytearray) -> int:
    return min(int.from_bytes(content[:8], "little"), len(content))  # in a file of another kind it may be any number


def _extract_tensors(node: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Replaces the tensors of the tree by references, and puts them into `tensors` under their paths."""
    if isinstance(node, Tensor):
        tensors[name] = node.detach().contiguous()
        return {_TENSOR: name}
    if isinstance(node, Mapping):
        if all(isinstance(key, str) for key in node):
            prefix = f"{name}/" if name else ""
            return {key: _extract_tensors(value, f"{prefix}{key}", tensors) for key, value in node.items()}
        return {_ITEMS: [[key, _extract_tensors(value, f"{name}/{key}", tensors)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        return [_extract_tensors(value, f"{name}/{i}", tensors) for i, value in enumerate(node)]
    if isinstance(node, float) and not math.isfinite(node):
        return {_NUMBER: str(node)}  # JSON has no NaN or infinity
    if node is None or isinstance(node, int | float | str):
        return node
    raise TrainingError(f"{name}: found a {type(node).__name__}, expected a tensor or a JSON value. Convert it")


def _insert_tensors(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Inverts `_extract_tensors`; tuples become lists."""
    if isinstance(node, dict):
        if _TENSOR in node:
            return tensors[node[_TENSOR]]
        if _NUMBER in node:
            return float(node[_NUMBER])
        if _ITEMS in node:
            return {key: _insert_tensors(value, tensors) for key, value in node[_ITEMS]}
        return {key: _insert_tensors(value, tensors) for key, value in node.items()}
    if isinstance(node, list):
        return [_insert_tensors(value, tensors) for value in node]
    return node
