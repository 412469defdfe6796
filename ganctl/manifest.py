"""Reads the manifest of an export, and verifies the files of the export, for exports and for serving."""

import json
from pathlib import Path
from typing import Any

from ganctl import __version__
from ganctl.common.manifest import check_manifest
from ganctl.files import read_file, sha256_of
from ganctl.versions import written_by

NAME = "manifest.json"
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
    manifest = parse_manifest(read_file(path), str(path), error)
    for name in manifest["files"].keys() - DOCUMENTS:
        file = folder / name
        if not file.is_file():
            raise error(f"{file}: is missing, though {NAME} lists it. Export again.")
        if sha256_of(file) != manifest["files"][name]["sha256"]:
            raise error(f"{file}: is damaged: its SHA-256 differs from {NAME}. Export again.")
    return manifest


def parse_manifest(content: bytes, source: str, error: type[Exception]) -> dict[str, Any]:
    """Parses and checks a manifest. Raises `error` if it is invalid; `source` names it in the message."""
    manifest: Any = None
    try:
        manifest = json.loads(content)
        return check_manifest(manifest)
    except ValueError as reason:
        version = manifest.get("ganctl_version") if isinstance(manifest, dict) else __version__
        raise error(f"{source}:{written_by(version)} {reason}. Export again.") from reason
