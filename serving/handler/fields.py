"""Reads the fields of a request out of what TorchServe hands over: a JSON body, a query, a form.

JSON keeps its types, which are checked strictly later. Queries and forms know only text, which is parsed by field.
"""

import difflib
import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from .model import Model
from .problem import SHOWN, Fault

FIELDS = ("digits", "labels", "text", "count", "seed", "truncation", "scale", "layout", "frames")

_INTEGER = re.compile(r"-?[0-9]{1,20}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_JSON_ADVICE = "JSON needs the header Content-Type: application/json"
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


def read(inputs: Mapping[str, Any], headers: Mapping[str, Any], model: Model, faults: list[Fault]) -> dict[str, Any]:
    """Gathers the fields of body, query and form by name; text is turned into what its field expects."""
    if sum(len(name) + len(value) for name, value in inputs.items()) > model.limits.max_body:
        faults.append(Fault("body", f"is larger than {model.limits.max_body:,} bytes", 413))
        return {}
    is_form = str(headers.get("content-type", "")).split(";")[0].strip().lower() in _FORMS
    if is_form and not inputs and headers.get("content-length", "0") != "0":
        # TorchServe drops what has no "=" in it; `curl -d '{"digits": 7}'` comes like this.
        faults.append(Fault("body", f"was sent as a form, and has no field of one; {_JSON_ADVICE}"))
    body = b"" if is_form else bytes(inputs.get("body", b""))
    fields = _json_fields(body, faults) if body.strip() else {}
    for name, value in inputs.items():
        if name == "body" and not is_form:
            continue
        if name in fields:
            faults.append(Fault(name, "is given in the query and in the body: give it once"))
        else:
            fields[name] = _from_text(name, bytes(value).decode("utf-8", "replace"))
    unknown = [name for name in fields if name not in FIELDS]
    for place, name in enumerate(unknown):
        near = difflib.get_close_matches(name[:30], FIELDS, n=1) if place < SHOWN else []
        advice = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(FIELDS)}"
        if is_form and name.lstrip().startswith("{"):
            advice = _JSON_ADVICE
        faults.append(Fault(name, f"unknown field; {advice}"))
    return {name: value for name, value in fields.items() if name in FIELDS}


def _json_fields(body: bytes, faults: list[Fault]) -> dict[str, Any]:
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
        faults.append(Fault("body", f"must be a JSON object: {reason}"))
        return {}
    if not isinstance(value, dict):
        faults.append(Fault("body", f"must be a JSON object, found {show(value)}"))
        return {}
    faults.extend(Fault(name, "is given more than once") for name in dict.fromkeys(repeated))
    return value


def _from_text(name: str, text: str) -> object:
    """What a field's text means; text that means nothing stays text, and is found faulty as such."""
    if name in ("digits", "labels"):
        members = [part.strip() for part in text.split(",")]
        values = [_from_text("count", part) for part in members] if name == "digits" else members
        return values if len(values) > 1 else values[0]
    if name in ("count", "seed", "scale", "frames") and _INTEGER.fullmatch(text):
        return int(text)
    if name == "truncation" and _NUMBER.fullmatch(text):
        return float(text)
    return text


def show(value: object) -> str:
    """A value as JSON for a message; containers are only named, as they may be deep and long."""
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "an object"
    shown = json.dumps(value)
    return shown if len(shown) <= 40 else shown[:40] + "…"
