"""Requests by label name over HTTP: any name, by query, form and client, in either Unicode form."""

import json
import unicodedata
from collections.abc import Iterator
from typing import Literal
from urllib.parse import quote

import pytest

from ganctl.serving.client.client import Client
from tests import http
from tests.integration.serving.conftest import Running, running
from tests.unit.serving.small_export import write_export

FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
NAMES = ["it's", 'say "hi"', "a,b;c=d", "<b>&", "100%", "a", "b", "a,b", "x+y", unicodedata.normalize("NFD", "café")]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of an export whose labels have odd names, one of them decomposed."""
    folder = write_export(tmp_path_factory.mktemp("odd") / "export")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"class_names": NAMES}))
    with running(folder, tmp_path_factory.mktemp("t")) as server:
        yield server


def drawn(server: Running, query: str) -> list[int]:
    reply = http.get(f"{server.url}/digits/predict?{query}", headers={"Accept": "application/json"})
    assert reply.status_code == 200, reply.text
    return [image["label"] for image in reply.json()["images"]]


def test_each_name_is_a_value_of_a_query(odd: Running) -> None:
    for label, name in enumerate(NAMES):
        for form in FORMS:
            assert drawn(odd, f"labels={quote(unicodedata.normalize(form, name), safe='')}") == [label], name


def test_a_repeated_parameter_adds_to_the_list(odd: Running) -> None:
    assert drawn(odd, "labels=a%2Cb%3Bc%3Dd&labels=a&labels=a&labels=b,a&count=6") == [2, 5, 5, 6, 5, 2]
    assert drawn(odd, "digits=1&digits=2,3") == [1, 2, 3]
    refused = http.get(f"{odd.url}/digits/predict?seed=1&seed=2")
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "seed")


def test_a_bare_semicolon_ends_a_field_and_that_is_told(odd: Running) -> None:
    refused = http.get(f"{odd.url}/digits/predict?labels=a,b;c=d")
    assert refused.status_code == 400
    assert "%3B" in refused.json()["errors"][0]["detail"]


def test_forms_and_clients_ask_by_any_name(odd: Running) -> None:
    wanted = ["a,b;c=d", "cafe\u0301", "caf\u00e9"]
    accept = {"Accept": "application/json"}
    reply = http.post(f"{odd.url}/predictions/digits", data={"labels": wanted}, headers=accept)
    assert [image["label"] for image in reply.json()["images"]] == [2, 9, 9], reply.text
    with Client(odd.url) as client:
        assert client.sample(labels=wanted).labels.tolist() == [2, 9, 9]
        assert client.picture(labels=wanted, seed=1) == client.picture(digits=[2, 9, 9], seed=1)
