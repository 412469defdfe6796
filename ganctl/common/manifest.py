"""Checks the manifest of an export: the fields that its readers need."""

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from .text import nfc

SCHEMA_VERSION = 1
_MAX_NAME = 1000  # characters of a class name: normalization takes a time that grows with their square
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # a name with a folder could point anywhere


def check_manifest(manifest: object) -> dict[str, Any]:
    """Return a manifest if this version can read it. Other fields than those that it checks are ignored.

    Raises:
        ValueError: a field is missing or invalid; the message names it.
    """
    if not isinstance(manifest, dict):
        raise ValueError(f"the manifest must be a JSON object, found {type(manifest).__name__}")  # noqa: TRY004  # an error of the file
    check = partial(_check, manifest)
    check("schema_version", lambda v: v == SCHEMA_VERSION, f"{SCHEMA_VERSION}, the only version that this code reads")
    check("model_version", lambda v: isinstance(v, str) and v.isalnum(), "letters and digits")
    check("z.distribution", lambda v: v == "normal", '"normal"')
    check("conditional", lambda v: isinstance(v, bool), "true or false")
    inputs = ["z", "label"] if manifest["conditional"] else ["z"]
    check("inputs", lambda v: v == inputs, f"{json.dumps(inputs)}, as conditional is {manifest['conditional']}")
    if manifest["conditional"] or manifest.get("class_names") != []:
        check("class_names", _are_class_names, "a list of names, one for each label and different in NFC")
    check("image.channels", lambda v: v in (1, 3, 4), "1 (grayscale), 3 (RGB) or 4 (RGBA)")
    for path in ("z.dim", "image.height", "image.width"):
        check(path, lambda v: type(v) is int and v > 0, "a positive integer")
    for path in ("license", "attribution"):  # missing in older exports
        check(path, lambda v: v is None or isinstance(v, str), "text or null")
    check("files", _are_files, "an object with the sha256 of each file name")
    return manifest


def _are_class_names(value: Any) -> bool:
    are_names = isinstance(value, list) and all(isinstance(name, str) and 0 < len(name) <= _MAX_NAME for name in value)
    return are_names and 0 < len(value) == len(set(map(nfc, value)))


def _are_files(value: object) -> bool:
    return isinstance(value, dict) and all(
        _FILE_NAME.fullmatch(name) and isinstance(entry, dict) and isinstance(entry.get("sha256"), str)
        for name, entry in value.items()
    )


def _check(manifest: object, path: str, is_valid: Callable[[Any], bool], expected: str) -> None:
    """Raise ValueError if the value at a dotted path of the manifest is not valid; an absent value is None."""
    value: Any = manifest
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if not is_valid(value):
        raise ValueError(f"{path}: must be {expected}; found {json.dumps(value, default=str)[:80]}")
