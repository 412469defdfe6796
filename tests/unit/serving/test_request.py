"""Parsing of requests: the values of each field, and errors, all at once and each with its field."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganctl.common.latents import MAX_SEED, draw_labels
from ganctl.serving.handler.model import Limits, Model
from ganctl.serving.handler.problem import BadRequest
from ganctl.serving.handler.request import Parser, Request

DIGITS = Model("abc", 8, tuple("0123456789"), 1, 28, 28)
CLOTHES = Model("abc", 8, ("shirt", "shoe", "bag"), 1, 28, 28)
UNCONDITIONAL = Model("abc", 8, (), 1, 28, 28)


def parse_inputs(inputs: dict[str, bytes], headers: dict[str, str], model: Model) -> Request:
    return Parser(model).parse(inputs, headers)


def parse(body: Any = None, model: Model = DIGITS, accept: str | None = None, **query: str) -> Request:
    """Parse a request whose body is `body`: bytes, or an object to be encoded as JSON."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    inputs = {"body": raw, **{name: value.encode() for name, value in query.items()}}
    return parse_inputs(inputs, {} if accept is None else {"accept": accept}, model)


def errors_of(
    body: Any = None, model: Model = DIGITS, accept: str | None = None, **query: str
) -> tuple[int, dict[str, str]]:
    """The status and the errors by field of a request that is refused."""
    with pytest.raises(BadRequest) as caught:
        parse(body, model, accept, **query)
    record = json.loads(caught.value.body())
    assert record["status"] == caught.value.status
    return caught.value.status, {error["field"]: error["detail"] for error in record["errors"]}


def test_a_request_without_fields_is_for_one_image_with_a_label_from_its_seed() -> None:
    request = parse()
    assert (request.media, request.images, request.scale, request.truncation) == ("image/png", 1, 1, 1.0)
    assert request.labels == (draw_labels(request.seed, 1, 10)[0],)
    assert request.seed != parse().seed


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({"digits": 7}, (7,)),
        ({"digits": [1, 2]}, (1, 2)),
        ({"digits": [1, 2], "count": 5}, (1, 2, 1, 2, 1)),
        ({"digits": [1, 2, 3], "count": 2}, (1, 2)),
        ({"digits": 4, "count": 3}, (4, 4, 4)),
        ({"labels": "7"}, (7,)),
        ({"labels": ["7", "0"]}, (7, 0)),
        ({"text": "2026"}, (2, 0, 2, 6)),
        ({"text": "20", "count": 2}, (2, 0, 2, 0)),
        ({"seed": 5, "count": 4}, tuple(draw_labels(5, 4, 10).tolist())),
    ],
)
def test_labels_come_from_digits_labels_text_or_the_seed(fields: dict[str, Any], labels: tuple[int, ...]) -> None:
    assert parse(fields).labels == labels


def test_text_uses_one_latent_for_each_strip() -> None:
    request = parse({"text": "2026", "count": 3})
    assert (request.num_latents, request.repeat, request.images, request.columns) == (3, 4, 12, 4)


@pytest.mark.parametrize(
    ("fields", "columns"),
    [
        ({}, 1),
        ({"count": 10}, 4),
        ({"count": 16}, 4),
        ({"count": 10, "layout": "strip"}, 10),
        ({"digits": [1, 2, 3], "count": 9}, 3),
        ({"text": "123", "count": 2, "layout": "strip"}, 6),
    ],
)
def test_grids_are_square_but_keep_repeated_digits_in_columns(fields: dict[str, Any], columns: int) -> None:
    assert parse(fields).columns == columns


def test_labels_can_be_class_names_of_any_length_but_text_has_names_of_one_character() -> None:
    assert parse({"labels": ["bag", "shoe"]}, CLOTHES).labels == (2, 1)
    assert parse({"digits": 2}, CLOTHES).labels == (2,)
    assert parse(model=CLOTHES, labels="bag, shoe").labels == (2, 1)
    status, errors = errors_of({"text": "1"}, CLOTHES)
    assert (status, *errors) == (400, "text")
    assert '"1"' in errors["text"]


def test_an_unconditional_model_refuses_fields_with_labels() -> None:
    assert parse({"count": 3}, UNCONDITIONAL).labels is None
    for field, value in (("digits", 1), ("labels", "1"), ("text", "1")):
        status, errors = errors_of({field: value}, UNCONDITIONAL)
        assert (status, *errors) == (400, field)
        assert "no labels" in errors[field]


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("digits", ["7", "", True, None, 3.5, 7.0, -1, 10, [], [1, 10], [1, "2"], [[1]], {"a": 1}, [1] * 257]),
        ("labels", ["ten", "", 7, None, [], ["7", 7], {}]),
        ("text", ["", "12a", 12, None, ["1"], "1" * 65, "\ud800", "１"]),
        ("count", ["3", True, None, 2.0, 0, -1, 257, 10**30, [1]]),
        ("seed", ["3", False, None, 1.0, -1, MAX_SEED + 1, {}]),
        ("truncation", ["1", True, None, -0.1, 1.1, [], 10**400]),
        ("scale", ["3", True, 0, 17, 2.5]),
        ("layout", ["", "Grid", 1, None, ["grid"], {}]),
        ("frames", ["8", True, None, 8.0, 1, 257, [8]]),
        ("", [1]),
    ],
)
def test_json_is_strict_about_types_and_ranges(field: str, bad: list[Any]) -> None:
    for value in bad:
        status, errors = errors_of({field: value})
        assert status == 400, value
        assert all(name.split("[")[0] == field for name in errors), value


@pytest.mark.parametrize(
    "body",
    [
        b"7",
        b"[]",
        b'"7"',
        b"null",
        b"true",
        b"{",
        b"{]",
        b'{"seed": NaN}',
        b'{"truncation": Infinity}',
        b"\xff\xfe{}",
        b"x",
        b"[" * 50_000,
        b'{"a":' * 10_000,
        b'{"seed": ' + b"9" * 5_000 + b"}",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
    ],
)
def test_a_body_that_is_not_a_json_object_is_refused(body: bytes) -> None:
    status, errors = errors_of(body)
    assert status == 400
    assert "JSON object" in errors["body"]


def test_a_field_that_is_given_twice_is_refused() -> None:
    assert "once" in errors_of(b'{"seed": 1, "seed": 2}')[1]["seed"]
    in_both = errors_of({"seed": 1}, seed="1")[1]["seed"]
    assert "query" in in_both
    assert "body" in in_both


def test_all_errors_are_reported_at_once() -> None:
    body = {"digits": [1, 77], "count": "3", "seed": -1, "scael": 2, "truncation": True, "layout": "row"}
    status, errors = errors_of(body, accept="text/html")
    assert status == 400
    assert set(errors) == {"digits[1]", "count", "seed", "scael", "truncation", "layout", "Accept"}
    assert "scale?" in errors["scael"]
    assert '"3"' in errors["count"]


def test_digits_labels_and_text_exclude_each_other() -> None:
    assert "text" in errors_of({"digits": 1, "text": "1"})[1]
    assert "labels" in errors_of({"digits": 1, "labels": "1"})[1]


def test_a_media_type_that_is_not_offered_gets_406() -> None:
    assert errors_of(accept="audio/mpeg")[0] == 406
    assert parse(accept="application/json").media == "application/json"


@pytest.mark.parametrize(
    ("limits", "body"),
    [
        (Limits(max_values=784 * 4), {"count": 5}),
        (Limits(max_values=784 * 4), {"text": "12345"}),
        (Limits(max_pixels=784 * 16), {"scale": 5}),
        (Limits(max_body=30), {"text": "0123456789012345678901234"}),
    ],
)
def test_a_request_for_too_much_gets_413(limits: Limits, body: dict[str, Any]) -> None:
    assert errors_of(body, Model("abc", 8, DIGITS.class_names, 1, 28, 28, limits))[0] == 413


def test_the_largest_count_and_the_largest_scale_are_allowed() -> None:
    assert parse({"count": 256}).images == 256
    assert parse({"scale": 16}).scale == 16
    assert parse({"text": "1" * 64, "count": 60}).images == 3840


def test_values_of_queries_and_forms_are_parsed_from_text() -> None:
    request = parse(digits="1,2", count="3", seed="9", truncation="0.5", scale="2", layout="strip")
    assert request == Request("image/png", 9, True, (1, 2, 1), 3, 1, 3, 0.5, 2)
    assert parse(text="42").labels == (4, 2)
    assert set(errors_of(count="x", seed="1.0", truncation="nan", digits="1,,2", scale="1e1")[1]) == {
        "count",
        "seed",
        "truncation",
        "digits[1]",
        "scale",
    }


def test_a_form_field_named_body_is_refused_and_json_sent_as_a_form_is_an_error_with_the_header_to_use() -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert parse_inputs({"seed": b"4"}, form, DIGITS).seed == 4
    with pytest.raises(BadRequest, match=r"^body: unknown"):
        parse_inputs({"body": b"{}"}, form, DIGITS)
    with pytest.raises(BadRequest, match="Content-Type: application/json"):
        parse_inputs({'{"text": "': b'"}'}, form, DIGITS)
    with pytest.raises(BadRequest, match=r"body: .*Content-Type: application/json"):
        parse_inputs({}, form | {"content-length": "13"}, DIGITS)
    assert parse_inputs({}, form | {"content-length": "0"}, DIGITS).images == 1


def test_a_reply_lists_50_errors_and_the_number_of_the_others() -> None:
    status, errors = errors_of({f"f{i}": i for i in range(3_000)})
    assert status == 400
    assert len(errors) == 51
    assert "2950" in errors[""]


names = st.sampled_from(["digits", "labels", "text", "count", "seed", "truncation", "scale", "layout", "x"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.integers(-1, 12)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=2)
)


def assert_parsed_or_refused(inputs: dict[str, bytes], headers: dict[str, str]) -> None:
    for model in (DIGITS, UNCONDITIONAL):
        outcome = parse_or_error(inputs, headers, model)
        if isinstance(outcome, BadRequest):
            assert outcome.status in (400, 406, 413)
            assert json.loads(outcome.body())["errors"]
        else:
            assert 1 <= outcome.images * model.values <= model.limits.max_values
            assert outcome.labels is None or len(outcome.labels) == outcome.images


def parse_or_error(inputs: dict[str, bytes], headers: dict[str, str], model: Model) -> Request | BadRequest:
    try:
        return parse_inputs(inputs, headers, model)
    except BadRequest as error:
        return error


@settings(deadline=None, max_examples=300)
@given(body=st.dictionaries(names, values, max_size=5), accept=st.none() | st.text(max_size=30))
def test_any_json_object_is_parsed_or_refused(body: dict[str, Any], accept: str | None) -> None:
    assert_parsed_or_refused({"body": json.dumps(body).encode()}, {} if accept is None else {"accept": accept})


@settings(deadline=None, max_examples=200)
@given(
    body=st.binary(max_size=60),
    query=st.dictionaries(names | st.text(max_size=8), st.binary(max_size=12), max_size=4),
    media=st.sampled_from(["application/json", "application/x-www-form-urlencoded", "multipart/form-data", "", "x"]),
)
def test_any_bytes_are_parsed_or_refused(body: bytes, query: dict[str, bytes], media: str) -> None:
    assert_parsed_or_refused({**query, "body": body}, {"content-type": media})


def test_a_repeated_request_without_a_seed_gets_another_seed() -> None:
    parser = Parser(DIGITS)
    first, second = (parser.parse({"body": b'{"count": 40}'}, {}) for _ in range(2))
    assert first.seed != second.seed
    assert first.labels != second.labels
    for request in (first, second):
        assert request.labels == tuple(draw_labels(request.seed, 40, 10))
    seeded = [parser.parse({"body": b'{"seed": 5}'}, {}) for _ in range(2)]
    assert seeded[0] == seeded[1]


def test_the_headers_of_a_repeated_request_are_not_ignored() -> None:
    parser = Parser(DIGITS)
    body = {"body": b'{"seed": 5}'}
    assert parser.parse(body, {}).media == "image/png"
    assert parser.parse(body, {"accept": "image/gif"}).media == "image/gif"
    for _ in range(2):  # an error is reported again
        with pytest.raises(BadRequest, match="Accept"):
            parser.parse(body, {"accept": "text/csv"})
