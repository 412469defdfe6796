"""The description of this very service, OpenAPI 3.1: what fields there are, their limits, and what comes back."""

import json
from typing import Any

from .common.latents import MAX_SEED
from .model import Model
from .problem import MEDIA_TYPE as PROBLEM
from .request import DESCRIPTION, FILMS, LAYOUTS, MEDIA_TYPES, PAGE, STOPS

Record = dict[str, Any]


def describe(model: Model, page: bool = False, name: str = "digits") -> bytes:
    """The document, as JSON, of the service that answers for the model `name`; `page` says whether it has one."""
    fields = _fields(model)
    replies = _replies(page)
    tags = {"tags": ["generator"], "responses": replies}
    parameters = [{"$ref": "#/components/parameters/accept"}]
    queries = [*parameters, *(_query(field, schema, model) for field, schema in fields.items())]
    body = {"schema": {"$ref": "#/components/schemas/Request"}}
    form = {"schema": {"type": "object", "properties": dict.fromkeys(fields, _TEXT), "additionalProperties": False}}
    content = {"application/json": body, "application/x-www-form-urlencoded": form}
    record = {
        "openapi": "3.1.0",
        "info": {
            "title": "ganctl",
            "version": model.version,
            "summary": "Draws images from a generator.",
            "description": "Where a seed is given, the same request has the same bytes for as long as the version is"
            " the same, and `ETag` and `If-None-Match` spare them.",
        },
        "paths": {
            f"/predictions/{name}": {
                "get": {"operationId": "draw", "summary": "An image.", "parameters": parameters, **tags},
                "post": {
                    "operationId": "drawFields",
                    "summary": "Images, by the fields of the body.",
                    "parameters": parameters,
                    "requestBody": {"content": content},
                    **tags,
                },
            },
            f"/{name}/predict": {
                "get": {
                    "operationId": "drawQuery",
                    "summary": "Images, by the fields of the query.",
                    "parameters": queries,
                    **tags,
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
    limits = model.limits
    whole = {"type": "integer"}
    fields: dict[str, Record] = {}
    if model.conditional:
        label = whole | {"minimum": 0, "maximum": len(model.class_names) - 1}
        names = {"type": "string", "enum": list(model.class_names)}
        for field, one, what in (("digits", label, "Labels by number"), ("labels", names, "Labels by name")):
            several = {"type": "array", "items": one, "minItems": 1, "maxItems": limits.max_count}
            fields[field] = {"oneOf": [one, several], "description": f"{what}; repeated in turn up to `count`."}
        fields["labels"]["description"] += _NAMES
        letters = [name for name in model.class_names if len(name) == 1]
        if letters:
            fields["text"] = {
                "type": "string",
                "minLength": 1,
                "maxLength": limits.max_text,
                "pattern": f"^[{''.join(_escaped(letter) for letter in letters)}]+$",
                "description": "Labels of one character each, drawn side by side in one handwriting.",
            }
    fields |= {
        "count": whole | {"minimum": 1, "maximum": limits.max_count, "description": _COUNT},
        "seed": whole | {"minimum": 0, "maximum": MAX_SEED, "description": "Drawn and told where it is not given."},
        "truncation": {"type": "number", "minimum": 0, "maximum": 1, "default": 1, "description": _TRUNCATION},
        "scale": whole | {"minimum": 1, "maximum": limits.max_scale, "default": 1, "description": "Enlargement."},
        "layout": {"type": "string", "enum": list(LAYOUTS), "default": LAYOUTS[0]},
        "frames": whole | {"minimum": 2, "maximum": limits.max_frames, "description": _FRAMES},
    }
    return fields


def _escaped(letter: str) -> str:
    return "\\" + letter if letter in "\\]^-" else letter


def _query(name: str, schema: Record, model: Model) -> Record:
    told = {key: value for key, value in schema.items() if key != "description"}
    commas = any("," in label for label in model.class_names)
    explode = name == "labels" and commas  # a list of such names needs a parameter for each
    parameter = {"name": name, "in": "query", "schema": told, "style": "form", "explode": explode}
    return parameter | ({"description": schema["description"]} if "description" in schema else {})


def _replies(page: bool) -> Record:
    binary: Record = {media: {} for media in MEDIA_TYPES if media != "application/json"}
    binary["application/json"] = {"schema": {"$ref": "#/components/schemas/Images"}}
    if page:
        binary[PAGE] = {"schema": {"type": "string", "description": _PAGE}}
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in _HEADERS}
    problem = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    refusal = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
    faults = {"400": "A field is faulty.", "406": "No type of this service is allowed.", "413": "Too much at once."}
    faults["429"] = "Too many large requests at the same time: ask again."
    return {
        "200": {"description": "Images.", "headers": headers, "content": binary},
        "304": {"description": "Those that are known already, by `If-None-Match`."},
        **{status: {"description": told, "content": problem | refusal} for status, told in faults.items()},
        "503": {"description": "Too many requests wait already: ask again.", "content": refusal},
        "default": {"description": "The request does not reach the generator.", "content": refusal},
    }


def _images(model: Model) -> Record:
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


_COUNT = f"Images; strips with `text`; stops of the walk with `frames` ({STOPS} where none are given)."
_NAMES = (
    " Compared in Unicode's form NFC. In a query or a form, a value that is a label's name is that label, commas or"
    " not; any other value is a list with commas, and a repeated field adds to the list."
)
_TRUNCATION = "Pulls towards the mean: 0 is the mean itself."
_FRAMES = (
    f"A film of so many frames ({' or '.join(FILMS)}): a closed walk through `count` handwritings of a label, a list of"
    " labels side by side, or a text."
)
_PAGE = "A page for people; only where no field is given, and for who names this type."
_ACCEPT = {
    "name": "Accept",
    "in": "header",
    "description": f"What to answer with: {', '.join(MEDIA_TYPES)}; `{DESCRIPTION}` is this description.",
    "schema": {"type": "string", "default": MEDIA_TYPES[0]},
}
_HEADERS: Record = {
    "X-Seed": {"description": "The seed that was drawn from.", "schema": {"type": "integer"}},
    "X-Model-Version": {"description": "The model that has drawn.", "schema": {"type": "string"}},
    "ETag": {"description": "Where a seed was given: names these bytes.", "schema": {"type": "string"}},
}
_TEXT: Record = {"type": "string"}
_REFUSAL: Record = {
    "description": "What TorchServe itself says.",
    "type": "object",
    "properties": {"code": {"type": "integer"}, "type": _TEXT, "message": _TEXT},
    "required": ["code", "type"],
}
_PROBLEM: Record = {
    "description": "RFC 9457; `errors` names every faulty field at once.",
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
