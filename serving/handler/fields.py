"""Reads the fields of a request out of what TorchServe hands over: a JSON body, a query, a form.

JSON keeps its types, which are checked strictly later. Queries and forms know only text, which is parsed by field. A
list is a field given several times, or text with commas; text that is a label's name as a whole is that label.
"""

import difflib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .model import Model
from .problem import SHOWN, FieldError

_LISTS = ("digits", "labels")  # fields that may be given several times in a query or a form
FIELDS = ("digits", "labels", "text", "count", "seed", "truncation", "scale", "layout", "frames")

_INTEGER = re.compile(r"-?[0-9]{1,20}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_JSON_ADVICE = "JSON needs the header Content-Type: application/json"
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


def read(
    given: Sequence[tuple[str, bytes]], headers: Mapping[str, Any], model: Model, faults: list[FieldError]
) -> dict[str, Any]:
    """Gathers the fields of body, query and form by name; text is turned into what its field expects."""
    if sum(len(name) + len(value) for name, value in given) > model.limits.max_body:
        faults.append(FieldError("body", f"is larger than {model.limits.max_body:,} bytes", 413))
        return {}
    is_form = str(headers.get("content-type", "")).split(";")[0].strip().lower() in _FORMS
    if is_form and not given and headers.get("content-length", "0") != "0":
        # TorchServe drops what has no "=" in it; `curl -d '{"digits": 7}'` comes like this.
        faults.append(FieldError("body", f"was sent as a form, and has no field of one; {_JSON_ADVICE}"))
    body = b""
    texts: dict[str, list[str]] = {}
    for name, value in given:
        if name != "body" or is_form:
            texts.setdefault(name, []).append(value.decode("utf-8", "replace"))
        elif body:
            faults.append(FieldError("body", "is given more than once: give it once"))
        else:
            body = value
    fields = _json_fields(body, faults) if body.strip() else {}
    for name, values in texts.items():
        if name in fields:
            faults.append(FieldError(name, "is given in the query and in the body: give it once"))
        elif len(values) > 1 and name in FIELDS and name not in _LISTS:
            faults.append(FieldError(name, "is given more than once: give it once"))
        else:
            fields[name] = _from_text(name, values, model)
    unknown = [name for name in fields if name not in FIELDS]
    for place, name in enumerate(unknown):
        near = difflib.get_close_matches(name[:30], FIELDS, n=1) if place < SHOWN else []
        advice = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(FIELDS)}"
        if is_form and name.lstrip().startswith("{"):
            advice = _JSON_ADVICE
        elif any(f";{name}" in label for label in model.class_names):
            advice = "in a query a ';' ends a field, and one that belongs to a label's name is written %3B"
        faults.append(FieldError(name, f"unknown field; {advice}"))
    return {name: value for name, value in fields.items() if name in FIELDS}


def _json_fields(body: bytes, faults: list[FieldError]) -> dict[str, Any]:
    repeated: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) < len(pairs):
            repeated.extend(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        return record

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=once, parse_constant=constant)
    except (ValueError, RecursionError) as error:  # ValueError: also bad UTF-8 and numbers of thousands of digits
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        faults.append(FieldError("body", f"must be a JSON object: {reason}"))
        return {}
    if not isinstance(value, dict):
        faults.append(FieldError("body", f"must be a JSON object, found {show(value)}"))
        return {}
    faults.extend(FieldError(name, "is given more than once") for name in dict.fromkeys(repeated))
    return value


def _from_text(name: str, texts: list[str], model: Model) -> object:
    """The meaning of a field's texts; text that means nothing stays text, and is found faulty as such."""
    if name == "labels":
        members: list[object] = [part for text in texts for part in _names(text, model)]
        return members if len(members) > 1 else members[0]
    if name == "digits":
        members = [_integer(part.strip()) for text in texts for part in text.split(",")]
        return members if len(members) > 1 else members[0]
    if name in ("count", "seed", "scale", "frames"):
        return _integer(texts[0])
    if name == "truncation" and _NUMBER.fullmatch(texts[0]):
        return float(texts[0])
    return texts[0]


def _names(text: str, model: Model) -> list[str]:
    """The label that `text` names as a whole, or else the members of a list with commas."""
    if model.number(text) is not None:
        return [text]
    return [part if model.number(part) is not None else part.strip() for part in text.split(",")]


def _integer(text: str) -> int | str:
    return int(text) if _INTEGER.fullmatch(text) else text


def show(value: object) -> str:
    """A value as JSON for a message; containers are only named, as they may be deep and long."""
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "an object"
    shown = json.dumps(value)
    return shown if len(shown) <= 40 else shown[:40] + "…"
