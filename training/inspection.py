"""What a run or a checkpoint is, for `ganctl inspect` and for every command that takes one as SOURCE."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from training.checkpoint import read_checkpoint, weights_digest
from training.config import DataSettings
from training.errors import CheckpointError
from training.runs import CHECKPOINTS, find_checkpoint
from training.sources import GeneratorSource, Source, load_generator


@dataclass(frozen=True)
class Opened:
    """Something images can be had from: a source that draws, or images that were drawn before."""

    data: DataSettings
    source: Source | None = None
    images: Tensor | None = None  # uint8 [N, C, H, W]
    labels: Tensor | None = None  # int64 [N]
    facts: dict[str, Any] = field(default_factory=dict)


def open_checkpoint(path: Path) -> Opened:
    """The averaged generator of a checkpoint, or of a run's best one."""
    generator, checkpoint, config = load_generator(find_checkpoint(path))
    names = tuple(checkpoint.state["data"]["class_names"])
    facts = {"checkpoint": str(checkpoint.path.resolve()), "step": checkpoint.step}
    return Opened(config.data, GeneratorSource(generator, names), facts=facts)


def describe(path: Path) -> dict[str, Any]:
    """A run's checkpoints, or one checkpoint's contents.

    Raises:
        CheckpointError: `path` is neither, or is damaged.
    """
    if path.is_file():
        return {"kind": "checkpoint", **_describe_checkpoint(path)}
    folder = path / CHECKPOINTS
    if not folder.is_dir():
        raise CheckpointError(
            f"{path}: neither a run (no {CHECKPOINTS}/), an export (no manifest.json) nor a checkpoint file"
        )
    names = sorted(entry.stem for entry in folder.glob("*.safetensors"))
    record: dict[str, Any] = {"kind": "run", "path": str(path.resolve()), "checkpoints": names}
    for name in ("best", "last"):
        file = folder / f"{name}.safetensors"
        record[name] = _describe_checkpoint(file) if file.exists() else None
    return record


def _describe_checkpoint(path: Path) -> dict[str, Any]:
    checkpoint = read_checkpoint(path)
    state = checkpoint.state
    return {
        "path": str(path.resolve()),
        "step": checkpoint.step,
        "images": state["progress"]["images"],
        "preset": state["config"]["preset"],
        "data": state["config"]["data"]["name"],
        "metrics": checkpoint.metrics,
        "sha256": checkpoint.sha256,
        "generator_sha256": weights_digest(state["networks"]["ema"]),
    }
