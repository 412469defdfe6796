"""A label is asked for by its name, whatever the name holds and in whichever canonical form it comes."""

import json
import time
import unicodedata
from pathlib import Path
from typing import Any, Literal

import pytest

from ganctl.serving.archive.mar import package
from ganctl.serving.handler.model import Model
from ganctl.serving.handler.problem import BadRequest
from ganctl.serving.handler.request import Parser, Request
from ganctl.serving.handler.service import Service
from ganctl.serving.hosts.torchserve.worker.protocol import PredictRequest, read_message
from tests.unit.serving.small_export import NAMES, write_export
from tests.unit.serving.test_worker_protocol import number, sized

CAFE = "caf\u00e9"
ODD = ("it's", 'say "hi"', "a,b;c=d", "<b>&", "100%", "a", "b", "a,b", " ends ", "x+y", CAFE, "\u00e9")
Form = Literal["NFC", "NFD"]
FORMS: tuple[Form, ...] = ("NFC", "NFD")
MODEL = Model("abc", 8, ODD, 1, 28, 28)


def ask(model: Model = MODEL, headers: dict[str, str] | None = None, **inputs: Any) -> Request:
    return Parser(model).parse(inputs, headers or {})


def labels(*values: str, model: Model = MODEL) -> list[str]:
    """The names of the labels that a query with these values of `labels` draws."""
    encoded = [value.encode() for value in values]
    drawn = ask(model, labels=encoded if len(encoded) > 1 else encoded[0]).labels
    return [model.class_names[label] for label in drawn or ()]


def faults(**inputs: Any) -> dict[str, str]:
    with pytest.raises(BadRequest) as caught:
        ask(**inputs)
    assert caught.value.status == 400
    return {error["field"]: error["detail"] for error in json.loads(caught.value.body())["errors"]}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ODD)
def test_any_name_is_a_value_of_a_query_or_a_body(name: str, form: Form) -> None:
    given = unicodedata.normalize(form, name)
    assert labels(given) == [name]
    body = json.dumps({"labels": [given, "a"]}).encode()
    assert ask(body=body).labels == (ODD.index(name), ODD.index("a"))


@pytest.mark.parametrize(
    ("values", "drawn"),
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
def test_what_is_no_name_is_a_list_and_repeated_fields_add_to_it(values: list[str], drawn: list[str]) -> None:
    assert labels(*values) == drawn


def test_numbers_may_be_repeated_too() -> None:
    assert ask(digits=[b"3", b"1, 2"]).labels == (3, 1, 2)
    assert set(faults(digits=[b"3", b"x"])) == {"digits[1]"}


def test_other_fields_are_given_once() -> None:
    twice = faults(seed=[b"1", b"2"], text=[b"a", b"b"], labels=[b"a", b"nobody"])
    assert set(twice) == {"seed", "text", "labels[1]"}
    assert "more than once" in twice["seed"]
    assert "more than once" in faults(body=[b"{}", b"{}"])["body"]


def test_a_semicolon_that_ends_a_field_is_explained() -> None:
    assert "%3B" in faults(labels=b"a,b", c=b"d")["c"], "TorchServe has cut 'a,b;c=d'"


def test_a_name_with_a_comma_in_a_list_is_explained() -> None:
    told = faults(labels=b"it's,a,b;c=d")
    assert set(told) == {"labels[2]"}
    assert "repeat `labels=`" in told["labels[2]"]


@pytest.mark.parametrize("name", ["CAF\u00c9", "cafe", "\uff41", "A", "\u00e9\u0301", "\udc80"])
def test_no_other_forms_are_taken_for_a_name(name: str) -> None:
    assert "labels" in faults(body=json.dumps({"labels": name}).encode())


@pytest.mark.parametrize("form", FORMS)
def test_a_letter_with_its_mark_is_one_character_of_a_text(form: Form) -> None:
    text = unicodedata.normalize(form, "a\u00e9b")
    given = json.dumps({"text": text, "count": 2}).encode()
    for request in (ask(body=given), ask(text=text.encode(), count=b"2")):
        assert request.labels == 2 * tuple(map(ODD.index, "a\u00e9b"))
        assert (request.num_latents, request.repeat) == (2, 3)


def test_the_longest_text_is_counted_in_composed_characters() -> None:
    assert len(ask(text=(64 * "e\u0301").encode()).labels or ()) == 64
    assert "65 characters" in faults(text=(65 * "e\u0301").encode())["text"]


def test_a_long_text_of_marks_is_refused_without_sorting_them() -> None:
    marks = 10_000 * "\u0300\u0316"
    began = time.process_time()
    faults(text=marks.encode())
    faults(labels=marks.encode())
    faults(body=json.dumps({"labels": marks}, ensure_ascii=False).encode())
    assert time.process_time() - began < unsorted(marks)


def unsorted(marks: str) -> float:
    """Seconds of processor time that this machine needs to put these marks in order."""
    began = time.process_time()
    unicodedata.normalize("NFC", marks)
    return time.process_time() - began


def old_export(folder: Path, names: list[str]) -> Path:
    """An export of an earlier version, which kept names as the disk had them."""
    export = write_export(folder)
    path = export / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"class_names": names}))
    return export


@pytest.mark.parametrize("form", FORMS)
def test_an_export_with_names_in_another_form_is_answered_in_both(tmp_path: Path, form: Form) -> None:
    names = [unicodedata.normalize("NFD", CAFE), *NAMES[1:]]
    old_export(tmp_path, names)
    service = Service.load(tmp_path, {"backend": "onnx", "model_file": "generator.onnx"})
    assert service.model.class_names[0] == CAFE
    body = json.dumps({"labels": unicodedata.normalize(form, CAFE)}).encode()
    (reply,) = service.answer([({"body": body}, {"Accept": "application/json"})])
    assert reply.status == 200
    assert [image["label"] for image in json.loads(reply.body)["images"]] == [0]
    (reply,) = service.answer([({}, {"Accept": "application/openapi+json"})])
    described = json.loads(reply.body)["components"]["schemas"]["Request"]["properties"]["labels"]
    assert described["oneOf"][0]["enum"][0] == CAFE
    assert "NFC" in described["description"]


def test_names_that_are_the_same_composed_are_told_where_they_are_packed(tmp_path: Path) -> None:
    names = [unicodedata.normalize("NFD", CAFE), CAFE, *NAMES[2:]]
    with pytest.raises(
        Exception, match=r"class_names: must be a list of names, one for each label and different in NFC"
    ):
        package(old_export(tmp_path / "export", names), tmp_path / "out")


def test_a_list_of_names_with_commas_is_described_as_repeated_parameters() -> None:
    from ganctl.serving.handler.openapi import build_openapi

    for model, explode in ((MODEL, True), (Model("abc", 8, tuple(NAMES), 1, 28, 28), False)):
        (query,) = json.loads(build_openapi(model))["paths"]["/digits/predict"].values()
        styles = {parameter["name"]: parameter["explode"] for parameter in query["parameters"] if "name" in parameter}
        assert styles["labels"] == explode
        assert styles["digits"] is False


def test_the_worker_hands_on_what_a_query_repeats() -> None:
    given = [(b"labels", b"a"), (b"seed", b"1"), (b"labels", b"a"), (b"labels", b"b")]
    fields = b"".join(sized(name) + sized(b"text/plain") + sized(value) for name, value in given)
    message = b"I" + sized(b"one") + number(-1) + fields + number(-1) + number(-1)
    assert read_message(message) == [PredictRequest(b"one", {}, {"labels": [b"a", b"a", b"b"], "seed": b"1"})]
