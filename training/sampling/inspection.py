"""What a run or a checkpoint is, for `ganctl inspect` and for every command that takes one as SOURCE."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganctl.common.text import nfc
from ganctl.training.checkpoint.format import read_checkpoint, weights_digest
from ganctl.training.checkpoint.run_dir import CHECKPOINTS, find_checkpoint
from ganctl.training.checkpoint.stored_config import data_settings, understood
from ganctl.training.config.environment import PREFIX, of_section
from ganctl.training.config.resolve import resolve
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet
from ganctl.training.errors import CheckpointError, ConfigError, DataError
from ganctl.training.images.source import GeneratorSource, Source, load_generator


@dataclass(frozen=True)
class Opened:
    """Something images can be had from: a source that draws, or images that were drawn before."""

    data: DataSettings
    source: Source | None = None
    fault: Exception | None = None  # why `data` may be other images than those it was trained on
    images: Tensor | None = None  # uint8 [N, C, H, W]
    labels: Tensor | None = None  # int64 [N]
    facts: dict[str, Any] = field(default_factory=dict)


def open_checkpoint(path: Path) -> Opened:
    """The averaged generator of a checkpoint, or of a run's best one."""
    generator, checkpoint = load_generator(find_checkpoint(path))
    data, fault = data_settings(checkpoint)
    names = tuple(map(nfc, checkpoint.state["data"]["class_names"]))
    facts = {"checkpoint": str(checkpoint.path.resolve()), "step": checkpoint.step}
    return Opened(data, GeneratorSource(generator, names), fault, facts=facts)


def lay_over(opened: Opened, assignments: Sequence[str]) -> DataSettings:
    """What a source says of its data, under the variables GANCTL_DATA__… and the `data.key=value` given to --set.

    Raises:
        Exception: the `fault` of what was opened, unless data.name is given.
        ConfigError: a fault of these, or a setting of another section: a source's own are as it was trained.
    """
    section = "data."
    others = [assignment for assignment in assignments if not assignment.strip().startswith(section)]
    if others:
        raise ConfigError([f"--set {other}: expected a setting of the data, such as data.root=…" for other in others])
    config, sources = resolve(assignments=assignments, environment=of_section("data", os.environ))
    given = {name for name, source in sources.items() if source == "--set" or source.startswith(PREFIX)}
    if opened.fault is not None and "data.name" not in given:
        raise opened.fault
    keys = [name.removeprefix(section) for name in given if name.startswith(section)]
    return opened.data.model_copy(update={key: getattr(config.data, key) for key in keys})


def check_fit(opened: Opened, real: ImageSet, path: Path) -> None:
    """Raises DataError where images from `path` cannot be scored against real ones: other sizes, or other classes."""
    images, source = opened.images, opened.source
    if images is None:
        assert source is not None
        images = source.draw(torch.zeros(1, source.latent_dim), torch.zeros(1, dtype=torch.int64))
    faults = []
    if (found := tuple(images.shape[1:])) != real.shape:
        faults.append(f"its images are {_by(found)} (channels, height, width), the real ones {_by(real.shape)}")
    if source is not None and source.conditional and source.class_names != real.class_names:
        faults.append(f"it draws the classes {_some(source.class_names)}, the real ones are {_some(real.class_names)}")
    if opened.labels is not None and not 0 <= opened.labels.min() <= opened.labels.max() < len(real.class_names):
        numbers = f"{opened.labels.min()} to {opened.labels.max()}"
        faults.append(f"its labels go from {numbers}, those of the real images from 0 to {len(real.class_names) - 1}")
    if faults:
        raise DataError(
            f"{path}: does not fit the data set: {'; '.join(faults)}. Name the data that it was trained on, by --set"
            " data.name=…, data.root=…, data.size=… or data.channels=…"
        )


def _by(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "")


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
    with understood(checkpoint):
        return {
            "path": str(path.resolve()),
            "step": checkpoint.step,
            "images": state["progress"]["images"],
            "preset": state["config"].get("preset"),
            "data": state["config"].get("data", {}).get("name"),
            "metrics": checkpoint.metrics,
            "sha256": checkpoint.sha256,
            "generator_sha256": weights_digest(state["networks"]["ema"]),
            "ganctl_version": checkpoint.version,
        }
