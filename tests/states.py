"""When two checkpoints, and the folders they lie in, are the same."""

import json
from pathlib import Path
from typing import Any

import torch

from training.checkpoint import read_checkpoint


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    """A state's tensors and values by their paths."""
    if isinstance(node, dict):
        return {k: v for key, value in node.items() for k, v in leaves(value, f"{path}/{key}").items()}
    if isinstance(node, list):
        return {k: v for i, value in enumerate(node) for k, v in leaves(value, f"{path}/{i}").items()}
    return {path: node}


def assert_same_state(a: Path, b: Path) -> None:
    """Weights, optimizers, averages, random states, statistics, lists, counters, scores: bit for bit."""
    first, second = leaves(read_checkpoint(a).state), leaves(read_checkpoint(b).state)
    assert first.keys() == second.keys()
    for name, value in first.items():
        same = torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
        assert same, f"{name}: {value} is not {second[name]}"


def assert_same_run(a: Path, b: Path) -> None:
    """The same checkpoints with the same names, the same pictures, and logs with the same losses and scores."""
    for part in ("checkpoints", "samples"):
        assert sorted(p.name for p in (a / part).iterdir()) == sorted(p.name for p in (b / part).iterdir())
    for checkpoint in (a / "checkpoints").iterdir():
        assert_same_state(checkpoint, b / "checkpoints" / checkpoint.name)
    assert timeless_rows(a) == timeless_rows(b)


def timeless_rows(run_dir: Path) -> list[dict[str, Any]]:
    """What `stats.jsonl` says, but for how long it took."""
    rows = [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]
