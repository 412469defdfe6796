"""The page for browsers: the requests that get it, its content, and its content security policy."""

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
from tests.unit.serving.service_calls import OPENAPI, json_call, openapi_of, reply_to

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
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(build_page(model).body.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.elements if attributes.get("name") == name]


@pytest.fixture(scope="module")
def page_service(load: Callable[..., Service]) -> Service:
    return load(page=True)


@pytest.mark.parametrize("accept", [CHROME, FIREFOX, SAFARI, "text/html", "TEXT/HTML;q=0.5"])
def test_a_browser_gets_the_page_without_fields_and_a_picture_with_any_field(
    page_service: Service, accept: str
) -> None:
    for inputs in ({}, {"body": bytearray()}, {"body": bytearray(b" {} ")}):
        reply = reply_to(page_service, (inputs, {"Accept": accept}))
        assert (reply.status, reply.media) == (200, HTML)
        assert reply.body.startswith(b"<!doctype html>")
    for field, value in {"digits": 7, "seed": 0, "count": 2, "scale": 1, "layout": "grid"}.items():
        reply = reply_to(page_service, json_call({"Accept": accept}, **{field: value}))
        assert reply.media.startswith("image/") or (reply.status == 406 and "*/*" not in accept)


@pytest.mark.parametrize(
    "accept",
    ["", "*/*", "text/html;q=0, */*", "image/webp, text/html;q=0.9", "text/html-like, */*", "image/*, text/*;q=0.5"],
)
def test_a_client_that_does_not_name_or_prefer_html_gets_a_picture(page_service: Service, accept: str) -> None:
    assert reply_to(page_service, json_call({"Accept": accept} if accept else {})).media.startswith("image/")


def test_without_the_page_a_browser_gets_a_picture_and_a_client_that_accepts_only_html_gets_406(
    load: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    services = [load(), load(page=False)]
    monkeypatch.setenv("GANCTL_PAGE", "off")
    services.append(load(page=True))
    for service in services:
        assert reply_to(service, json_call({"Accept": SAFARI})).media == "image/png"
        reply = reply_to(service, json_call({"Accept": "text/html"}))
        assert (reply.status, reply.media) == (406, "application/problem+json")
        assert b"text/html" not in reply.body
        assert b"text/html" not in reply_to(service, json_call(OPENAPI)).body


def test_a_request_with_fields_that_accepts_only_html_gets_406_and_an_invalid_one_400(page_service: Service) -> None:
    reply = reply_to(page_service, json_call({"Accept": "text/html"}, seed=3))
    assert reply.status == 406
    assert b"text/html" in reply.body
    assert reply_to(page_service, ({"body": bytearray(b"[]")}, {"Accept": "text/html"})).status == 400
    assert reply_to(page_service, json_call({"Accept": "text/html"}, other=1)).status == 400


def test_the_setting_page_of_an_archive_is_true_or_false(load: Callable[..., Service]) -> None:
    with pytest.raises(ValueError, match=r"^page: (?=.*\b1\b).*true or false"):
        load(page=1)


@pytest.mark.parametrize("text", ["0", "false", "no", "tcp://10.0.0.1:80"])
def test_the_variable_ganctl_page_is_on_or_off(
    text: str, load: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANCTL_PAGE", text)
    facts = f"^GANCTL_PAGE: (?=.*'{text}').*on or off"
    with pytest.raises(ValueError, match=facts):
        load(page=True)
    with pytest.raises(SettingError, match=facts):
        Server(Path("digits.mar"))


@pytest.mark.parametrize(("text", "on"), [("", True), ("on", True), ("ON", True), ("off", False), (" Off", False)])
def test_the_variable_ganctl_page_disables_the_page_of_the_service_and_of_the_server(
    text: str, on: bool, load: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANCTL_PAGE", text)
    expected = "text/html" if on else "image/png"
    assert reply_to(load(page=True), json_call({"Accept": SAFARI})).media.startswith(expected)
    assert Server(Path("digits.mar")).page == on
    assert not Server(Path("digits.mar"), page=False).page


def test_a_client_that_sends_the_etag_of_the_page_gets_304(page_service: Service) -> None:
    tag = reply_to(page_service, ({}, {"Accept": SAFARI})).headers["ETag"]
    cached = reply_to(page_service, ({}, {"Accept": SAFARI, "If-None-Match": f'"other", {tag}'}))
    assert (cached.status, cached.body, cached.headers["ETag"]) == (304, b"", tag)
    assert reply_to(page_service, ({}, {"Accept": SAFARI, "If-None-Match": '"other"'})).status == 200
    assert build_page(replace(DIGITS, version="1")).headers["ETag"] != build_page(DIGITS).headers["ETag"]


def test_the_policy_allows_only_the_script_and_style_of_the_page_and_requests_to_its_server() -> None:
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
    for tag, attributes in Elements(DIGITS).elements:
        assert not {"style", "onclick"} & set(attributes), tag  # the policy forbids them
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "data:").startswith(("data:", "../digits/predict")), attributes


def test_class_names_are_text_of_the_page_and_never_markup() -> None:
    page = Elements(replace(DIGITS, class_names=HOSTILE))
    plain = Elements(replace(DIGITS, class_names=("one", "two", "three", "four")))
    assert [(tag, set(attributes)) for tag, attributes in page.elements] == [
        (tag, set(attributes)) for tag, attributes in plain.elements
    ]
    assert set(HOSTILE) <= set(page.texts)
    letters = ["<", '"', "&", "é"]
    page = Elements(replace(DIGITS, class_names=tuple(letters)))
    buttons = [attributes for tag, attributes in page.elements if tag == "button" and "value" in attributes]
    assert [attributes["value"] for attributes in buttons] == letters


@pytest.mark.parametrize("text", ["CC BY 4.0", *HOSTILE])
def test_the_page_names_the_license_and_the_authors_of_the_training_images_as_text(text: str) -> None:
    plain = Elements(DIGITS)
    for field in ("license", "attribution"):
        page = Elements(replace(DIGITS, **{field: text}))  # type: ignore[arg-type]  # both are text
        (line,) = set(page.texts) - set(plain.texts)
        assert text in line
        added = [tag for tag, _ in page.elements if tag != "br"]
        assert added == [tag for tag, _ in plain.elements if tag != "br"]
    both = Elements(replace(DIGITS, license="MIT", attribution="Ada"))
    assert any("Ada" in line and "MIT" in line for line in both.texts)


def test_the_page_has_the_labels_the_version_and_the_limits_of_the_model() -> None:
    limits = Limits(max_count=9, max_text=3, max_frames=20, max_scale=2)
    page = Elements(replace(DIGITS, class_names=("cat", "dog"), limits=limits, width=64, version="f00"))
    assert [attributes["value"] for attributes in page.named("digits")] == ["0", "1"]
    assert {"cat", "dog", "f00"} <= set(page.texts)
    assert page.named("text") == []
    (text,) = Elements(replace(DIGITS, class_names=("a", "b"), limits=limits)).named("text")
    assert (text["value"], text["maxlength"]) == ("ab", "3")
    for name, most in {"count": "9", "scale": "2", "frames": "20", "seed": str(2**53 - 1)}.items():
        (field,) = page.named(name)
        assert field["max"] == most


def test_the_page_promises_handwriting_for_gray_characters_only() -> None:
    assert any("Handwriting" in text for text in Elements(DIGITS).texts)
    numbered = Elements(replace(DIGITS, channels=3))  # classes of colored images that have numbers for names
    assert not any("andwriting" in text for text in numbered.texts)
    assert numbered.named("text") == []
    assert [attributes["value"] for attributes in numbered.named("digits")] == list("0123456789")


def test_the_page_of_an_unconditional_model_has_no_fields_for_labels(load: Callable[..., Service]) -> None:
    page = Elements(replace(DIGITS, class_names=()))
    assert page.named("text") == page.named("digits") == []
    assert page.named("count")
    assert reply_to(load(conditional=False, page=True), ({}, {"Accept": SAFARI})).media == HTML


@pytest.mark.parametrize("names", [tuple("0123456789"), ("cat", "dog"), ()])
def test_the_form_sends_a_valid_request_without_the_script(
    load: Callable[..., Service], names: tuple[str, ...]
) -> None:
    fields: dict[str, Any] = {}
    select = ""
    disabled = False
    for tag, attributes in Elements(replace(DIGITS, class_names=names)).elements:
        disabled = disabled or (tag == "fieldset" and "disabled" in attributes)
        select = attributes.get("name") or "" if tag == "select" else select
        if tag == "option" and select and select not in fields:
            fields[select] = attributes["value"]
        elif tag == "input" and attributes.get("name") and "disabled" not in attributes and not disabled:
            fields[attributes["name"] or ""] = attributes["value"]
    fields.pop("digits", None)  # radio buttons, which are all unchecked at first
    assert {"count", "truncation", "scale", "layout"} <= set(fields)
    assert not {"seed", "frames"} & set(fields)
    inputs = {name: bytearray(str(value).encode()) for name, value in fields.items()}
    assert reply_to(load(conditional=bool(names), page=True), (inputs, {"Accept": SAFARI})).media == "image/png"


def test_the_openapi_description_has_the_media_type_of_the_page(page_service: Service) -> None:
    replies = openapi_of(page_service)["paths"]["/predictions/digits"]["get"]["responses"]
    assert "text/html" in replies["200"]["content"]
