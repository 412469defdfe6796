"""Reads the manifest of an export, and verifies the files of the export, for exports and for serving."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ganctl import __version__
from ganctl.common.manifest import check_manifest
from ganctl.files import read_file, sha256_of
from ganctl.versions import written_by

NAME = "manifest.json"
SCHEMA = Path(__file__).parent / "exports/manifest.schema.json"  # JSON Schema 2020-12
_MAX_BYTES = 16 << 20
MEASURED = ("parity", "parity_float64", "gates")  # fields that depend on the machine: no digest covers them
# The Hugging Face Hub shows README.md. card.md has the same bytes: a link would not survive an upload, or Windows.
CARDS = ("card.md", "README.md")
DOCUMENTS = (*CARDS, "samples.png")  # for people: no command reads them, so a card may be edited


def read_manifest(folder: Path, error: type[Exception]) -> dict[str, Any]:
    """Reads the manifest of an export, and verifies the SHA-256 of each model file that it lists.

    Raises:
        error: the manifest is missing or invalid, or a file is missing or damaged.
    """
    path = folder / NAME
    if not path.is_file():
        raise error(f"{folder}: found no {NAME}, expected a folder that `ganctl export` wrote.")
    if path.stat().st_size > _MAX_BYTES:
        raise error(f"{path}: found {path.stat().st_size:,} bytes, expected at most {_MAX_BYTES:,}. Export again.")
    manifest = parse_manifest(read_file(path), str(path), error)
    for name in manifest["files"].keys() - DOCUMENTS:
        if fault := _find_change(folder / name, manifest["files"][name]["sha256"]):
            raise error(f"{folder / name}: {fault} Export again.")
    return manifest


def changed_documents(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Returns the names of the documents that are missing or differ from their digests; a card may be edited."""
    entries = {name: entry for name, entry in manifest["files"].items() if name in DOCUMENTS}
    return [name for name, entry in entries.items() if _find_change(folder / name, entry["sha256"])]


def _find_change(file: Path, sha256: str) -> str | None:
    if file.is_symlink() or not file.is_file():
        return f"is missing or no regular file, though {NAME} lists it."
    return None if sha256_of(file) == sha256 else f"is damaged: its SHA-256 differs from {NAME}."


def parse_manifest(content: bytes, source: str, error: type[Exception]) -> dict[str, Any]:
    """Parses and checks a manifest. Raises `error` if it is invalid; `source` names it in the message."""
    manifest: Any = None
    try:
        manifest = json.loads(content)
        return _check_schema(check_manifest(manifest))
    except (ValueError, RecursionError) as reason:
        version = manifest.get("ganctl_version") if isinstance(manifest, dict) else __version__
        raise error(f"{source}:{written_by(version)} {reason}. Export again.") from reason


def _check_schema(manifest: dict[str, Any]) -> dict[str, Any]:
    """Returns a manifest if it follows SCHEMA. Raises ValueError, which names the field, if not."""
    import jsonschema  # here: the command line needs it for manifests only

    error = jsonschema.exceptions.best_match(_validator().iter_errors(manifest))
    if error is not None:
        field = ".".join(map(str, error.absolute_path)) or "the manifest"
        found, expected = json.dumps(error.instance)[:60], json.dumps(error.validator_value)[:200]
        raise ValueError(f"{field}: found {found}, expected {error.validator} {expected}")
    return manifest


@functools.cache
def _validator() -> Any:
    import jsonschema

    return jsonschema.Draft202012Validator(json.loads(read_file(SCHEMA)))
