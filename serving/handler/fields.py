"""Parsing of a request's fields from a JSON body, a query or a form.

JSON values keep their types; `request.py` checks them strictly. Queries and forms hold only text, which is converted
to the type of its field. A list is a repeated field or a text with commas. A text that equals a label's name is that
label, even if it contains commas.
"""

import difflib
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from .model import Model
from .problem import MAX_ERRORS, FieldError

FIELDS = ("digits", "labels", "text", "count", "seed", "truncation", "scale", "layout", "frames")
_REPEATABLE = ("digits", "labels")  # may occur several times in a query or a form

_INTEGER = re.compile(r"-?[0-9]{1,20}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_JSON_HINT = "JSON needs the header Content-Type: application/json"
_FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")


def read_fields(
    inputs: Sequence[tuple[str, bytes]], content_type: str, length: str, model: Model, errors: list[FieldError]
) -> dict[str, Any]:
    """Collect the known fields of body, query and form; text is converted to the type of its field.

    Args:
        inputs: names and values; `body` is the raw body.
        content_type: the header Content-Type, or "".
        length: the header Content-Length, or "".
        model: gives the limits and the class names.
        errors: receives the errors that are found.
    """
    if sum(len(name) + len(value) for name, value in inputs) > model.limits.max_body:
        errors.append(FieldError("body", f"is larger than {model.limits.max_body:,} bytes", 413))
        return {}
    is_form = content_type.split(";")[0].strip().lower() in _FORM_TYPES
    if is_form and not inputs and length not in ("", "0"):
        # TorchServe drops form parts without "=". `curl -d '{"digits": 7}'` sends such a part.
        errors.append(FieldError("body", f"was sent as a form, but holds no form field; {_JSON_HINT}"))
    body = b""
    texts: dict[str, list[str]] = {}
    for name, value in inputs:
        if name != "body" or is_form:
            texts.setdefault(name, []).append(value.decode("utf-8", "replace"))
        elif body:
            errors.append(FieldError("body", "is given more than once: give it once"))
        else:
            body = value
    fields = _parse_json(body, errors) if body.strip() else {}
    for name, values in texts.items():
        if name in fields:
            errors.append(FieldError(name, "is given in the query and in the body: give it once"))
        elif len(values) > 1 and name in FIELDS and name not in _REPEATABLE:
            errors.append(FieldError(name, "is given more than once: give it once"))
        else:
            fields[name] = _parse_text(name, values, model)
    unknown = [name for name in fields if name not in FIELDS]
    for index, name in enumerate(unknown):
        similar = difflib.get_close_matches(name[:30], FIELDS, n=1) if index < MAX_ERRORS else []
        hint = f"did you mean {similar[0]}?" if similar else f"the fields are {', '.join(FIELDS)}"
        if is_form and name.lstrip().startswith("{"):
            hint = _JSON_HINT
        elif any(f";{name}" in label for label in model.class_names):
            hint = "in a query, ';' ends a field; write %3B for a ';' in a label's name"
        errors.append(FieldError(name, f"unknown field; {hint}"))
    return {name: value for name, value in fields.items() if name in FIELDS}


def _parse_json(body: bytes, errors: list[FieldError]) -> dict[str, Any]:
    """The members of a JSON object; {} with an error if the body is anything else."""
    duplicates: list[str] = []

    def note_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            duplicates.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return members

    def reject_constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=note_duplicates, parse_constant=reject_constant)
    except (ValueError, RecursionError) as error:  # ValueError: also bad UTF-8 and numbers of thousands of digits
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        errors.append(FieldError("body", f"must be a JSON object: {reason}"))
        return {}
    if not isinstance(value, dict):
        errors.append(FieldError("body", f"must be a JSON object, found {format_value(value)}"))
        return {}
    errors.extend(FieldError(name, "is given more than once") for name in dict.fromkeys(duplicates))
    return value


def _parse_text(name: str, texts: list[str], model: Model) -> object:
    """Convert a field's texts to its type. Malformed text stays text, which `request.py` then refuses."""
    if name in _REPEATABLE:
        members: list[object] = [part for text in texts for part in _split_names(text, model)]
        if name == "digits":
            members = [_parse_integer(part.strip()) for text in texts for part in text.split(",")]
        return members if len(members) > 1 else members[0]
    if name in ("count", "seed", "scale", "frames"):
        return _parse_integer(texts[0])
    if name == "truncation" and _NUMBER.fullmatch(texts[0]):
        return float(texts[0])
    return texts[0]


def _split_names(text: str, model: Model) -> list[str]:
    """The whole text if it is a label's name, else its parts between commas."""
    if model.label_of(text) is not None:
        return [text]
    return [part if model.label_of(part) is not None else part.strip() for part in text.split(",")]


def _parse_integer(text: str) -> int | str:
    return int(text) if _INTEGER.fullmatch(text) else text


def format_value(value: object) -> str:
    """A value as short JSON for an error message. Containers are only named, as they may be deep and long."""
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "an object"
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:40] + "…"
