"""The page for browsers: when it is the answer, that it is made from the model, and what it lets a browser do."""

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ganctl.serving.errors import SettingError
from ganctl.serving.handler.model import Limits, Model
from ganctl.serving.handler.page import build_page
from ganctl.serving.handler.service import Service
from ganctl.serving.hosts.torchserve.server import Server
from tests.unit.serving.test_openapi import OPENAPI, described
from tests.unit.serving.test_service import asked, only

CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"
FIREFOX = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/png,image/svg+xml,*/*;q=0.8"
)
SAFARI = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
HTML = "text/html; charset=utf-8"
HOSTILE = ("</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\"' onfocus=alert(1) x=", "{{title}}")
DIGITS = Model("0123456789ab", 16, tuple("0123456789"), 1, 28, 28)


class Elements(HTMLParser):
    """The elements of a page, as (tag, attributes), and its text."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(build_page(model).body.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.found if attributes.get("name") == name]


@pytest.fixture(scope="module")
def paged(load: Callable[..., Service]) -> Service:
    return load(page=True)


@pytest.mark.parametrize("accept", [CHROME, FIREFOX, SAFARI, "text/html", "TEXT/HTML;q=0.5"])
def test_a_browser_gets_the_page_and_with_any_field_a_picture(paged: Service, accept: str) -> None:
    for inputs in ({}, {"body": bytearray()}, {"body": bytearray(b" {} ")}):
        reply = only(paged, (inputs, {"Accept": accept}))
        assert (reply.status, reply.media) == (200, HTML)
        assert reply.body.startswith(b"<!doctype html>")
    for field, value in {"digits": 7, "seed": 0, "count": 2, "scale": 1, "layout": "grid"}.items():
        reply = only(paged, asked({"Accept": accept}, **{field: value}))
        assert reply.media.startswith("image/") or (reply.status == 406 and "*/*" not in accept)


@pytest.mark.parametrize(
    "accept",
    ["", "*/*", "text/html;q=0, */*", "image/webp, text/html;q=0.9", "text/html-like, */*", "image/*, text/*;q=0.5"],
)
def test_who_does_not_name_it_or_prefers_a_picture_gets_a_picture(paged: Service, accept: str) -> None:
    assert only(paged, asked({"Accept": accept} if accept else {})).media.startswith("image/")


def test_where_it_is_off_a_browser_gets_a_picture_and_who_takes_html_alone_406(
    load: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    off = [load(), load(page=False)]
    monkeypatch.setenv("GANCTL_PAGE", "off")
    off.append(load(page=True))
    for service in off:
        assert only(service, asked({"Accept": SAFARI})).media == "image/png"
        reply = only(service, asked({"Accept": "text/html"}))
        assert (reply.status, reply.media) == (406, "application/problem+json")
        assert b"text/html" not in reply.body
        assert b"text/html" not in only(service, asked(OPENAPI)).body


def test_a_problem_says_where_there_is_html_and_faults_come_before_the_page(paged: Service) -> None:
    reply = only(paged, asked({"Accept": "text/html"}, seed=3))
    assert reply.status == 406
    assert b"text/html where no field is given" in reply.body
    assert only(paged, ({"body": bytearray(b"[]")}, {"Accept": "text/html"})).status == 400
    assert only(paged, asked({"Accept": "text/html"}, other=1)).status == 400


def test_the_switch_is_true_or_false(load: Callable[..., Service]) -> None:
    with pytest.raises(ValueError, match="page: must be true or false, found 1"):
        load(page=1)


@pytest.mark.parametrize("text", ["0", "false", "no", "tcp://10.0.0.1:80"])
def test_the_variable_is_on_or_off(text: str, load: Callable[..., Service], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANCTL_PAGE", text)
    with pytest.raises(ValueError, match=f"GANCTL_PAGE: must be on or off, found '{text}'"):
        load(page=True)
    with pytest.raises(SettingError, match=f"GANCTL_PAGE: found '{text}', expected on or off"):
        Server(Path("digits.mar"))


@pytest.mark.parametrize(("text", "on"), [("", True), ("on", True), ("ON", True), ("off", False), (" Off", False)])
def test_the_variable_turns_the_page_off_for_the_server_too(
    text: str, on: bool, load: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANCTL_PAGE", text)
    expected = "text/html" if on else "image/png"
    assert only(load(page=True), asked({"Accept": SAFARI})).media.startswith(expected)
    assert Server(Path("digits.mar")).page == on
    assert not Server(Path("digits.mar"), page=False).page


def test_who_has_the_page_is_not_sent_it_again(paged: Service) -> None:
    tag = only(paged, ({}, {"Accept": SAFARI})).headers["ETag"]
    known = only(paged, ({}, {"Accept": SAFARI, "If-None-Match": f'"other", {tag}'}))
    assert (known.status, known.body, known.headers["ETag"]) == (304, b"", tag)
    assert only(paged, ({}, {"Accept": SAFARI, "If-None-Match": '"other"'})).status == 200
    assert build_page(replace(DIGITS, version="1")).headers["ETag"] != build_page(DIGITS).headers["ETag"]


def test_the_policy_names_the_very_script_and_style_and_nothing_comes_from_elsewhere() -> None:
    page = build_page(DIGITS)
    policy = dict(part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; "))
    for tag in ("script", "style"):
        (element,) = re.findall(rb"<%b[^>]*>(.*?)</%b>" % (tag.encode(), tag.encode()), page.body, re.DOTALL)
        assert policy[f"{tag}-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(element).digest()).decode()}'"
    assert (policy["default-src"], policy["connect-src"], policy["form-action"]) == ("'none'", "'self'", "'self'")
    assert (policy["base-uri"], policy["frame-ancestors"]) == ("'none'", "'none'")
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert len(page.body) < 20_000
    for tag, attributes in Elements(DIGITS).found:
        assert not {"style", "onclick"} & set(attributes), tag  # the policy would forbid them
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "data:").startswith(("data:", "../digits/predict")), attributes


def test_class_names_are_shown_and_are_never_markup() -> None:
    hostile = Elements(replace(DIGITS, class_names=HOSTILE))
    plain = Elements(replace(DIGITS, class_names=("one", "two", "three", "four")))
    assert [tag for tag, _ in hostile.found] == [tag for tag, _ in plain.found]
    assert [set(attributes) for _, attributes in hostile.found] == [set(attributes) for _, attributes in plain.found]
    assert set(HOSTILE) <= set(hostile.texts)
    keys = Elements(replace(DIGITS, class_names=("<", '"', "&", "é")))
    assert [attributes["value"] for tag, attributes in keys.found if tag == "button" and "value" in attributes] == [
        "<", '"', "&", "é",
    ]  # fmt: skip


def test_it_is_made_from_the_model() -> None:
    limits = Limits(max_count=9, max_text=3, max_frames=20, max_scale=2)
    page = Elements(replace(DIGITS, class_names=("cat", "dog"), limits=limits, width=64, version="f00"))
    assert [chip["value"] for chip in page.named("digits")] == ["0", "1"]
    assert {"cat", "dog", "f00"} <= set(page.texts)
    assert page.named("text") == []
    (text,) = Elements(replace(DIGITS, class_names=("a", "b"), limits=limits)).named("text")
    assert (text["value"], text["maxlength"]) == ("ab", "3")
    for name, most in {"count": "9", "scale": "2", "frames": "20", "seed": str(2**53 - 1)}.items():
        (field,) = page.named(name)
        assert field["max"] == most


def test_a_model_without_labels_has_no_buttons_for_them(load: Callable[..., Service]) -> None:
    page = Elements(replace(DIGITS, class_names=()))
    assert page.named("text") == page.named("digits") == []
    assert page.named("count")
    assert only(load(conditional=False, page=True), ({}, {"Accept": SAFARI})).media == HTML


@pytest.mark.parametrize("names", [tuple("0123456789"), ("cat", "dog"), ()])
def test_what_the_form_sends_without_its_script_is_a_good_request(
    load: Callable[..., Service], names: tuple[str, ...]
) -> None:
    fields: dict[str, Any] = {}
    select = ""
    off = False
    for tag, attributes in Elements(replace(DIGITS, class_names=names)).found:
        off = off or (tag == "fieldset" and "disabled" in attributes)
        select = attributes.get("name") or "" if tag == "select" else select
        if tag == "option" and select and select not in fields:
            fields[select] = attributes["value"]
        elif tag == "input" and attributes.get("name") and "disabled" not in attributes and not off:
            fields[attributes["name"] or ""] = attributes["value"]
    fields.pop("digits", None)  # radio buttons, of which none is chosen at first
    assert {"count", "truncation", "scale", "layout"} <= set(fields)
    assert not {"seed", "frames"} & set(fields)
    inputs = {name: bytearray(str(value).encode()) for name, value in fields.items()}
    assert only(load(conditional=bool(names), page=True), (inputs, {"Accept": SAFARI})).media == "image/png"


def test_the_description_tells_of_it(paged: Service) -> None:
    replies = described(paged)["paths"]["/predictions/digits"]["get"]["responses"]
    assert "text/html" in replies["200"]["content"]
