"""Opens and describes runs and checkpoints, for `ganctl inspect` and for the SOURCE argument of other commands."""

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
from ganctl.training.checkpoint.stored_config import data_settings, version_errors
from ganctl.training.config.environment import PREFIX, section_variables
from ganctl.training.config.resolve import resolve
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet
from ganctl.training.errors import CheckpointError, ConfigError, DataError
from ganctl.training.images.source import GeneratorSource, Source, load_generator

NAME_DATA = "Name the generator's data by --set data.source=…, data.size=… or data.channels=…"


@dataclass(frozen=True)
class OpenedSource:
    """An opened SOURCE argument: either a source that generates images, or images from a file."""

    data: DataSettings
    source: Source | None = None
    data_error: Exception | None = None  # the reason why `data` may not be the training data
    images: Tensor | None = None  # uint8 [N, C, H, W]
    labels: Tensor | None = None  # int64 [N]
    facts: dict[str, Any] = field(default_factory=dict)


def open_checkpoint(path: Path) -> OpenedSource:
    """Opens the EMA generator of a checkpoint, or of a run's best checkpoint."""
    generator, checkpoint = load_generator(find_checkpoint(path))
    data, data_error = data_settings(checkpoint)
    names = tuple(map(nfc, checkpoint.state["data"]["class_names"]))
    facts = {"checkpoint": str(checkpoint.path.resolve()), "step": checkpoint.step}
    return OpenedSource(data, GeneratorSource(generator, names), data_error, facts=facts)


def is_model(path: Path) -> bool:
    """Returns whether a path is a run, a checkpoint, an export or an archive of one, rather than a data set."""
    if path.is_dir():
        return (path / CHECKPOINTS).is_dir() or (path / "manifest.json").exists()
    return path.suffix in (".mar", ".safetensors")


def override_data_settings(opened: OpenedSource, assignments: Sequence[str]) -> DataSettings:
    """Returns the data settings of a source, overridden by GANCTL_DATA__… variables and then by --set `assignments`.

    Raises:
        Exception: `opened.data_error`, unless data.source is given.
        ConfigError: a setting is invalid, or of a section other than data.
    """
    section = "data."
    foreign = [assignment for assignment in assignments if not assignment.strip().startswith(section)]
    if foreign:
        raise ConfigError([f"--set {each}: expected a setting of the data, such as data.source=…" for each in foreign])
    config, sources = resolve(assignments=assignments, environment=section_variables("data", os.environ))
    given = {name for name, source in sources.items() if source == "--set" or source.startswith(PREFIX)}
    if opened.data_error is not None and "data.source" not in given:
        raise opened.data_error
    keys = [name.removeprefix(section) for name in given if name.startswith(section)]
    return opened.data.model_copy(update={key: getattr(config.data, key) for key in keys})


def check_fit(opened: OpenedSource, real: ImageSet, path: Path) -> None:
    """Checks that the images of a source can be scored against real images.

    Args:
        opened: the source.
        real: the real images.
        path: the path of the source, for the error.

    Raises:
        DataError: the image sizes or the classes differ.
    """
    images, source = opened.images, opened.source
    if images is None:
        assert source is not None
        images = source.generate(torch.zeros(1, source.latent_dim), torch.zeros(1, dtype=torch.int64))
    errors = []
    if (found := tuple(images.shape[1:])) != real.shape:
        errors.append(f"found images {_by(found)} (channels, height, width), expected {_by(real.shape)}")
    if source is not None and source.conditional and source.class_names != real.class_names:
        errors.append(f"found the classes {_listed(source.class_names)}, expected {_listed(real.class_names)}")
    if opened.labels is not None and real.class_names:
        low, high, last = int(opened.labels.min()), int(opened.labels.max()), len(real.class_names) - 1
        if not 0 <= low <= high <= last:
            errors.append(f"found labels from {low} to {high}, expected labels from 0 to {last}")
    if errors:
        raise DataError(f"{path}: does not fit the data set: {'; '.join(errors)}. {NAME_DATA}")


def _by(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "") if names else "none"


def describe_run(path: Path) -> dict[str, Any]:
    """Describes the checkpoints of a run, or the content of a single checkpoint.

    Raises:
        CheckpointError: `path` is neither a run nor a checkpoint, or is damaged.
    """
    if path.is_file():
        return {"kind": "checkpoint", **_describe_checkpoint(path)}
    folder = path / CHECKPOINTS
    if not folder.is_dir():
        raise CheckpointError(f"{path}: found neither {CHECKPOINTS}/ nor manifest.json, expected a run or an export")
    names = sorted(entry.stem for entry in folder.glob("*.safetensors"))
    record: dict[str, Any] = {"kind": "run", "path": str(path.resolve()), "checkpoints": names}
    for name in ("best", "last"):
        file = folder / f"{name}.safetensors"
        record[name] = _describe_checkpoint(file) if file.exists() else None
    return record


def _describe_checkpoint(path: Path) -> dict[str, Any]:
    checkpoint = read_checkpoint(path)
    state = checkpoint.state
    with version_errors(checkpoint):
        return {
            "path": str(path.resolve()),
            "step": checkpoint.step,
            "images": state["progress"]["images"],
            "preset": state["config"].get("preset"),
            "data": state["config"].get("data", {}).get("source"),
            "metrics": checkpoint.metrics,
            "sha256": checkpoint.sha256,
            "generator_sha256": weights_digest(state["networks"]["ema"]),
            "ganctl_version": checkpoint.version,
        }
