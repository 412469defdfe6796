"""The OpenAPI description of the service agrees with its behavior."""

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
from tests.unit.serving.service_calls import JSON, json_call, openapi_of, reply_to

fractions = st.floats(-1, 2).filter(lambda value: not value.is_integer())  # for JSON Schema, 7.0 is an integer
values = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 300), fractions, st.text("012x", max_size=3),
    st.lists(st.integers(-1, 11), max_size=3),
)  # fmt: skip
fields = st.dictionaries(
    st.sampled_from(["digits", "labels", "text", "count", "seed", "truncation", "scale", "layout", "frames", "other"]),
    values | st.sampled_from(["grid", "strip", "7", ["1", "2"], 2**53]),
    max_size=4,
)


@pytest.mark.parametrize("conditional", [True, False])
def test_the_description_is_valid_openapi_31(load: Callable[..., Service], conditional: bool) -> None:
    record = openapi_of(load(conditional=conditional))
    validate(record)
    assert record["openapi"] == "3.1.0"
    assert set(record["paths"]) == {"/predictions/digits", "/digits/predict"}
    assert ("digits" in record["components"]["schemas"]["Request"]["properties"]) == conditional
    assert set(record["paths"]["/predictions/digits"]["get"]["responses"]["200"]["content"]) == set(MEDIA_TYPES)


@settings(deadline=None, max_examples=400)
@given(body=fields)
def test_bodies_that_the_schema_forbids_get_400_and_others_do_not_except_for_pairs_of_fields(
    service: Service, body: dict[str, Any]
) -> None:
    schema = openapi_of(service)["components"]["schemas"]["Request"]
    allowed = jsonschema.Draft202012Validator(schema).is_valid(body)
    status = reply_to(service, json_call(**body)).status
    if not allowed:
        assert status == 400, body
    elif len({"digits", "labels", "text"} & set(body)) < 2 and not {"frames", "count"} <= set(body):
        assert status in (200, 413), body


@pytest.mark.parametrize("conditional", [True, False])
def test_json_replies_match_their_schema(load: Callable[..., Service], conditional: bool) -> None:
    service = load(conditional=conditional)
    schema = openapi_of(service)["components"]["schemas"]["Images"]
    reply = reply_to(service, json_call(JSON, count=3, seed=1))
    jsonschema.validate(json.loads(reply.body), schema)


def test_problems_match_their_schema(service: Service) -> None:
    schema = openapi_of(service)["components"]["schemas"]["Problem"]
    jsonschema.validate(json.loads(reply_to(service, json_call(digits="7", seed=-1)).body), schema)


def test_the_limits_of_fields_are_those_of_the_description(service: Service) -> None:
    properties = openapi_of(service)["components"]["schemas"]["Request"]["properties"]
    bounded = {name: schema.get("oneOf", [schema])[0] for name, schema in properties.items()}
    bounded = {name: schema for name, schema in bounded.items() if "maximum" in schema}
    assert set(bounded) == {"digits", "count", "seed", "truncation", "scale", "frames"}
    for name, schema in bounded.items():
        step, least, most = (1 if schema["type"] == "integer" else 0.01), schema["minimum"], schema["maximum"]
        for value, valid in ((least, True), (most, True), (least - step, False), (most + step, False)):
            fields: dict[str, Any] = {name: value}
            assert (reply_to(service, json_call(**fields)).status != 400) == valid, fields
    items: dict[str, Any] = {"digits": 1, "labels": "1"}
    for name, item in items.items():
        longest = properties[name]["oneOf"][1]["maxItems"]
        for length, status in ((longest, 200), (longest + 1, 400)):
            fields = {name: [item] * length}
            assert reply_to(service, json_call(**fields)).status == status, (name, length)
    longest = properties["text"]["maxLength"]
    assert reply_to(service, json_call(text="1" * longest)).status == 200
    assert reply_to(service, json_call(text="1" * (longest + 1))).status == 400
