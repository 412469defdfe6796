"""Validation of a request's fields: gives a checked request, or the list of all its errors."""

import functools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .accept import choose, lists_exactly
from .common.latents import MAX_SEED, label_tuple
from .common.text import nfc
from .fields import format_value, read_fields
from .model import Model
from .problem import BadRequest, FieldError

FILM_TYPES = ("image/gif", "image/webp")
OPENAPI_TYPE = "application/openapi+json"
HTML_TYPE = "text/html"
MEDIA_TYPES = ("image/png", "application/json", "image/webp", "image/gif", "application/x-npz", OPENAPI_TYPE)
MAX_SIDE = {"image/webp": 16_383, "image/gif": 65_535}  # pixels; limits of the file formats
DEFAULT_KEYFRAMES = 8  # of a film without `count`
LAYOUTS = ("grid", "strip")

_HEADERS = ("accept", "content-type", "content-length")  # all headers that change the meaning of a request
_MAX_NFD_RATIO = 4  # characters of the decomposed form (NFD) for one of the composed form (NFC)
_MAX_CACHED_BYTES = 1024  # larger requests are not cached


class Request(NamedTuple):
    """A valid request: `draws` latents, each used for `repeat` images, tiled in rows of `columns` images.

    With `frames` it is a film of that many pictures: a closed walk through the latents as keyframes, where a frame has
    `repeat` images of one latent.
    """

    media: str
    seed: int
    seeded: bool  # True if the client gave the seed: an equal request then has the same reply
    labels: tuple[int, ...] | None  # one for each image; None for an unconditional model
    draws: int
    repeat: int
    columns: int
    truncation: float
    scale: int
    frames: int = 0

    @property
    def images(self) -> int:
        """Number of images to generate."""
        return (self.frames or self.draws) * self.repeat


class Parser:
    """Parses requests to a model, with a cache, since most clients repeat the same request.

    With `page`, text/html is offered to a request without fields whose `Accept` lists it. A browser, which accepts
    images too, thus gets the page first and images after that. A client that accepts anything (`*/*`) gets an image.
    """

    def __init__(self, model: Model, page: bool = False) -> None:
        self._model = model
        self._page = page
        self._cached = functools.lru_cache(maxsize=256)(self._parse_uncached)

    def parse(self, inputs: Mapping[str, Any], headers: Mapping[str, str]) -> Request:
        """Parse one request.

        Args:
            inputs: as TorchServe passes them: `body` and the fields of query and form, as bytes. For a repeated field,
                ganctl's own workers pass a list; a stock worker passes the last value.
            headers: header names in lower case, with values.

        Raises:
            BadRequest: the request has errors; it lists all of them.
        """
        pairs = tuple(
            (name, bytes(member))
            for name, value in inputs.items()
            for member in (value if type(value) is list else (value,))
        )
        relevant = tuple(headers.get(name, "") for name in _HEADERS)
        size = sum(len(name) + len(value) for name, value in pairs) + sum(map(len, relevant))
        parse = self._cached if size <= _MAX_CACHED_BYTES else self._parse_uncached
        return _fill_in_random(parse(pairs, relevant), self._model)

    def _parse_uncached(self, pairs: tuple[tuple[str, bytes], ...], relevant: tuple[str, ...]) -> Request:
        headers = {name: value for name, value in zip(_HEADERS, relevant, strict=True) if value}
        return _parse_deterministic(pairs, headers, self._model, self._page)


def _parse_deterministic(
    pairs: Sequence[tuple[str, bytes]], headers: Mapping[str, str], model: Model, page: bool
) -> Request:
    """Parse all except the random parts: an omitted seed is 0, and omitted labels are the empty tuple."""
    errors: list[FieldError] = []
    fields = _FieldReader(read_fields(pairs, headers, model, errors), errors)
    accept = headers.get("accept")
    offered: tuple[str, ...] = FILM_TYPES if "frames" in fields.values else MEDIA_TYPES
    if page and accept and not fields.values and lists_exactly(accept, HTML_TYPE):
        offered = (HTML_TYPE, *MEDIA_TYPES)
    media = choose(accept, offered)
    if media is None:
        subject = "a film" if offered is FILM_TYPES else "this service"
        html = f", and {HTML_TYPE} where no field is given" if page else ""
        errors.append(FieldError("Accept", f"allows no type of {subject}: expected {', '.join(offered)}{html}", 406))
    request = _build(fields, media or offered[0], model)
    if errors:
        raise BadRequest(errors)
    return request


def _build(fields: "_FieldReader", media: str, model: Model) -> Request:
    limits = model.limits
    labels = fields.labels(model)
    text = fields.text(model)
    given = [name for name in ("digits", "labels", "text") if name in fields.values]
    if len(given) > 1:
        fields.add_error(given[-1], f"not together with {' and '.join(given[:-1])}: give one of them")
    frames = fields.integer("frames", 2, limits.max_frames) or 0
    sequence = text or labels
    repeat = max(1, len(sequence) if frames else len(text))
    count = fields.integer("count", 2 if frames else 1, limits.max_count)
    if count is None:
        count = min(DEFAULT_KEYFRAMES, frames) if frames else max(1, len(labels)) if not text else 1
    elif 0 < frames < count:
        fields.add_error("frames", f"must be at least `count`, the {count} keyframes of the film; found {frames}")
    seed, seeded = fields.integer("seed", 0, MAX_SEED), "seed" in fields.values
    truncation = fields.number("truncation", 0.0, 1.0)
    scale = fields.integer("scale", 1, limits.max_scale) or 1
    strip = fields.choice("layout", LAYOUTS) == "strip"

    pictures = frames or 1
    images = (frames or count) * repeat
    size_field = "frames" if frames else "count"
    if images * model.values > limits.max_values:
        most = limits.max_values // model.values
        fields.add_error(size_field, f"gives {images} images, expected at most {most}", 413)
    if images * model.height * model.width * scale**2 > limits.max_pixels:
        fields.add_error("scale", f"gives more than {limits.max_pixels:,} pixels; lower {size_field} or scale", 413)
    if frames or text:
        columns = repeat  # one strip for each row
    elif 1 < len(labels) < count:
        columns = len(labels)  # the list repeats, so each column has one label
    else:
        columns = math.isqrt(images - 1) + 1
    if strip:
        columns = images // pictures
    rows = -(-images // pictures // columns)
    side = scale * max(columns * model.width, rows * model.height)
    if side > MAX_SIDE.get(media, side):
        fields.add_error("scale", f"gives a side of {side:,} pixels; {media} allows {MAX_SIDE[media]:,}", 413)

    return Request(
        media=media,
        seed=seed or 0,
        seeded=seeded,
        labels=(() if fields.errors else _cycle(sequence, images)) if model.conditional else None,
        draws=count,
        repeat=repeat,
        columns=columns,
        truncation=1.0 if truncation is None else truncation,
        scale=scale,
        frames=frames,
    )


def _fill_in_random(request: Request, model: Model) -> Request:
    """Draw the seed and the labels that the client omitted."""
    seed = request.seed if request.seeded else int.from_bytes(os.urandom(8)) & MAX_SEED
    labels = request.labels
    if labels == ():
        drawn = label_tuple(seed, 1 if request.frames else request.draws, len(model.class_names))
        labels = _cycle(drawn, request.images) if request.frames else drawn
    return request._replace(seed=seed, labels=labels)


def _cycle(labels: tuple[int, ...], length: int) -> tuple[int, ...]:
    """Repeat a list of labels up to a length."""
    return (labels * -(-length // len(labels)))[:length] if labels else ()


class _FieldReader:
    """Typed access to a request's fields; a field with a wrong value is added to `errors` and reads as absent."""

    def __init__(self, values: Mapping[str, Any], errors: list[FieldError]) -> None:
        self.values = values
        self.errors = errors

    def add_error(self, name: str, detail: str, status: int = 400) -> None:
        self.errors.append(FieldError(name, detail, status))

    def integer(self, name: str, low: int, high: int) -> int | None:
        if name not in self.values:
            return None
        value = self.values[name]
        if type(value) is not int or not low <= value <= high:
            self.add_error(name, f"must be a whole number from {low} to {high}, found {format_value(value)}")
            return None
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        if name not in self.values:
            return None
        value = self.values[name]
        if type(value) not in (int, float) or not low <= value <= high:
            self.add_error(name, f"must be a number from {low:g} to {high:g}, found {format_value(value)}")
            return None
        return float(value)

    def choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        if name not in self.values:
            return None
        value = self.values[name]
        if value not in choices:
            self.add_error(name, f"must be {' or '.join(choices)}, found {format_value(value)}")
            return None
        return str(value)

    def labels(self, model: Model) -> tuple[int, ...]:
        """The labels in `digits` (numbers) or `labels` (names); empty if both are absent."""
        labels: list[int] = []
        for name in ("digits", "labels"):
            if name not in self.values or not self._check_conditional(name, model):
                continue
            value = self.values[name]
            members = value if isinstance(value, list) else [value]
            if not 1 <= len(members) <= model.limits.max_count:
                self.add_error(name, f"must have 1 to {model.limits.max_count} members, found {len(members)}")
                continue
            for index, member in enumerate(members):
                path = f"{name}[{index}]" if isinstance(value, list) else name
                if name == "labels":
                    labels.extend(self._label_of(path, member, model))
                elif type(member) is int and 0 <= member < len(model.class_names):
                    labels.append(member)
                else:
                    last = len(model.class_names) - 1
                    self.add_error(path, f"must be a whole number from 0 to {last}, found {format_value(member)}")
        return tuple(labels)

    def text(self, model: Model) -> tuple[int, ...]:
        """The labels of the characters in `text`; empty if it is absent."""
        if "text" not in self.values or not self._check_conditional("text", model):
            return ()
        value, longest = self.values["text"], model.limits.max_text
        if isinstance(value, str) and len(value) <= _MAX_NFD_RATIO * longest:
            value = nfc(value)
        if not isinstance(value, str) or not 1 <= len(value) <= longest:
            found = f"{len(value)} characters" if isinstance(value, str) else format_value(value)
            self.add_error("text", f"must be a string of 1 to {longest} characters, found {found}")
            return ()
        labels = [model.label_of(character) for character in value]
        known = tuple(label for label in labels if label is not None)
        if len(known) < len(labels):
            letters = "".join(name for name in model.class_names if len(name) == 1)
            unknown = sorted({value[i] for i, label in enumerate(labels) if label is None})
            allowed = letters or "nothing (no label is one character)"
            self.add_error("text", f"may hold {allowed}; found {format_value(''.join(unknown))}")
            return ()
        return known

    def _label_of(self, path: str, name: object, model: Model) -> list[int]:
        """The label of a name as a list of one; empty, with an error, if the model has no such label."""
        label = model.label_of(name) if isinstance(name, str) else None
        if label is not None:
            return [label]
        names = ", ".join(model.class_names[:20]) + (", …" if len(model.class_names) > 20 else "")
        has_comma = any("," in name for name in model.class_names)
        hint = "; in a query, repeat `labels=` for each name that has a comma" if has_comma else ""
        self.add_error(path, f"must be one of {names}; found {format_value(name)}{hint}")
        return []

    def _check_conditional(self, name: str, model: Model) -> bool:
        if not model.conditional:
            self.add_error(name, "this model has no labels: leave the field out")
        return model.conditional
