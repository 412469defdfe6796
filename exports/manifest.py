"""The manifest: what an export says of itself. It is all that crosses from here to serving, as data."""

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ganctl import __version__
from ganctl.common.text import nfc
from ganctl.exports.errors import ExportError
from ganctl.exports.formats import FILES
from ganctl.files import naming, read_file
from ganctl.training.checkpoint.format import Saved, weights_digest
from ganctl.training.models.base import Generator
from ganctl.versions import written_by

SCHEMA_VERSION = 1
NAME = "manifest.json"
_DATA_SETTINGS = {"size", "channels", "skip_corrupt"}  # what the images are; not where they lie, which is private
_KEYS = {"model_version", "data", "conditional", "z", "class_names", "image", "files", "checkpoint", "parity"}


def essentials(generator: Generator, checkpoint: Saved) -> dict[str, Any]:
    """What every artefact of an export carries: which model it is and what goes in and out.

    `model_version` is the start of the SHA-256 of the generator's weights: the same weights have the same version.
    """
    config = checkpoint.state["config"]  # perhaps another version's: what it says is only handed on
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
    """The essentials as name → text, for ONNX metadata and TorchScript extra files."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def build(
    base: Mapping[str, Any], folder: Path, checkpoint: Saved, parity: Mapping[str, Mapping[int, float]]
) -> dict[str, Any]:
    """The whole manifest of the artefacts in `folder`; `parity` is file → N → largest absolute difference."""
    kinds = {name: kind for kind, name in FILES.items()}
    progress = checkpoint.state["progress"]
    return {
        **base,
        "files": {
            name: {"format": kinds[name], "bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}
            for name in parity
        },
        "checkpoint": {
            "sha256": checkpoint.sha256,
            "step": progress["step"],
            "images": progress["images"],
            "metrics": checkpoint.metrics,
        },
        "parity": {name: {str(n): difference for n, difference in sizes.items()} for name, sizes in parity.items()},
        "versions": {name: metadata.version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")},
    }


def read(folder: Path) -> dict[str, Any]:
    """The manifest of an export, after proving that its files are whole.

    Raises:
        ExportError: there is no manifest, it is of another schema, or a file is absent or differs from its digest.
    """
    path = folder / NAME
    try:
        manifest = json.loads(read_file(path))
    except FileNotFoundError:
        raise ExportError(f"{folder}: no export (it has no {NAME}); make one with 'ganctl export RUN'") from None
    except ValueError as error:
        raise ExportError(f"{path}: not JSON ({error}); export again") from error
    if (fault := _fault(manifest)) is not None:
        version = manifest.get("ganctl_version") if isinstance(manifest, dict) else None
        raise ExportError(f"{path}:{written_by(version)} {fault}; export again with this ganctl")
    for name, facts in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise ExportError(f"{file}: absent, although {NAME} names it; export again")
        if (found := _sha256(file)) != facts["sha256"]:
            raise ExportError(
                f"{file}: damaged: its SHA-256 is {found[:12]}…, expected {facts['sha256'][:12]}…; export again"
            )
    whole: dict[str, Any] = manifest
    return whole


def _fault(manifest: Any) -> str | None:
    """Why a manifest cannot be read here, if it cannot; fields that are unknown do not matter."""
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
        found = manifest.get("schema_version") if isinstance(manifest, dict) else type(manifest).__name__
        return f"schema_version {found!r}, expected {SCHEMA_VERSION}"
    if missing := _KEYS - manifest.keys():
        return f"it lacks {', '.join(sorted(missing))}"
    z, names, files = manifest["z"], manifest["class_names"], manifest["files"]
    if not isinstance(z, dict) or not isinstance(z.get("dim"), int) or z.get("distribution") != "normal":
        return f"z is {json.dumps(z)[:80]}, expected a dim and the distribution normal"
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return f"class_names is {json.dumps(names)[:80]}, expected a list of names"
    if not isinstance(files, dict) or not all(isinstance(f, dict) and "sha256" in f for f in files.values()):
        return "files is no table with the SHA-256 of each"
    return None


def may_be_replaced(folder: Path) -> bool:
    """Whether a folder is empty, or holds an export's files and nothing else."""
    if not folder.is_dir():
        return False
    ours = {NAME, "card.md", "samples.png", *FILES.values()}
    return {path.name for path in folder.iterdir()} <= ours


def describe(folder: Path) -> dict[str, Any]:
    """An export for `ganctl inspect`."""
    return {"kind": "export", "path": str(folder.resolve()), **read(folder)}


def _sha256(path: Path) -> str:
    with naming(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
