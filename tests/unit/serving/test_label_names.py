"""A request can name any label, in both canonical Unicode forms (NFC and NFD)."""

import json
import re
import time
import unicodedata
from pathlib import Path
from typing import Any, Literal

import pytest

from ganctl.serving.archive.mar import package
from ganctl.serving.errors import PackageError
from ganctl.serving.handler.model import Model
from ganctl.serving.handler.openapi import build_openapi
from ganctl.serving.handler.problem import BadRequest
from ganctl.serving.handler.request import Parser, Request
from ganctl.serving.hosts.torchserve.worker.protocol import read_message
from ganctl.serving.hosts.worker.messages import PredictRequest
from tests.unit.serving.service_calls import JSON, json_call, load_service, openapi_of, reply_to
from tests.unit.serving.small_export import NAMES, write_export
from tests.unit.serving.wire import number, sized

CAFE = "caf\u00e9"
SPECIAL = ("it's", 'say "hi"', "a,b;c=d", "<b>&", "100%", "a", "b", "a,b", " ends ", "x+y", CAFE, "\u00e9")
Form = Literal["NFC", "NFD"]
FORMS: tuple[Form, ...] = ("NFC", "NFD")
MODEL = Model("abc", 8, SPECIAL, 1, 28, 28)


def parse(**inputs: Any) -> Request:
    return Parser(MODEL).parse(inputs, {})


def labels(*values: str) -> list[str]:
    """The names of the labels in a query with these values of `labels`."""
    encoded = [value.encode() for value in values]
    request = parse(labels=encoded if len(encoded) > 1 else encoded[0])
    return [SPECIAL[label] for label in request.labels or ()]


def errors_of(**inputs: Any) -> dict[str, str]:
    """The errors by field of a request that is refused."""
    with pytest.raises(BadRequest) as caught:
        parse(**inputs)
    assert caught.value.status == 400
    return {error["field"]: error["detail"] for error in json.loads(caught.value.body())["errors"]}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SPECIAL)
def test_a_query_and_a_body_can_have_any_name(name: str, form: Form) -> None:
    given = unicodedata.normalize(form, name)
    assert labels(given) == [name]
    body = json.dumps({"labels": [given, "a"]}).encode()
    assert parse(body=body).labels == (SPECIAL.index(name), SPECIAL.index("a"))


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["b,a"], ["b", "a"]),
        (["a,b"], ["a,b"]),
        (["a", "b"], ["a", "b"]),
        (["a,b;c=d", "a,b", "b, a"], ["a,b;c=d", "a,b", "b", "a"]),
        ([" ends ,a, b "], [" ends ", "a", "b"]),
        (["cafe\u0301,100%"], [CAFE, "100%"]),
        (["a", "a"], ["a", "a"]),
    ],
)
def test_a_value_that_is_not_a_name_is_a_list_and_a_repeated_field_adds_labels(
    values: list[str], names: list[str]
) -> None:
    assert labels(*values) == names


def test_digits_may_be_repeated_in_a_query() -> None:
    assert parse(digits=[b"3", b"1, 2"]).labels == (3, 1, 2)
    assert set(errors_of(digits=[b"3", b"x"])) == {"digits[1]"}


def test_other_fields_may_not_be_repeated() -> None:
    errors = errors_of(seed=[b"1", b"2"], text=[b"a", b"b"], labels=[b"a", b"unknown"])
    assert set(errors) == {"seed", "text", "labels[1]"}
    assert "once" in errors["seed"]
    assert "once" in errors_of(body=[b"{}", b"{}"])["body"]


def test_the_error_of_a_name_that_a_semicolon_cuts_has_the_escape() -> None:
    assert "%3B" in errors_of(labels=b"a,b", c=b"d")["c"], "TorchServe splits the query 'labels=a,b;c=d'"


def test_the_error_of_a_name_with_a_comma_in_a_list_has_the_remedy() -> None:
    errors = errors_of(labels=b"it's,a,b;c=d")
    assert set(errors) == {"labels[2]"}
    assert "`labels=`" in errors["labels[2]"]


@pytest.mark.parametrize("name", ["CAF\u00c9", "cafe", "\uff41", "A", "\u00e9\u0301", "\udc80"])
def test_names_that_differ_by_more_than_the_canonical_form_are_unknown(name: str) -> None:
    assert "labels" in errors_of(body=json.dumps({"labels": name}).encode())


@pytest.mark.parametrize("form", FORMS)
def test_a_letter_with_a_combining_mark_is_one_character_of_a_text(form: Form) -> None:
    text = unicodedata.normalize(form, "a\u00e9b")
    given = json.dumps({"text": text, "count": 2}).encode()
    for request in (parse(body=given), parse(text=text.encode(), count=b"2")):
        assert request.labels == 2 * tuple(map(SPECIAL.index, "a\u00e9b"))
        assert (request.num_latents, request.repeat) == (2, 3)


def test_the_length_of_a_text_is_counted_in_composed_characters() -> None:
    assert len(parse(text=(64 * "e\u0301").encode()).labels or ()) == 64
    assert re.search(r"\b65\b", errors_of(text=(65 * "e\u0301").encode())["text"])


def test_a_long_text_of_combining_marks_is_refused_without_normalizing_it() -> None:
    marks = 10_000 * "\u0300\u0316"
    start = time.process_time()
    errors_of(text=marks.encode())
    errors_of(labels=marks.encode())
    errors_of(body=json.dumps({"labels": marks}, ensure_ascii=False).encode())
    assert time.process_time() - start < seconds_to_normalize(marks)


def seconds_to_normalize(text: str) -> float:
    """The CPU time that this machine needs to normalize a text."""
    start = time.process_time()
    unicodedata.normalize("NFC", text)
    return time.process_time() - start


def unnormalized_export(folder: Path, names: list[str]) -> Path:
    """An export as an earlier version wrote it, with class names that are not in NFC."""
    export = write_export(folder)
    path = export / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"class_names": names}))
    return export


@pytest.mark.parametrize("form", FORMS)
def test_an_export_with_names_in_nfd_is_served_with_names_in_both_forms(tmp_path: Path, form: Form) -> None:
    service = load_service(unnormalized_export(tmp_path, [unicodedata.normalize("NFD", CAFE), *NAMES[1:]]))
    assert service.model.class_names[0] == CAFE
    reply = reply_to(service, json_call(JSON, labels=unicodedata.normalize(form, CAFE)))
    assert reply.status == 200
    assert [image["label"] for image in json.loads(reply.body)["images"]] == [0]
    schema = openapi_of(service)["components"]["schemas"]["Request"]["properties"]["labels"]
    assert schema["oneOf"][0]["enum"][0] == CAFE
    assert "NFC" in schema["description"]


def test_an_export_with_two_names_that_are_equal_in_nfc_cannot_be_packed(tmp_path: Path) -> None:
    names = [unicodedata.normalize("NFD", CAFE), CAFE, *NAMES[2:]]
    with pytest.raises(PackageError, match=r"manifest\.json: .*class_names: .*NFC"):
        package(unnormalized_export(tmp_path / "export", names), tmp_path / "out")


def test_labels_is_described_as_a_repeated_parameter_if_a_name_has_a_comma() -> None:
    for model, explode in ((MODEL, True), (Model("abc", 8, tuple(NAMES), 1, 28, 28), False)):
        (query,) = json.loads(build_openapi(model))["paths"]["/digits/predict"].values()
        styles = {parameter["name"]: parameter["explode"] for parameter in query["parameters"] if "name" in parameter}
        assert styles["labels"] == explode
        assert styles["digits"] is False


def test_the_worker_passes_on_the_repeated_fields_of_a_query() -> None:
    given = [(b"labels", b"a"), (b"seed", b"1"), (b"labels", b"a"), (b"labels", b"b")]
    fields = b"".join(sized(name) + sized(b"text/plain") + sized(value) for name, value in given)
    message = b"I" + sized(b"one") + number(-1) + fields + number(-1) + number(-1)
    assert read_message(message) == [PredictRequest(b"one", {}, {"labels": [b"a", b"a", b"b"], "seed": b"1"})]
