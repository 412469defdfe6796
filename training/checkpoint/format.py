"""Checkpoints: one safetensors file that holds a whole training state, atomic to write, digested, safe to read.

The state is a tree of dicts and lists with tensors and JSON values as leaves. Tensors become the file's tensors, the
rest a JSON text in its metadata; nothing is pickled. The metadata's `sha256` is the digest of the whole file with that
field set to zeros, so that any flipped or missing byte is noticed.
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
_FORMATS = "ganctl-checkpoint-"  # and the number of the form of the metadata and the tree
_FORMAT = f"{_FORMATS}1"
_NO_DIGEST = "0" * 64
_DIGEST_FIELD = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_TENSOR, _ITEMS, _NUMBER = "$tensor", "$items", "$number"


@dataclass(frozen=True)
class Saved:
    """A checkpoint as read: the state, and the digest that the file proved."""

    path: Path
    sha256: str
    state: dict[str, Any]
    version: str | None = None  # of the ganctl that wrote it; before 0.2.0 none was noted

    @property
    def step(self) -> int:
        return int(self.state["progress"]["step"])

    @property
    def metrics(self) -> dict[str, Any]:
        """The scores of this very state where a stop had it scored off the schedule, else those of the last
        evaluation before it."""
        return dict(self.state.get("look") or self.state["metrics"])


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes `state` to `path`: to a temporary name, flushed to the disk, then renamed.

    Raises:
        OSError: the disk is full or the folder cannot be written; `path` is then as it was before.
        TrainingError: something in `state` is neither a tensor nor a JSON value.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_strip(state, "", tensors), allow_nan=False)
    places = Counter(tensor.untyped_storage().data_ptr() for tensor in tensors.values())
    for name, tensor in tensors.items():
        if places[tensor.untyped_storage().data_ptr()] > 1:  # tied weights: the format holds each tensor by itself
            tensors[name] = tensor.clone()
    metadata = {"format": _FORMAT, "ganctl_version": __version__, "sha256": _NO_DIGEST, "state": skeleton}
    content = bytearray(safetensors.torch.save(tensors, metadata))
    found = _DIGEST_FIELD.search(content, 8, 8 + _header_length(content))
    assert found is not None, "the digest's field was just written"
    content[found.start(1) : found.end(1)] = hashlib.sha256(content).hexdigest().encode()

    write_file(path, content)


def read_checkpoint(path: Path) -> Saved:
    """Reads a checkpoint and proves its digest; tensors come to the CPU.

    Raises:
        CheckpointError: the file is absent, truncated, damaged or something else.
    """
    try:
        content = bytearray(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such checkpoint") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path}: this is a folder, expected a checkpoint file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; use another checkpoint") from error
    header = _metadata(content)
    _refuse_other_format(path, header)
    found = _DIGEST_FIELD.search(content, 8, 8 + _header_length(content)) if len(content) > 8 else None
    if found is None:
        raise CheckpointError(
            f"{path}: no checkpoint of ganctl, or one cut short ({len(content)} bytes, no digest); use another one"
        )
    stated = found[1].decode()
    start, end = found.span(1)
    del found  # it holds the buffer, which is about to change
    content[start:end] = _NO_DIGEST.encode()
    actual = hashlib.sha256(content).hexdigest()
    if actual != stated:
        raise CheckpointError(
            f"{path}: damaged: its SHA-256 is {actual[:12]}…, expected {stated[:12]}…; use another checkpoint"
            " (train --resume auto does so by itself)"
        )
    try:
        tensors = safetensors.torch.load(bytes(content))
        state = _fill(json.loads(header["state"]), tensors)
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: another kind of safetensors file than a checkpoint ({error!r})") from error
    return Saved(path, stated, state, header.get("ganctl_version"))


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of a network's weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _metadata(content: bytes | bytearray) -> dict[str, str]:
    """What a safetensors file says of itself; nothing, where it is no such file."""
    try:
        header = json.loads(content[8 : 8 + _header_length(content)])
    except ValueError:
        return {}
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def _refuse_other_format(path: Path, metadata: Mapping[str, str]) -> None:
    found = metadata.get("format", "")
    if found.startswith(_FORMATS) and found != _FORMAT:
        fault = f"it has the format {found!r}, expected {_FORMAT!r}."
        raise VersionError(path, metadata.get("ganctl_version"), [fault])


def _header_length(content: bytes | bytearray) -> int:
    return min(int.from_bytes(content[:8], "little"), len(content))  # in a foreign file it may be any number


def _strip(node: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The tree with its tensors moved to `tensors`, each named by its path."""
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
        return {_NUMBER: str(node)}  # JSON has no word for it
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TrainingError(
        f"{name} is {type(node).__name__}, which no checkpoint can hold; give tensors and JSON values, such as float(…)"
    )


def _fill(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `_strip` (tuples come back as lists)."""
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
