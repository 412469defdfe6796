"""Turns a request's fields and headers into a checked request, or into the list of all its errors."""

import functools
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from .accept import choose, lists_exactly
from .common.latents import MAX_SEED, label_tuple
from .common.text import nfc
from .fields import format_value, read_fields
from .model import Model
from .problem import BadRequest, FieldError

ANIMATION_TYPES = ("image/gif", "image/webp")
OPENAPI_TYPE = "application/openapi+json"
HTML_TYPE = "text/html"
MEDIA_TYPES = ("image/png", "application/json", "image/webp", "image/gif", "application/x-npz", OPENAPI_TYPE)
MAX_SIDE = {"image/webp": 16_383, "image/gif": 65_535}  # pixels; limits of the file formats
DEFAULT_KEYFRAMES = 8  # of an animation without `count`
LAYOUTS = ("grid", "strip")

_HEADERS = ("accept", "content-type", "content-length")  # all headers that change the meaning of a request
_MAX_NFD_RATIO = 4  # characters of the decomposed form (NFD) for one of the composed form (NFC)
_MAX_CACHED_BYTES = 1024  # larger requests are not cached

Value = TypeVar("Value")


class Request(NamedTuple):
    """A valid request: `num_latents` latents, each used for `repeat` images, tiled in rows of `columns` images.

    With `frames` it is an animation of that many pictures: a closed walk through the latents, which are its keyframes.
    Each frame then has `repeat` images of one latent.
    """

    media: str
    seed: int
    seeded: bool  # True if the client gave the seed: an equal request then has the same reply
    labels: tuple[int, ...] | None  # one for each image; None for an unconditional model
    num_latents: int
    repeat: int
    columns: int
    truncation: float
    scale: int
    frames: int = 0

    @property
    def images(self) -> int:
        """Number of images to generate."""
        return (self.frames or self.num_latents) * self.repeat


class Parser:
    """Parses requests to a model, with a cache, since most clients repeat the same request.

    With `page`, a request without fields gets text/html if its `Accept` lists that type. A browser, which also accepts
    images, thus gets the page first, and images for requests with fields. A client that accepts anything (`*/*`) gets
    an image.
    """

    def __init__(self, model: Model, page: bool = False) -> None:
        self._model = model
        self._page = page
        self._parse_cached = functools.lru_cache(maxsize=256)(self._parse)

    def parse(self, inputs: Mapping[str, Any], headers: Mapping[str, str]) -> Request:
        """Parse one request.

        Args:
            inputs: bytes of the body, named `body`, and of each field of query and form; a list if a field is repeated.
            headers: header names in lower case, with values.

        Raises:
            BadRequest: the request has errors; it lists all of them.
        """
        pairs = tuple(
            (name, bytes(member))
            for name, value in inputs.items()
            for member in (value if type(value) is list else (value,))
        )
        relevant = [headers.get(name, "") for name in _HEADERS]
        size = sum(len(name) + len(value) for name, value in pairs) + sum(map(len, relevant))
        parse = self._parse_cached if size <= _MAX_CACHED_BYTES else self._parse
        return _fill_in_random(parse(pairs, *relevant), self._model)

    def _parse(self, pairs: tuple[tuple[str, bytes], ...], accept: str, content_type: str, length: str) -> Request:
        """Parse all except the random parts: an omitted seed is 0, and omitted labels are the empty tuple."""
        errors: list[FieldError] = []
        values = read_fields(pairs, content_type, length, self._model, errors)
        offered: tuple[str, ...] = ANIMATION_TYPES if "frames" in values else MEDIA_TYPES
        if self._page and not values and lists_exactly(accept, HTML_TYPE):
            offered = (HTML_TYPE, *MEDIA_TYPES)
        media = choose(accept, offered)
        if media is None:
            subject = "an animation" if offered is ANIMATION_TYPES else "this service"
            html = f", and {HTML_TYPE} where no field is given" if self._page else ""
            detail = f"allows no type of {subject}: expected {', '.join(offered)}{html}"
            errors.append(FieldError("Accept", detail, 406))
        request = _build(_FieldReader(values, errors, self._model), media or offered[0])
        if errors:
            raise BadRequest(errors)
        return request


def _build(fields: "_FieldReader", media: str) -> Request:
    model, limits = fields.model, fields.model.limits
    labels = fields.labels()
    text = fields.text()
    given = [name for name in ("digits", "labels", "text") if name in fields.values]
    if len(given) > 1:
        fields.add_error(given[-1], f"not together with {' and '.join(given[:-1])}: give one of them")
    frames = fields.integer("frames", 2, limits.max_frames, default=0)
    sequence = text or labels
    repeat = max(1, len(sequence) if frames else len(text))
    default_count = 1 if text else max(1, len(labels))
    if frames:
        default_count = min(DEFAULT_KEYFRAMES, frames)
    count = fields.integer("count", 2 if frames else 1, limits.max_count, default=default_count)
    if 0 < frames < count:
        fields.add_error("frames", f"must be at least `count`, the {count} keyframes of the animation; found {frames}")
    seed = fields.integer("seed", 0, MAX_SEED, default=0)
    truncation = fields.get("truncation", _is_fraction, "a number from 0 to 1", default=1.0)
    scale = fields.integer("scale", 1, limits.max_scale, default=1)
    layout = fields.get("layout", LAYOUTS.__contains__, " or ".join(LAYOUTS), default=LAYOUTS[0])

    per_picture = repeat if frames else count * repeat
    images = (frames or 1) * per_picture
    size_field = "frames" if frames else "count"
    if images * model.values > limits.max_values:
        most = limits.max_values // model.values
        fields.add_error(size_field, f"gives {images} images, expected at most {most}", 413)
    if images * model.height * model.width * scale**2 > limits.max_pixels:
        fields.add_error("scale", f"gives more than {limits.max_pixels:,} pixels; lower {size_field} or scale", 413)
    if layout == "strip":
        columns = per_picture
    elif frames or text:
        columns = repeat  # one strip for each row
    elif 1 < len(labels) < count:
        columns = len(labels)  # the list repeats, so each column has one label
    else:
        columns = math.isqrt(images - 1) + 1
    rows = -(-per_picture // columns)
    side = scale * max(columns * model.width, rows * model.height)
    if side > MAX_SIDE.get(media, side):
        fields.add_error("scale", f"gives a side of {side:,} pixels; {media} allows {MAX_SIDE[media]:,}", 413)

    return Request(
        media=media,
        seed=seed,
        seeded="seed" in fields.values,
        labels=_cycle(sequence, images) if model.conditional else None,
        num_latents=count,
        repeat=repeat,
        columns=columns,
        truncation=float(truncation),
        scale=scale,
        frames=frames,
    )


def _fill_in_random(request: Request, model: Model) -> Request:
    """Draw the seed and the labels that the client omitted."""
    seed = request.seed if request.seeded else int.from_bytes(os.urandom(8)) & MAX_SEED
    labels = request.labels
    if labels == ():
        drawn = label_tuple(seed, 1 if request.frames else request.num_latents, len(model.class_names))
        labels = _cycle(drawn, request.images)
    return request._replace(seed=seed, labels=labels)


def _cycle(labels: tuple[int, ...], length: int) -> tuple[int, ...]:
    """Repeat a list of labels up to a length."""
    return (labels * -(-length // len(labels)))[:length] if labels else ()


def _is_fraction(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


class _FieldReader:
    """Typed access to a request's fields; a wrong value reads as the default and adds an error to `errors`."""

    def __init__(self, values: Mapping[str, Any], errors: list[FieldError], model: Model) -> None:
        self.values = values
        self.errors = errors
        self.model = model

    def add_error(self, name: str, detail: str, status: int = 400) -> None:
        self.errors.append(FieldError(name, detail, status))

    def get(self, name: str, is_valid: Callable[[Any], bool], expected: str, *, default: Value) -> Value:
        value: Value = self.values.get(name, default)
        if name not in self.values or is_valid(value):
            return value
        self.add_error(name, f"must be {expected}, found {format_value(value)}")
        return default

    def integer(self, name: str, low: int, high: int, *, default: int) -> int:
        expected = f"a whole number from {low} to {high}"
        return self.get(name, lambda value: type(value) is int and low <= value <= high, expected, default=default)

    def labels(self) -> tuple[int, ...]:
        """The labels in `digits` (numbers) or `labels` (names); empty if both are absent."""
        labels: list[int] = []
        last, most = len(self.model.class_names) - 1, self.model.limits.max_count
        for name in filter(self._has_labels, ("digits", "labels")):
            value = self.values[name]
            members = value if isinstance(value, list) else [value]
            if not 1 <= len(members) <= most:
                self.add_error(name, f"must have 1 to {most} members, found {len(members)}")
                continue
            for index, member in enumerate(members):
                path = f"{name}[{index}]" if isinstance(value, list) else name
                if name == "labels":
                    labels += self._label_of(path, member)
                elif type(member) is int and 0 <= member <= last:
                    labels.append(member)
                else:
                    self.add_error(path, f"must be a whole number from 0 to {last}, found {format_value(member)}")
        return tuple(labels)

    def text(self) -> tuple[int, ...]:
        """The labels of the characters in `text`; empty if it is absent."""
        if not self._has_labels("text"):
            return ()
        model, value, longest = self.model, self.values["text"], self.model.limits.max_text
        if isinstance(value, str) and len(value) <= _MAX_NFD_RATIO * longest:
            value = nfc(value)
        if not isinstance(value, str) or not 1 <= len(value) <= longest:
            found = f"{len(value)} characters" if isinstance(value, str) else format_value(value)
            self.add_error("text", f"must be a string of 1 to {longest} characters, found {found}")
            return ()
        unknown = sorted({character for character in value if model.label_of(character) is None})
        if unknown:
            letters = "".join(name for name in model.class_names if len(name) == 1)
            expected = f"may hold {letters}" if letters else "needs labels of one character, and this model has none"
            self.add_error("text", f"{expected}; found {format_value(''.join(unknown))}")
            return ()
        return tuple(label for character in value if (label := model.label_of(character)) is not None)

    def _label_of(self, path: str, name: object) -> list[int]:
        """The label of a name as a list of one; empty, with an error, if the model has no such label."""
        model = self.model
        label = model.label_of(name) if isinstance(name, str) else None
        if label is not None:
            return [label]
        names = ", ".join(model.class_names[:20]) + (", …" if len(model.class_names) > 20 else "")
        has_comma = any("," in name for name in model.class_names)
        hint = "; in a query, repeat `labels=` for each name that has a comma" if has_comma else ""
        self.add_error(path, f"must be one of {names}; found {format_value(name)}{hint}")
        return []

    def _has_labels(self, name: str) -> bool:
        """Return whether a field with labels is given; for an unconditional model this is an error."""
        given = name in self.values
        if given and not self.model.conditional:
            self.add_error(name, "this model has no labels: leave the field out")
        return given and self.model.conditional
