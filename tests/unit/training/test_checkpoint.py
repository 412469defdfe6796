"""Checkpoints: a damaged one is refused, and a failed write leaves the previous one intact."""

import errno
import io
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ganctl.training.checkpoint.format import read_checkpoint, weights_digest, write_checkpoint
from ganctl.training.errors import CheckpointError, TrainingError


def state() -> dict[str, Any]:
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "progress": {"step": 7},
        "metrics": {"fd": 1.5, "label_accuracy": None},
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "lists": [1, [2.5, "text"], True],
    }


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def test_a_state_is_read_back_unchanged(tmp_path: Path) -> None:
    written = state()
    write_checkpoint(tmp_path / "a.safetensors", written)
    checkpoint = read_checkpoint(tmp_path / "a.safetensors")
    assert equal(checkpoint.state, written)
    assert checkpoint.step == 7
    assert checkpoint.metrics["fd"] == 1.5


def test_any_safetensors_reader_can_open_a_checkpoint(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    written = state()
    write_checkpoint(tmp_path / "a.safetensors", written)
    assert torch.equal(load_file(tmp_path / "a.safetensors")["network/weight"], written["network"]["weight"])


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_detected(share: float, bit: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("flip") / "a.safetensors"
    write_checkpoint(path, {"progress": {"step": 1}, "metrics": {}, "w": torch.arange(20.0)})
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.1, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(share: float, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, state())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"a\.safetensors") as raised:
        read_checkpoint(path)
    assert raised.value.exit_code == 4


def test_absent_files_folders_and_foreign_files_have_different_errors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"/absent: no such"):
        read_checkpoint(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(tmp_path))}: .*Is a directory"):
        read_checkpoint(tmp_path)
    (tmp_path / "foreign").write_bytes(b"PK\x03\x04 a zip, perhaps a pickle" * 9)
    with pytest.raises(CheckpointError, match=r"/foreign: .*\bganctl\b"):
        read_checkpoint(tmp_path / "foreign")


@pytest.mark.parametrize("content", [b"\xff" * 100, "Käse für alle".encode() * 9, b"", b"123"])
def test_foreign_files_are_refused_for_any_length_in_their_first_bytes(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "foreign").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"/foreign: .*\bganctl\b"):
        read_checkpoint(tmp_path / "foreign")


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"state": Trap()}, tmp_path / "pickle.pt")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "pickle.pt")
    assert not (tmp_path / "executed").exists()


def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, state())
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(path, state())
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_weights_digest_depends_on_the_weights_alone() -> None:
    weights = torch.nn.Linear(3, 2).state_dict()
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    buffer.seek(0)
    assert weights_digest(weights) == weights_digest(torch.load(buffer, weights_only=True))
    changed = {name: tensor.clone() for name, tensor in weights.items()}
    changed["bias"][0] += 1e-6
    assert weights_digest(changed) != weights_digest(weights)


def test_a_new_checkpoint_replaces_the_old_one_atomically(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    write_checkpoint(path, {"progress": {"step": 1}, "metrics": {}})
    before = path.read_bytes()
    with path.open("rb") as reader:  # a process that has opened the old file can still read all of it
        write_checkpoint(path, {"progress": {"step": 2}, "metrics": {}})
        assert reader.read() == before
    assert read_checkpoint(path).step == 2


def test_infinite_numbers_and_tied_weights_are_read_back(tmp_path: Path) -> None:
    weight = torch.arange(6.0).view(2, 3)
    written = {
        "progress": {"step": 1},
        "metrics": {"x": math.inf},
        "a": weight,
        "b": weight,
        "c": weight[0],
        "d": -math.inf,
    }
    write_checkpoint(tmp_path / "a.safetensors", written)
    state = read_checkpoint(tmp_path / "a.safetensors").state
    assert (state["metrics"]["x"], state["d"]) == (math.inf, -math.inf)
    assert torch.equal(state["a"], weight)
    assert torch.equal(state["b"], weight)
    assert torch.equal(state["c"], weight[0])


def test_a_value_that_a_checkpoint_cannot_hold_is_named(tmp_path: Path) -> None:
    state = {"callbacks": {"Mine": {"best": np.float32(1)}}}
    with pytest.raises(TrainingError, match=r"^callbacks/Mine/best: .*\bfloat32\b"):
        write_checkpoint(tmp_path / "a.safetensors", state)


def test_a_file_that_cannot_be_read_is_a_checkpoint_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(CheckpointError, match=r"/a\.safetensors: .*Input/output error"):
        read_checkpoint(tmp_path / "a.safetensors")
