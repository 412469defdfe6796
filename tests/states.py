"""When two checkpoints, and the folders they lie in, are the same."""

import json
from pathlib import Path
from typing import Any

import torch

from ganctl.training.checkpoint.format import read_checkpoint


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
    for picture in (a / "samples").iterdir():
        assert picture.read_bytes() == (b / "samples" / picture.name).read_bytes(), picture.name
    assert timeless_rows(a) == timeless_rows(b)


def assert_same_events(a: Path, b: Path) -> None:
    """The same history in TensorBoard: each step once, with the same values, and the same pictures."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    one, two = (EventAccumulator(str(run_dir), {"images": 0, "scalars": 0}).Reload() for run_dir in (a, b))
    assert one.Tags() == two.Tags()
    for tag in one.Tags()["scalars"]:
        points = [[(event.step, event.value) for event in events.Scalars(tag)] for events in (one, two)]
        steps = [step for step, _ in points[0]]
        assert steps == sorted(set(steps)), tag
        if tag != "train/images_per_second":
            assert points[0] == points[1], tag
    evaluations = [row["step"] for row in timeless_rows(a) if "evaluation" in row]
    assert {"fixed latents", "walk", "timelapse"} <= {*one.Tags()["images"]}
    for tag in one.Tags()["images"]:
        pictures = [[(event.step, event.encoded_image_string) for event in e.Images(tag)] for e in (one, two)]
        assert pictures[0] == pictures[1], tag
        assert [step for step, _ in pictures[0]] == (evaluations if tag != "timelapse" else evaluations[-1:]), tag


def timeless_rows(run_dir: Path) -> list[dict[str, Any]]:
    """What `stats.jsonl` says, but for how long it took."""
    rows = [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]
