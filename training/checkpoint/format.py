"""Checkpoint files: a complete training state in one safetensors file, written atomically and verified by a digest.

The state is a tree of dicts and lists with tensors and JSON values as leaves. Tensors become tensors of the file; the
rest becomes a JSON text in its metadata. Nothing is pickled. The `sha256` in the metadata is the digest of the whole
file with that field set to zeros, so that any changed or missing byte is detected.
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
        """The scores of this state if it was evaluated off the schedule, else those of the last evaluation."""
        return dict(self.state.get("look") or self.state["metrics"])


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes `state` to `path` atomically.

    Raises:
        OSError: the disk is full or the folder cannot be written; `path` is unchanged.
        TrainingError: a leaf of `state` is neither a tensor nor a JSON value.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_strip(state, "", tensors), allow_nan=False)
    storages = Counter(tensor.untyped_storage().data_ptr() for tensor in tensors.values())
    for name, tensor in tensors.items():
        if storages[tensor.untyped_storage().data_ptr()] > 1:  # tied weights: safetensors refuses shared storage
            tensors[name] = tensor.clone()
    metadata = {"format": _FORMAT, "ganctl_version": __version__, "sha256": _NO_DIGEST, "state": tree}
    content = bytearray(safetensors.torch.save(tensors, metadata))
    field = _DIGEST_FIELD.search(content, 8, 8 + _header_length(content))
    assert field is not None, "the digest field was just written"
    content[field.start(1) : field.end(1)] = hashlib.sha256(content).hexdigest().encode()

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
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path}: found a folder, expected a checkpoint file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}. Use another checkpoint") from error
    metadata = _metadata(content)
    _check_format(path, metadata)
    field = _DIGEST_FIELD.search(content, 8, 8 + _header_length(content)) if len(content) > 8 else None
    if field is None:
        raise CheckpointError(
            f"{path}: found {len(content)} bytes without a digest, expected a checkpoint of ganctl. The file is"
            " truncated or of another kind. Use another checkpoint"
        )
    expected = field[1].decode()
    start, end = field.span(1)
    del field  # the match exports the buffer, which cannot change until it is released
    content[start:end] = _NO_DIGEST.encode()
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise CheckpointError(
            f"{path}: damaged: found the SHA-256 {found[:12]}…, expected {expected[:12]}…. Use another checkpoint"
            " ('train --resume auto' does so)"
        )
    try:
        tensors = safetensors.torch.load(bytes(content))
        state = _fill(json.loads(metadata["state"]), tensors)
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: found another safetensors file, expected a checkpoint ({error!r})") from error
    return LoadedCheckpoint(path, expected, state, metadata.get("ganctl_version"))


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of weights; it does not depend on their file."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _metadata(content: bytes | bytearray) -> dict[str, str]:
    """The metadata of a safetensors file; empty if the content is not one."""
    try:
        header = json.loads(content[8 : 8 + _header_length(content)])
    except ValueError:
        return {}
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def _check_format(path: Path, metadata: Mapping[str, str]) -> None:
    found = metadata.get("format", "")
    if found.startswith(_FORMAT_PREFIX) and found != _FORMAT:
        fault = f"it has the format {found!r}, expected {_FORMAT!r}."
        raise VersionError(path, metadata.get("ganctl_version"), [fault])


def _header_length(content: bytes | bytearray) -> int:
    return min(int.from_bytes(content[:8], "little"), len(content))  # in a file of another kind it may be any number


def _strip(node: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Replaces the tensors of the tree by references, and puts them into `tensors` under their paths."""
    if isinstance(node, Tensor):
        tensors[name] = node.detach().contiguous()
        return {_TENSOR: name}
    if isinstance(node, Mapping):
        if all(isinstance(key, str) for key in node):
            return {key: _strip(value, f"{name}/{key}" if name else key, tensors) for key, value in node.items()}
        return {_ITEMS: [[key, _strip(value, f"{name}/{key}", tensors)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        return [_strip(value, f"{name}/{i}", tensors) for i, value in enumerate(node)]
    if isinstance(node, float) and not math.isfinite(node):
        return {_NUMBER: str(node)}  # JSON has no NaN or infinity
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TrainingError(
        f"{name}: found a {type(node).__name__}, expected a tensor or a JSON value. Convert it, for example by float(…)"
    )


def _fill(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Inverts `_strip`; tuples become lists."""
    if isinstance(node, dict):
        if _TENSOR in node:
            return tensors[node[_TENSOR]]
        if _NUMBER in node:
            return float(node[_NUMBER])
        if _ITEMS in node:
            return {key: _fill(value, tensors) for key, value in node[_ITEMS]}
        return {key: _fill(value, tensors) for key, value in node.items()}
    if isinstance(node, list):
        return [_fill(value, tensors) for value in node]
    return node
