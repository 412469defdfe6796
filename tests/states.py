"""Compares two checkpoints, or two run folders, for exact equality."""

import json
from pathlib import Path
from typing import Any

import torch

from ganctl.training.checkpoint.format import read_checkpoint


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    """Returns the tensors and values of a nested state by their paths."""
    if isinstance(node, dict):
        return {k: v for key, value in node.items() for k, v in leaves(value, f"{path}/{key}").items()}
    if isinstance(node, list):
        return {k: v for i, value in enumerate(node) for k, v in leaves(value, f"{path}/{i}").items()}
    return {path: node}


def assert_same_state(a: Path, b: Path) -> None:
    """Asserts that two checkpoints are bitwise equal: weights, optimizers, random states, scores and the rest."""
    first, second = leaves(read_checkpoint(a).state), leaves(read_checkpoint(b).state)
    assert first.keys() == second.keys()
    for name, value in first.items():
        same = torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
        assert same, f"{name}: {value} != {second[name]}"


def assert_same_run(a: Path, b: Path) -> None:
    """Asserts that two run folders have equal checkpoints, sample images, and logged losses and scores."""
    for part in ("checkpoints", "samples"):
        assert sorted(p.name for p in (a / part).iterdir()) == sorted(p.name for p in (b / part).iterdir())
    for checkpoint in (a / "checkpoints").iterdir():
        assert_same_state(checkpoint, b / "checkpoints" / checkpoint.name)
    for image in (a / "samples").iterdir():
        assert image.read_bytes() == (b / "samples" / image.name).read_bytes(), image.name
    assert timeless_rows(a) == timeless_rows(b)


def assert_same_events(a: Path, b: Path) -> None:
    """Asserts that two run folders have equal TensorBoard events: each step once, with equal values and images."""
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
        images = [[(event.step, event.encoded_image_string) for event in e.Images(tag)] for e in (one, two)]
        assert images[0] == images[1], tag
        assert [step for step, _ in images[0]] == (evaluations if tag != "timelapse" else evaluations[-1:]), tag


def timeless_rows(run_dir: Path) -> list[dict[str, Any]]:
    """Returns the rows of `stats.jsonl` without starts, durations and rates."""
    rows = [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("start", "seconds", "images_per_second")} for row in rows]
