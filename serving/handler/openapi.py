"""OpenAPI 3.1 document of a service: its fields with their limits, and its replies."""

import json
from typing import Any

from .common.latents import MAX_SEED
from .model import Model
from .problem import MEDIA_TYPE as PROBLEM_TYPE
from .request import DEFAULT_KEYFRAMES, FILM_TYPES, HTML_TYPE, LAYOUTS, MEDIA_TYPES, OPENAPI_TYPE

Record = dict[str, Any]


def build_openapi(model: Model, page: bool = False, name: str = "digits") -> bytes:
    """The OpenAPI document as JSON.

    Args:
        model: gives the fields and their limits.
        page: whether the service has a page for browsers.
        name: the model's name in the URLs.
    """
    fields = _fields(model)
    replies = _replies(page)
    common = {"tags": ["generator"], "responses": replies}
    parameters = [{"$ref": "#/components/parameters/accept"}]
    queries = [*parameters, *(_query(field, schema, model) for field, schema in fields.items())]
    body = {"schema": {"$ref": "#/components/schemas/Request"}}
    form = {"schema": {"type": "object", "properties": dict.fromkeys(fields, _STRING), "additionalProperties": False}}
    content = {"application/json": body, "application/x-www-form-urlencoded": form}
    record = {
        "openapi": "3.1.0",
        "info": {
            "title": "ganctl",
            "version": model.version,
            "summary": "Draws images from a generator.",
            "description": "A request with a seed gets the same bytes for as long as the version is the same. A client"
            " that sends the reply's `ETag` as `If-None-Match` then gets 304 without a body.",
        },
        "paths": {
            f"/predictions/{name}": {
                "get": {"operationId": "draw", "summary": "Draws one image.", "parameters": parameters, **common},
                "post": {
                    "operationId": "drawFields",
                    "summary": "Draws images; the body holds the fields.",
                    "parameters": parameters,
                    "requestBody": {"content": content},
                    **common,
                },
            },
            f"/{name}/predict": {
                "get": {
                    "operationId": "drawQuery",
                    "summary": "Draws images; the query holds the fields.",
                    "parameters": queries,
                    **common,
                }
            },
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
    return json.dumps(record, separators=(",", ":")).encode()


def _fields(model: Model) -> dict[str, Record]:
    """The JSON schema of each field that this model accepts."""
    limits = model.limits
    integer = {"type": "integer"}
    fields: dict[str, Record] = {}
    if model.conditional:
        label = integer | {"minimum": 0, "maximum": len(model.class_names) - 1}
        names = {"type": "string", "enum": list(model.class_names)}
        for field, one, summary in (("digits", label, "Labels by number"), ("labels", names, "Labels by name")):
            several = {"type": "array", "items": one, "minItems": 1, "maxItems": limits.max_count}
            fields[field] = {"oneOf": [one, several], "description": f"{summary}; the list repeats up to `count`."}
        fields["labels"]["description"] += _NAMES
        letters = [name for name in model.class_names if len(name) == 1]
        if letters:
            fields["text"] = {
                "type": "string",
                "minLength": 1,
                "maxLength": limits.max_text,
                "pattern": f"^[{''.join(_escape(letter) for letter in letters)}]+$",
                "description": "Labels of one character each, drawn side by side from one latent.",
            }
    fields |= {
        "count": integer | {"minimum": 1, "maximum": limits.max_count, "description": _COUNT},
        "seed": integer | {"minimum": 0, "maximum": MAX_SEED, "description": _SEED},
        "truncation": {"type": "number", "minimum": 0, "maximum": 1, "default": 1, "description": _TRUNCATION},
        "scale": integer | {"minimum": 1, "maximum": limits.max_scale, "default": 1, "description": _SCALE},
        "layout": {"type": "string", "enum": list(LAYOUTS), "default": LAYOUTS[0]},
        "frames": integer | {"minimum": 2, "maximum": limits.max_frames, "description": _FRAMES},
    }
    return fields


def _escape(letter: str) -> str:
    """Escape a letter for a character class of a regular expression."""
    return "\\" + letter if letter in "\\]^-" else letter


def _query(name: str, schema: Record, model: Model) -> Record:
    """A field as a query parameter."""
    without_description = {key: value for key, value in schema.items() if key != "description"}
    has_comma = any("," in label for label in model.class_names)
    explode = name == "labels" and has_comma  # then each name in the list needs a parameter of its own
    parameter = {"name": name, "in": "query", "schema": without_description, "style": "form", "explode": explode}
    return parameter | ({"description": schema["description"]} if "description" in schema else {})


def _replies(page: bool) -> Record:
    """The replies of every operation, by status."""
    types: Record = {media: {} for media in MEDIA_TYPES if media != "application/json"}
    types["application/json"] = {"schema": {"$ref": "#/components/schemas/Images"}}
    if page:
        types[HTML_TYPE] = {"schema": {"type": "string", "description": _PAGE}}
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in _HEADERS}
    problem = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    refusal = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
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
        "503": {"description": "Too many requests are waiting; try again later.", "content": refusal},
        "default": {"description": "The request does not reach the generator.", "content": refusal},
    }


def _images(model: Model) -> Record:
    """The JSON schema of an application/json reply."""
    last = len(model.class_names) - 1
    label: Record = {"type": "integer", "minimum": 0, "maximum": last} if model.conditional else {"type": "null"}
    image = {
        "type": "object",
        "properties": {"label": label, "png": {"type": "string", "contentEncoding": "base64"}},
        "required": ["label", "png"],
    }
    return {
        "type": "object",
        "properties": {
            "model_version": {"type": "string"},
            "seed": {"type": "integer"},
            "images": {"type": "array", "items": image},
        },
        "required": ["model_version", "seed", "images"],
    }


_COUNT = (
    f"Number of images; of strips with `text`; of keyframes with `frames` ({DEFAULT_KEYFRAMES}, or `frames` if that is"
    " less, by default)."
)
_SEED = "Seed of latents and labels. If it is omitted, a random one is drawn and returned as `X-Seed`."
_NAMES = (
    " Names are compared in Unicode form NFC. In a query or a form, a value that equals a label's name is that label,"
    " even with commas. Any other value is a list with commas. A repeated field extends the list."
)
_TRUNCATION = "Scales the latents towards their mean; 0 is the mean."
_SCALE = "Enlarges each pixel to `scale` × `scale` pixels."
_FRAMES = (
    f"Number of frames of a film ({' or '.join(FILM_TYPES)}): a closed walk through `count` latents. Each frame shows"
    " one label, a list of labels side by side, or a text."
)
_PAGE = "A page for browsers, if no field is given and `Accept` lists this type."
_ACCEPT = {
    "name": "Accept",
    "in": "header",
    "description": f"Media type of the reply: {', '.join(MEDIA_TYPES)}; `{OPENAPI_TYPE}` is this document.",
    "schema": {"type": "string", "default": MEDIA_TYPES[0]},
}
_HEADERS: Record = {
    "X-Seed": {"description": "Seed of the latents and labels.", "schema": {"type": "integer"}},
    "X-Model-Version": {"description": "Version of the model.", "schema": {"type": "string"}},
    "ETag": {"description": "Entity tag of the bytes, if the request has a seed.", "schema": {"type": "string"}},
}
_STRING: Record = {"type": "string"}
_REFUSAL: Record = {
    "description": "An error reply of TorchServe itself.",
    "type": "object",
    "properties": {"code": {"type": "integer"}, "type": _STRING, "message": _STRING},
    "required": ["code", "type"],
}
_PROBLEM: Record = {
    "description": "An RFC 9457 problem; `errors` lists all faulty fields.",
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "detail": {"type": "string"}},
                "required": ["field", "detail"],
            },
        },
    },
    "required": ["title", "status", "detail"],
}
