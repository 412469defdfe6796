"""From the fields that were given to a checked request, or to the list of everything that is wrong with them."""

import functools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .accept import choose, names
from .common.latents import MAX_SEED, label_tuple
from .common.text import nfc
from .fields import read, show
from .model import Model
from .problem import BadRequest, FieldError

FILMS = ("image/gif", "image/webp")
DESCRIPTION = "application/openapi+json"
PAGE = "text/html"
MEDIA_TYPES = ("image/png", "application/json", "image/webp", "image/gif", "application/x-npz", DESCRIPTION)
LONGEST_SIDE = {"image/webp": 16_383, "image/gif": 65_535}  # pixels, where a format ends
STOPS = 8  # of a walk whose `count` nobody gives
LAYOUTS = ("grid", "strip")

_HEADERS = ("accept", "content-type", "content-length")  # all that a request's meaning depends on
_LONGEST_FORM = 4  # characters of the decomposed form for one of the composed
_KNOWN = 1024  # bytes of a request that is remembered


class Request(NamedTuple):
    """A request that will be answered: `draws` latents, each used for `repeat` images, in rows of `columns` images.

    With `frames` it is a film of as many pictures: a closed walk through the latents, each frame drawing `repeat`
    images of one.
    """

    media: str
    seed: int
    seeded: bool  # whether the seed was given: then another such request has the same answer
    labels: tuple[int, ...] | None  # one for each image; None where the model is unconditional
    draws: int
    repeat: int
    columns: int
    truncation: float
    scale: int
    frames: int = 0

    @property
    def images(self) -> int:
        return (self.frames or self.draws) * self.repeat


class Parser:
    """Reads requests to a model. What it has read lately it knows again: most clients ask for the same again and again.

    With `page` there is text/html, too, for who names it and gives no field. So a browser, which names pictures as
    well, gets the page first and then pictures, and a program that takes anything (`*/*`) gets a picture.
    """

    def __init__(self, model: Model, page: bool = False) -> None:
        self._model = model
        self._page = page
        self._known = functools.lru_cache(maxsize=256)(self._plan)

    def parse(self, inputs: Mapping[str, Any], headers: Mapping[str, str]) -> Request:
        """Reads one request: `inputs` as TorchServe gives them (`body`, and the fields of query and form, as bytes),
        and the headers with their names in small letters. Our own workers give a list for a field that is given several
        times, of which a stock worker keeps the last.

        Raises BadRequest with all faults at once.
        """
        given = tuple(
            (name, bytes(each))
            for name, value in inputs.items()
            for each in (value if type(value) is list else (value,))
        )
        read = tuple(headers.get(name, "") for name in _HEADERS)
        size = sum(len(name) + len(value) for name, value in given) + sum(map(len, read))
        return _drawn((self._known if size <= _KNOWN else self._plan)(given, read), self._model)

    def _plan(self, given: tuple[tuple[str, bytes], ...], read: tuple[str, ...]) -> Request:
        headers = {name: value for name, value in zip(_HEADERS, read, strict=True) if value}
        return _planned(given, headers, self._model, self._page)


def _planned(given: Sequence[tuple[str, bytes]], headers: Mapping[str, str], model: Model, page: bool) -> Request:
    """All of a request that is not drawn: a seed that nobody gave is 0, and labels that nobody chose are none."""
    faults: list[FieldError] = []
    fields = _Fields(read(given, headers, model, faults), faults)
    accept = headers.get("accept")
    offered: tuple[str, ...] = FILMS if "frames" in fields.values else MEDIA_TYPES
    if page and accept and not fields.values and names(accept, PAGE):
        offered = (PAGE, *MEDIA_TYPES)
    media = choose(accept, offered)
    if media is None:
        what = "a film is" if offered is FILMS else "the types of this service are"
        also = f", and {PAGE} where no field is given" if page else ""
        faults.append(FieldError("Accept", f"allows none of what there is: {what} {', '.join(offered)}{also}", 406))
    request = _build(fields, media or offered[0], model)
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
    frames = fields.integer("frames", 2, limits.max_frames) or 0
    sequence = text or chosen
    row = max(1, len(sequence) if frames else len(text))  # images of one latent
    count = fields.integer("count", 2 if frames else 1, limits.max_count)
    if count is None:
        count = min(STOPS, frames) if frames else max(1, len(chosen)) if not text else 1
    elif 0 < frames < count:
        fields.fault("frames", f"must be as many as the {count} stops that the walk passes, or more; found {frames}")
    seed, seeded = fields.integer("seed", 0, MAX_SEED), "seed" in fields.values
    truncation = fields.number("truncation", 0.0, 1.0)
    scale = fields.integer("scale", 1, limits.max_scale) or 1
    strip = fields.choice("layout", LAYOUTS) == "strip"

    pictures = frames or 1
    images = (frames or count) * row
    if images * model.values > limits.max_values:
        fields.fault(
            _fewer(frames), f"asks for {images} images; at most {limits.max_values // model.values} at once", 413
        )
    if images * model.height * model.width * scale**2 > limits.max_pixels:
        fields.fault("scale", f"gives more than {limits.max_pixels:,} pixels; lower {_fewer(frames)} or scale", 413)
    if frames or text:
        columns = row  # a strip a row
    elif 1 < len(chosen) < count:
        columns = len(chosen)  # the list repeats, so each column keeps its label
    else:
        columns = math.isqrt(images - 1) + 1
    if strip:
        columns = images // pictures
    rows = -(-images // pictures // columns)
    side = scale * max(columns * model.width, rows * model.height)
    if side > LONGEST_SIDE.get(media, side):
        fields.fault("scale", f"gives {side:,} pixels in a row; {media} ends at {LONGEST_SIDE[media]:,}", 413)

    return Request(
        media=media,
        seed=seed or 0,
        seeded=seeded,
        labels=(() if fields.faults else _repeated(sequence, images)) if model.conditional else None,
        draws=count,
        repeat=row,
        columns=columns,
        truncation=1.0 if truncation is None else truncation,
        scale=scale,
        frames=frames,
    )


def _drawn(plan: Request, model: Model) -> Request:
    seed = plan.seed if plan.seeded else int.from_bytes(os.urandom(8)) & MAX_SEED
    labels = plan.labels
    if labels == ():
        drawn = label_tuple(seed, 1 if plan.frames else plan.draws, len(model.class_names))
        labels = _repeated(drawn, plan.images) if plan.frames else drawn
    return plan._replace(seed=seed, labels=labels)


def _repeated(labels: tuple[int, ...], images: int) -> tuple[int, ...]:
    return (labels * -(-images // len(labels)))[:images] if labels else ()


def _fewer(frames: int) -> str:
    return "frames" if frames else "count"


class _Fields:
    """The fields that were given, read one by one; what is wrong with them is noted in `faults`."""

    def __init__(self, values: Mapping[str, Any], faults: list[FieldError]) -> None:
        self.values = values
        self.faults = faults

    def fault(self, name: str, detail: str, status: int = 400) -> None:
        self.faults.append(FieldError(name, detail, status))

    def integer(self, name: str, low: int, high: int) -> int | None:
        if name not in self.values:
            return None
        value = self.values[name]
        if type(value) is not int or not low <= value <= high:
            self.fault(name, f"must be a whole number from {low} to {high}, found {show(value)}")
            return None
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        if name not in self.values:
            return None
        value = self.values[name]
        if type(value) not in (int, float) or not low <= value <= high:
            self.fault(name, f"must be a number from {low:g} to {high:g}, found {show(value)}")
            return None
        return float(value)

    def choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        if name not in self.values:
            return None
        value = self.values[name]
        if value not in choices:
            self.fault(name, f"must be {' or '.join(choices)}, found {show(value)}")
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
                    self.fault(where, f"must be a whole number from 0 to {last}, found {show(member)}")
        return tuple(chosen)

    def text(self, model: Model) -> tuple[int, ...]:
        """The labels of the characters of `text`; empty where it was not given."""
        if "text" not in self.values or not self._conditional("text", model):
            return ()
        value, longest = self.values["text"], model.limits.max_text
        if isinstance(value, str) and len(value) <= _LONGEST_FORM * longest:
            value = nfc(value)
        if not isinstance(value, str) or not 1 <= len(value) <= longest:
            found = f"{len(value)} characters" if isinstance(value, str) else show(value)
            self.fault("text", f"must be a string of 1 to {longest} characters, found {found}")
            return ()
        labels = [model.number(character) for character in value]
        known = tuple(label for label in labels if label is not None)
        if len(known) < len(labels):
            letters = "".join(name for name in model.class_names if len(name) == 1)
            foreign = sorted({value[i] for i, label in enumerate(labels) if label is None})
            expected = letters or "nothing (no label is one character)"
            self.fault("text", f"may hold {expected}; found {show(''.join(foreign))}")
            return ()
        return known

    def _named(self, where: str, name: object, model: Model) -> list[int]:
        label = model.number(name) if isinstance(name, str) else None
        if label is not None:
            return [label]
        names = ", ".join(model.class_names[:20]) + (", …" if len(model.class_names) > 20 else "")
        commas = any("," in name for name in model.class_names)
        advice = "; in a query, repeat `labels=` for each name that has a comma" if commas else ""
        self.fault(where, f"must be one of {names}; found {show(name)}{advice}")
        return []

    def _conditional(self, name: str, model: Model) -> bool:
        if not model.conditional:
            self.fault(name, "this model knows no labels: leave the field out")
        return model.conditional
