"""Manifest of an export: a JSON file with the model's inputs and output, and the digest of each file.

`serving` reads the manifest and the files that it lists, and nothing else of an export.
"""

import json
import math
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ganctl import __version__
from ganctl.common.manifest import SCHEMA_VERSION
from ganctl.common.text import nfc
from ganctl.exports.errors import ExportError
from ganctl.exports.formats import FILES
from ganctl.files import sha256_of
from ganctl.manifest import read_manifest
from ganctl.training.checkpoint.format import LoadedCheckpoint, weights_digest
from ganctl.training.models.base import Generator

_DATA_SETTINGS = {"size", "channels", "fit", "skip_corrupt"}


def base_fields(generator: Generator, checkpoint: LoadedCheckpoint) -> dict[str, Any]:
    """The manifest fields that are also stored in each exported file: identity, inputs and output of the model.

    `model_version` is the start of the SHA-256 of the generator's weights: equal weights have the same version.
    """
    config = checkpoint.state["config"]  # may be of another version: it is only copied
    data = config.get("data", {})
    return {
        "schema_version": SCHEMA_VERSION,
        "model_version": weights_digest(generator.state_dict())[:12],
        "ganctl_version": __version__,
        "preset": config.get("preset"),
        "data": _public_source(data),
        "license": data.get("license"),
        "attribution": data.get("attribution"),
        "data_settings": {key: value for key, value in data.items() if key in _DATA_SETTINGS},
        "conditional": generator.conditional,
        "z": {"dim": generator.latent_dim, "distribution": "normal"},
        "class_names": [nfc(name) for name in checkpoint.state["data"]["class_names"]],
        "image": generator.shape._asdict(),
        "inputs": ["z", "label"] if generator.conditional else ["z"],
        "output": "image",
    }


def _public_source(data: Mapping[str, Any]) -> str | None:
    """Returns the source of the images without its folder: paths are private."""
    source = data.get("source")
    return Path(source).name if isinstance(source, str) and Path(source).is_absolute() else source


def as_text(values: Mapping[str, Any]) -> dict[str, str]:
    """Converts values to str for the metadata of the exported files; values other than str become JSON."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def file_entry(path: Path, file_format: str) -> dict[str, Any]:
    """Returns the entry of a file in the manifest's `files`."""
    return {"format": file_format, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def build(
    base: Mapping[str, Any], folder: Path, checkpoint: LoadedCheckpoint, measured: Mapping[str, Any]
) -> dict[str, Any]:
    """Builds the manifest of the model files in `folder`.

    Args:
        base: see `base_fields`.
        folder: holds the model files.
        checkpoint: of the generator.
        measured: the fields MEASURED.
    """
    formats = {name: format_name for format_name, name in FILES.items()}
    progress = checkpoint.state["progress"]
    written = [name for name in formats if (folder / name).exists()]
    return {
        **base,
        "files": {name: file_entry(folder / name, formats[name]) for name in written},
        "checkpoint": {
            "sha256": checkpoint.sha256,
            "step": progress["step"],
            "images": progress["images"],
            "metrics": _without_nan(checkpoint.metrics),
        },
        "versions": {name: metadata.version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")},
        **measured,
    }


def _without_nan(value: Any) -> Any:
    """Replaces numbers that are not finite, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(folder: Path) -> dict[str, Any]:
    """Reads the manifest of an export, and verifies the digests of its files.

    Raises:
        ExportError: the manifest is absent or invalid, or a file is absent or differs from its digest.
    """
    return read_manifest(folder, ExportError)
