"""OpenAPI 3.1 document of a service: its fields with their limits, and its replies."""

import json
from collections.abc import Sequence
from typing import Any

from .common.latents import MAX_SEED
from .model import Model
from .problem import MEDIA_TYPE as PROBLEM_TYPE
from .request import ANIMATION_TYPES, DEFAULT_KEYFRAMES, HTML_TYPE, LAYOUTS, MEDIA_TYPES, OPENAPI_TYPE

JsonObject = dict[str, Any]


def build_openapi(model: Model, page: bool = False) -> bytes:
    """The OpenAPI document as JSON.

    Args:
        model: gives the fields and their limits.
        page: whether the service has a page for browsers.
    """
    fields = _fields(model)
    replies = _replies(page)
    accept = [_reference("parameters/accept")]
    queries = [*accept, *(_query(name, schema, model) for name, schema in fields.items())]
    form = {"type": "object", "properties": dict.fromkeys(fields, _STRING), "additionalProperties": False}
    content = {
        "application/json": {"schema": _reference("schemas/Request")},
        "application/x-www-form-urlencoded": {"schema": form},
    }
    draw = _operation("draw", "Draws one image.", accept, replies)
    draw_fields = _operation(
        "drawFields", "Draws images; the body holds the fields.", accept, replies, requestBody={"content": content}
    )
    draw_query = _operation("drawQuery", "Draws images; the query holds the fields.", queries, replies)
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "ganctl",
            "version": model.version,
            "summary": "Draws images from a generator.",
            "description": "A request with a seed gets the same bytes for as long as the version is the same. A client"
            " that sends the reply's `ETag` as `If-None-Match` then gets 304 without a body.",
        },
        "paths": {
            f"/predictions/{model.name}": {"get": draw, "post": draw_fields},
            f"/{model.name}/predict": {"get": draw_query},
        },
        "components": {
            "schemas": {
                "Request": {"type": "object", "properties": fields, "additionalProperties": False},
                "Images": _images(model),
                "Problem": _PROBLEM,
                "Refusal": _REFUSAL,
            },
            "parameters": {"accept": _ACCEPT},
            "headers": _HEADERS,
        },
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _operation(name: str, summary: str, parameters: list[JsonObject], replies: JsonObject, **body: Any) -> JsonObject:
    common = {"tags": ["generator"], "responses": replies}
    return {"operationId": name, "summary": summary, "parameters": parameters, **body, **common}


def _reference(component: str) -> JsonObject:
    return {"$ref": f"#/components/{component}"}


def _object(properties: JsonObject, required: Sequence[str] = ()) -> JsonObject:
    """The schema of an object; all its properties are required unless `required` names some of them."""
    return {"type": "object", "properties": properties, "required": list(required or properties)}


def _fields(model: Model) -> dict[str, JsonObject]:
    """The JSON schema of each field that this model accepts."""
    limits = model.limits
    fields: dict[str, JsonObject] = {}
    if model.conditional:
        label = _INTEGER | {"minimum": 0, "maximum": len(model.class_names) - 1}
        names = {"type": "string", "enum": list(model.class_names)}
        for field, one, summary in (("digits", label, "Labels by number"), ("labels", names, "Labels by name")):
            several = {"type": "array", "items": one, "minItems": 1, "maxItems": model.max_count}
            fields[field] = {"oneOf": [one, several], "description": f"{summary}; the list repeats up to `count`."}
        fields["labels"]["description"] += _NAMES
        letters = [name for name in model.class_names if len(name) == 1]
        if letters:
            pattern = f"^[{''.join(letters).translate(_ESCAPES)}]+$"
            length = {"minLength": 1, "maxLength": limits.max_text}
            fields["text"] = _STRING | length | {"pattern": pattern, "description": _TEXT}
    fields |= {
        "count": _INTEGER | {"minimum": 1, "maximum": model.max_count, "description": _COUNT},
        "seed": _INTEGER | {"minimum": 0, "maximum": MAX_SEED, "description": _SEED},
        "truncation": {"type": "number", "minimum": 0, "maximum": 1, "default": 1, "description": _TRUNCATION},
        "scale": _INTEGER | {"minimum": 1, "maximum": limits.max_scale, "default": 1, "description": _SCALE},
        "layout": {"type": "string", "enum": list(LAYOUTS), "default": LAYOUTS[0]},
        "frames": _INTEGER | {"minimum": 2, "maximum": model.max_frames, "description": _FRAMES},
    }
    return fields


def _query(name: str, schema: JsonObject, model: Model) -> JsonObject:
    """A field as a query parameter."""
    without_description = {key: value for key, value in schema.items() if key != "description"}
    has_comma = any("," in label for label in model.class_names)
    explode = name == "labels" and has_comma  # then each name in the list needs a parameter of its own
    parameter = {"name": name, "in": "query", "schema": without_description, "style": "form", "explode": explode}
    return parameter | ({"description": schema["description"]} if "description" in schema else {})


def _replies(page: bool) -> JsonObject:
    """The replies of every operation, by status."""
    types: JsonObject = {media: {} for media in MEDIA_TYPES if media != "application/json"}
    types["application/json"] = {"schema": _reference("schemas/Images")}
    if page:
        types[HTML_TYPE] = {"schema": _STRING | {"description": _PAGE}}
    headers = {name: _reference(f"headers/{name}") for name in _HEADERS}
    problem = {PROBLEM_TYPE: {"schema": _reference("schemas/Problem")}}
    refusal = {"application/json": {"schema": _reference("schemas/Refusal")}}
    errors = {
        "400": "A field is faulty.",
        "406": "`Accept` allows no media type of this service.",
        "413": "The request is too large.",
        "429": "Too many large requests at the same time; try again later.",
    }
    return {
        "200": {"description": "Images.", "headers": headers, "content": types},
        "304": {"description": "Not modified: `If-None-Match` matches the `ETag`."},
        **{status: {"description": text, "content": problem | refusal} for status, text in errors.items()},
        "503": {"description": "Too many requests are waiting; try again later.", "content": problem | refusal},
        "default": {"description": "The request does not reach the generator.", "content": problem | refusal},
    }


def _images(model: Model) -> JsonObject:
    """The JSON schema of an application/json reply."""
    last = len(model.class_names) - 1
    label: JsonObject = _INTEGER | {"minimum": 0, "maximum": last} if model.conditional else {"type": "null"}
    image = _object({"label": label, "png": _STRING | {"contentEncoding": "base64"}})
    return _object({"model_version": _STRING, "seed": _INTEGER, "images": {"type": "array", "items": image}})


_STRING, _INTEGER = {"type": "string"}, {"type": "integer"}
_ESCAPES = str.maketrans({letter: f"\\{letter}" for letter in "\\]^-"})  # in a character class of a regular expression
_COUNT = (
    f"Number of images; of strips with `text`; of keyframes with `frames` ({DEFAULT_KEYFRAMES}, or `frames` if that is"
    " less, by default)."
)
_SEED = "Seed of latents and labels. If it is omitted, a random one is drawn and returned as `X-Seed`."
_NAMES = (
    " Names are compared in Unicode form NFC. In a query or a form, a value that equals a label's name is that label,"
    " even with commas. Any other value is a list with commas. A repeated field extends the list."
)
_TEXT = "Labels of one character each, drawn side by side from one latent."
_TRUNCATION = "Scales the latents towards their mean; 0 is the mean."
_SCALE = "Enlarges each pixel to `scale` × `scale` pixels."
_FRAMES = (
    f"Number of frames of an animation ({' or '.join(ANIMATION_TYPES)}): a closed walk through `count` latents. Each"
    " frame shows one label, a list of labels side by side, or a text."
)
_PAGE = "A page for browsers, if no field is given and `Accept` lists this type."
_ACCEPT = {
    "name": "Accept",
    "in": "header",
    "description": f"Media type of the reply: {', '.join(MEDIA_TYPES)}; `{OPENAPI_TYPE}` is this document.",
    "schema": {"type": "string", "default": MEDIA_TYPES[0]},
}
_HEADERS: JsonObject = {
    "X-Seed": {"description": "Seed of the latents and labels.", "schema": _INTEGER},
    "X-Model-Version": {"description": "Version of the model.", "schema": _STRING},
    "ETag": {"description": "Entity tag of the bytes, if the request has a seed.", "schema": _STRING},
}
_REFUSAL = {
    "description": "An error reply of TorchServe itself, before the generator.",
    **_object({"code": _INTEGER, "type": _STRING, "message": _STRING}, required=("code", "type")),
}
_ERRORS = {"type": "array", "items": _object({"field": _STRING, "detail": _STRING})}
_PROBLEM = {
    "description": "An RFC 9457 problem; `errors` lists all invalid fields.",
    **_object(
        {"type": _STRING, "title": _STRING, "status": _INTEGER, "detail": _STRING, "errors": _ERRORS},
        required=("title", "status", "detail"),
    ),
}
