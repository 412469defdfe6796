"""Manifest of an export: a JSON file with the model's inputs and output, and the digest of each file.

`serving` reads the manifest and the files that it lists, and nothing else of an export.
"""

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ganctl import __version__
from ganctl.common.text import nfc
from ganctl.exports.errors import ExportError
from ganctl.exports.formats import FILES
from ganctl.files import read_file, sha256_of
from ganctl.training.checkpoint.format import LoadedCheckpoint, weights_digest
from ganctl.training.models.base import Generator
from ganctl.versions import written_by

SCHEMA_VERSION = 1
NAME = "manifest.json"
_DATA_SETTINGS = {"size", "channels", "skip_corrupt"}  # without data.root: paths are private
_REQUIRED_KEYS = {"model_version", "data", "conditional", "z", "class_names", "image", "files", "checkpoint", "parity"}


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
        "data": data.get("name"),
        "data_settings": {key: value for key, value in data.items() if key in _DATA_SETTINGS},
        "conditional": generator.conditional,
        "z": {"dim": generator.latent_dim, "distribution": "normal"},
        "class_names": [nfc(name) for name in checkpoint.state["data"]["class_names"]],
        "image": generator.shape._asdict(),
        "inputs": ["z", "label"] if generator.conditional else ["z"],
        "output": "image",
    }


def as_text(values: Mapping[str, Any]) -> dict[str, str]:
    """Converts values to str for the metadata of the exported files; values other than str become JSON."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def build(
    base: Mapping[str, Any], folder: Path, checkpoint: LoadedCheckpoint, parity: Mapping[str, Mapping[int, float]]
) -> dict[str, Any]:
    """Builds the manifest of the files in `folder`; `parity` maps file → batch size → largest absolute difference."""
    formats = {name: format_name for format_name, name in FILES.items()}
    progress = checkpoint.state["progress"]
    return {
        **base,
        "files": {
            name: {"format": formats[name], "bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
            for name in parity
        },
        "checkpoint": {
            "sha256": checkpoint.sha256,
            "step": progress["step"],
            "images": progress["images"],
            "metrics": checkpoint.metrics,
        },
        "parity": parity,
        "versions": {name: metadata.version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")},
    }


def read(folder: Path) -> dict[str, Any]:
    """Reads the manifest of an export, and verifies the digests of its files.

    Raises:
        ExportError: the manifest is absent or of another schema, or a file is absent or differs from its digest.
    """
    path = folder / NAME
    try:
        manifest: dict[str, Any] = json.loads(read_file(path))
    except FileNotFoundError:
        raise ExportError(f"{folder}: found no {NAME}, expected an export. Make one by 'ganctl export RUN'") from None
    except ValueError as error:
        raise ExportError(f"{path}: not JSON ({error}). Export again") from error
    if not isinstance(manifest, dict):
        raise ExportError(f"{path}: found a {type(manifest).__name__}, expected an object. Export again")
    if (problem := _find_problem(manifest)) is not None:
        raise ExportError(f"{path}:{written_by(manifest.get('ganctl_version'))} {problem}. Export again")
    for name, entry in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise ExportError(f"{file}: absent, but {NAME} lists it. Export again")
        if sha256_of(file) != entry["sha256"]:
            raise ExportError(f"{file}: damaged: its SHA-256 is not the one in {NAME}. Export again")
    return manifest


def _find_problem(manifest: Mapping[str, Any]) -> str | None:
    """Returns the reason why this version cannot read a manifest, or None; unknown fields are ignored."""
    if (found := manifest.get("schema_version")) != SCHEMA_VERSION:
        return f"found schema_version {found!r}, expected {SCHEMA_VERSION}"
    if missing := _REQUIRED_KEYS - manifest.keys():
        return f"the manifest lacks {', '.join(sorted(missing))}"
    z, names, files = manifest["z"], manifest["class_names"], manifest["files"]
    if not isinstance(z, dict) or not isinstance(z.get("dim"), int) or z.get("distribution") != "normal":
        return f"found z = {json.dumps(z)[:80]}, expected an integer dim and the distribution normal"
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return f"found class_names = {json.dumps(names)[:80]}, expected a list of names"
    if not isinstance(files, dict) or not all(isinstance(f, dict) and "sha256" in f for f in files.values()):
        return "found files without a SHA-256, expected an object with the SHA-256 of each file"
    return None


def can_be_replaced(folder: Path) -> bool:
    """Returns whether a folder is empty or holds only files of an export."""
    if not folder.is_dir():
        return False
    export_files = {NAME, "card.md", "samples.png", *FILES.values()}
    return {path.name for path in folder.iterdir()} <= export_files
