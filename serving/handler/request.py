"""From what TorchServe hands over to a checked request, or to the list of everything that is wrong with it.

A body is a JSON object with strict types; in queries and forms, which know only text, the same fields are parsed.
"""

import difflib
import json
import math
import re
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .accept import choose
from .latents import MAX_SEED, draw_labels
from .model import Model
from .problem import SHOWN, BadRequest, Fault

MEDIA_TYPES = ("image/png", "application/json")
FIELDS = ("digits", "labels", "text", "count", "seed", "truncation", "scale", "layout")
LAYOUTS = ("grid", "strip")

_INTEGER = re.compile(r"-?[0-9]{1,20}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


@dataclass(frozen=True)
class Request:
    """A request that will be answered: `draws` latents, each used for `repeat` images, in rows of `columns` images."""

    media: str
    seed: int
    labels: tuple[int, ...] | None  # one for each image; None where the model is unconditional
    draws: int
    repeat: int
    columns: int
    truncation: float
    scale: int

    @property
    def images(self) -> int:
        return self.draws * self.repeat


def parse(inputs: Mapping[str, Any], headers: Mapping[str, Any], model: Model) -> Request:
    """Reads one request: `inputs` as TorchServe gives them (`body`, and the fields of query and form, as bytes).

    Raises BadRequest with all faults at once.
    """
    faults: list[Fault] = []
    media = choose(headers.get("accept"), MEDIA_TYPES)
    if media is None:
        faults.append(Fault("Accept", f"allows none of the types of this service: {', '.join(MEDIA_TYPES)}", 406))
    fields = _Fields(_read(inputs, headers, model, faults), faults)
    request = _build(fields, media or MEDIA_TYPES[0], model)
    if faults:
        raise BadRequest(faults)
    return request


def _build(fields: "_Fields", media: str, model: Model) -> Request:
    limits = model.limits
    chosen = fields.labels(model)
    text = fields.text(model)
    given = [name for name in ("digits", "labels", "text") if name in fields.values]
    if len(given) > 1:
        fields.fault(given[-1], f"not together with {' and '.join(given[:-1])}: give one of them")
    count = fields.integer("count", 1, limits.max_count)
    if count is None:
        count = max(1, len(chosen)) if not text else 1
    seed = fields.integer("seed", 0, MAX_SEED)
    if seed is None:
        seed = secrets.randbelow(MAX_SEED + 1)
    truncation = fields.number("truncation", 0.0, 1.0)
    scale = fields.integer("scale", 1, limits.max_scale) or 1
    strip = fields.choice("layout", LAYOUTS) == "strip"

    images = count * max(1, len(text))
    if images * model.values > limits.max_values:
        fields.fault("count", f"asks for {images} images; at most {limits.max_values // model.values} at once", 413)
    if images * model.height * model.width * scale**2 > limits.max_pixels:
        fields.fault("scale", f"gives more than {limits.max_pixels:,} pixels; lower count or scale", 413)
    if fields.faults or not model.conditional:
        labels = None
    elif text or chosen:
        sequence = text or chosen
        labels = (sequence * -(-images // len(sequence)))[:images]
    else:
        labels = tuple(draw_labels(seed, count, len(model.class_names)).tolist())

    if strip:
        columns = images
    elif text:
        columns = len(text)  # a strip a row
    elif 1 < len(chosen) < count:
        columns = len(chosen)  # the list repeats, so each column keeps its label
    else:
        columns = math.isqrt(images - 1) + 1
    return Request(
        media=media,
        seed=seed,
        labels=labels,
        draws=count,
        repeat=max(1, len(text)),
        columns=columns,
        truncation=1.0 if truncation is None else truncation,
        scale=scale,
    )


class _Fields:
    """The fields that were given, read one by one; what is wrong with them is noted in `faults`."""

    def __init__(self, values: Mapping[str, Any], faults: list[Fault]) -> None:
        self.values = values
        self.faults = faults

    def fault(self, name: str, detail: str, status: int = 400) -> None:
        self.faults.append(Fault(name, detail, status))

    def integer(self, name: str, low: int, high: int) -> int | None:
        if name not in self.values:
            return None
        value = self.values[name]
        if type(value) is not int or not low <= value <= high:
            self.fault(name, f"must be a whole number from {low} to {high}, found {_show(value)}")
            return None
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        if name not in self.values:
            return None
        value = self.values[name]
        if type(value) not in (int, float) or not low <= value <= high:
            self.fault(name, f"must be a number from {low:g} to {high:g}, found {_show(value)}")
            return None
        return float(value)

    def choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        if name not in self.values:
            return None
        value = self.values[name]
        if value not in choices:
            self.fault(name, f"must be {' or '.join(choices)}, found {_show(value)}")
            return None
        return str(value)

    def labels(self, model: Model) -> tuple[int, ...]:
        """The labels that `digits` (numbers) or `labels` (names) ask for; empty where neither does."""
        chosen: list[int] = []
        for name in ("digits", "labels"):
            if name not in self.values or not self._conditional(name, model):
                continue
            value = self.values[name]
            members = value if isinstance(value, list) else [value]
            if not 1 <= len(members) <= model.limits.max_count:
                self.fault(name, f"must have 1 to {model.limits.max_count} members, found {len(members)}")
                continue
            for place, member in enumerate(members):
                where = f"{name}[{place}]" if isinstance(value, list) else name
                if name == "labels":
                    chosen.extend(self._named(where, member, model))
                elif type(member) is int and 0 <= member < len(model.class_names):
                    chosen.append(member)
                else:
                    last = len(model.class_names) - 1
                    self.fault(where, f"must be a whole number from 0 to {last}, found {_show(member)}")
        return tuple(chosen)

    def text(self, model: Model) -> tuple[int, ...]:
        """The labels of the characters of `text`; empty where it was not given."""
        if "text" not in self.values or not self._conditional("text", model):
            return ()
        value, longest = self.values["text"], model.limits.max_text
        if not isinstance(value, str) or not 1 <= len(value) <= longest:
            found = f"{len(value)} characters" if isinstance(value, str) else _show(value)
            self.fault("text", f"must be a string of 1 to {longest} characters, found {found}")
            return ()
        foreign = sorted(set(value) - set(model.class_names))
        if foreign:
            known = (
                "".join(name for name in model.class_names if len(name) == 1) or "nothing (no label is one character)"
            )
            self.fault("text", f"may hold {known}; found {_show(''.join(foreign))}")
            return ()
        return tuple(model.class_names.index(character) for character in value)

    def _named(self, where: str, name: object, model: Model) -> list[int]:
        if isinstance(name, str) and name in model.class_names:
            return [model.class_names.index(name)]
        names = ", ".join(model.class_names[:20]) + (", …" if len(model.class_names) > 20 else "")
        self.fault(where, f"must be one of {names}; found {_show(name)}")
        return []

    def _conditional(self, name: str, model: Model) -> bool:
        if not model.conditional:
            self.fault(name, "this model knows no labels: leave the field out")
        return model.conditional


def _read(inputs: Mapping[str, Any], headers: Mapping[str, Any], model: Model, faults: list[Fault]) -> dict[str, Any]:
    """Gathers the fields of body, query and form by name; text is turned into what its field expects."""
    if sum(len(name) + len(value) for name, value in inputs.items()) > model.limits.max_body:
        faults.append(Fault("body", f"is larger than {model.limits.max_body:,} bytes", 413))
        return {}
    is_form = str(headers.get("content-type", "")).split(";")[0].strip().lower() in _FORMS
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
            advice = "JSON needs the header Content-Type: application/json"
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
        faults.append(Fault("body", f"must be a JSON object, found {_show(value)}"))
        return {}
    faults.extend(Fault(name, "is given more than once") for name in dict.fromkeys(repeated))
    return value


def _from_text(name: str, text: str) -> object:
    """What a field's text means; text that means nothing stays text, and is found faulty as such."""
    if name in ("digits", "labels"):
        members = [part.strip() for part in text.split(",")]
        values = [_from_text("count", part) for part in members] if name == "digits" else members
        return values if len(values) > 1 else values[0]
    if name in ("count", "seed", "scale") and _INTEGER.fullmatch(text):
        return int(text)
    if name == "truncation" and _NUMBER.fullmatch(text):
        return float(text)
    return text


def _show(value: object) -> str:
    """A value as JSON for a message; containers are only named, as they may be deep and long."""
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "an object"
    shown = json.dumps(value)
    return shown if len(shown) <= 40 else shown[:40] + "…"
