"""The service describes itself, and what it describes is what it does."""

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate

from ganctl.serving.handler.request import MEDIA_TYPES
from ganctl.serving.handler.service import Service
from tests.unit.serving.test_service import asked, only

OPENAPI = {"Accept": "application/openapi+json"}

broken = st.floats(-1, 2).filter(lambda value: not value.is_integer())  # JSON Schema takes 7.0 for an integer
values = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 300), broken, st.text("012x", max_size=3),
    st.lists(st.integers(-1, 11), max_size=3),
)  # fmt: skip
fields = st.dictionaries(
    st.sampled_from(["digits", "labels", "text", "count", "seed", "truncation", "scale", "layout", "frames", "other"]),
    values | st.sampled_from(["grid", "strip", "7", ["1", "2"], 2**53]),
    max_size=4,
)


def described(service: Service) -> dict[str, Any]:
    reply = only(service, asked(OPENAPI))
    assert (reply.status, reply.media) == (200, "application/openapi+json")
    found: dict[str, Any] = json.loads(reply.body)
    return found


@pytest.mark.parametrize("conditional", [True, False])
def test_the_description_is_openapi_31(load: Callable[..., Service], conditional: bool) -> None:
    record = described(load(conditional=conditional))
    validate(record)
    assert record["openapi"] == "3.1.0"
    assert set(record["paths"]) == {"/predictions/digits", "/digits/predict"}
    assert ("digits" in record["components"]["schemas"]["Request"]["properties"]) == conditional
    assert set(record["paths"]["/predictions/digits"]["get"]["responses"]["200"]["content"]) == set(MEDIA_TYPES)


@settings(deadline=None, max_examples=400)
@given(body=fields)
def test_what_the_description_forbids_is_a_fault_and_nothing_else_but_sizes_and_pairs(
    service: Service, body: dict[str, Any]
) -> None:
    schema = described(service)["components"]["schemas"]["Request"]
    allowed = jsonschema.Draft202012Validator(schema).is_valid(body)
    status = only(service, ({"body": bytearray(json.dumps(body).encode())}, {})).status
    if not allowed:
        assert status == 400, body
    elif len({"digits", "labels", "text"} & set(body)) < 2 and not {"frames", "count"} <= set(body):
        assert status in (200, 413), body


def test_json_replies_are_as_described(load: Callable[..., Service]) -> None:
    for conditional in (True, False):
        service = load(conditional=conditional)
        schema = described(service)["components"]["schemas"]["Images"]
        reply = only(service, asked({"Accept": "application/json"}, count=3, seed=1))
        jsonschema.validate(json.loads(reply.body), schema)


def test_problems_are_as_described(service: Service) -> None:
    schema = described(service)["components"]["schemas"]["Problem"]
    jsonschema.validate(json.loads(only(service, asked(digits="7", seed=-1)).body), schema)


def test_bounds_are_where_the_description_says(service: Service) -> None:
    properties = described(service)["components"]["schemas"]["Request"]["properties"]
    bounded = {name: schema.get("oneOf", [schema])[0] for name, schema in properties.items()}
    bounded = {name: schema for name, schema in bounded.items() if "maximum" in schema}
    assert set(bounded) == {"digits", "count", "seed", "truncation", "scale", "frames"}
    for name, schema in bounded.items():
        step, least, most = (1 if schema["type"] == "integer" else 0.01), schema["minimum"], schema["maximum"]
        for value, good in ((least, True), (most, True), (least - step, False), (most + step, False)):
            fields: dict[str, Any] = {name: value}
            assert (only(service, asked(**fields)).status != 400) == good, fields
    ones: dict[str, Any] = {"digits": 1, "labels": "1"}
    for name, one in ones.items():
        longest = properties[name]["oneOf"][1]["maxItems"]
        for length, status in ((longest, 200), (longest + 1, 400)):
            fields = {name: [one] * length}
            assert only(service, asked(**fields)).status == status, (name, length)
    longest = properties["text"]["maxLength"]
    assert only(service, asked(text="1" * longest)).status == 200
    assert only(service, asked(text="1" * (longest + 1))).status == 400
