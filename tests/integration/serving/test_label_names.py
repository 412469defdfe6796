"""HTTP requests by label name: queries, forms and the client accept any name, in both Unicode forms."""

import json
import unicodedata
from collections.abc import Iterator
from typing import Literal
from urllib.parse import quote

import pytest

from ganctl.serving.client.client import Client
from tests import http
from tests.integration.serving.conftest import Engine, Running, running
from tests.unit.serving.small_export import write_export

FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
NAMES = ["it's", 'say "hi"', "a,b;c=d", "<b>&", "100%", "a", "b", "a,b", "x+y", unicodedata.normalize("NFD", "café")]


@pytest.fixture(scope="module")
def odd_names(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server for an export whose labels have unusual names, one of them in decomposed Unicode (NFD)."""
    folder = write_export(tmp_path_factory.mktemp("odd_names") / "export")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"class_names": NAMES}))
    with running(folder, tmp_path_factory.mktemp("t"), engine=engine) as server:
        yield server


def generated_labels(server: Running, query: str) -> list[int]:
    reply = http.get(f"{server.url}/digits/predict?{query}", headers={"Accept": "application/json"})
    assert reply.status_code == 200, reply.text
    return [image["label"] for image in reply.json()["images"]]


@pytest.mark.soak_on_torchserve
def test_a_query_accepts_every_label_name_in_both_unicode_forms(odd_names: Running) -> None:
    for label, name in enumerate(NAMES):
        for form in FORMS:
            assert generated_labels(odd_names, f"labels={quote(unicodedata.normalize(form, name), safe='')}") == [
                label
            ], name


def test_a_repeated_parameter_adds_to_the_list(odd_names: Running) -> None:
    assert generated_labels(odd_names, "labels=a%2Cb%3Bc%3Dd&labels=a&labels=a&labels=b,a&count=6") == [
        2,
        5,
        5,
        6,
        5,
        2,
    ]
    assert generated_labels(odd_names, "digits=1&digits=2,3") == [1, 2, 3]
    refused = http.get(f"{odd_names.url}/digits/predict?seed=1&seed=2")
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "seed")


def test_a_bare_semicolon_in_a_query_is_refused_with_the_escape_to_write(odd_names: Running) -> None:
    refused = http.get(f"{odd_names.url}/digits/predict?labels=a,b;c=d")
    assert refused.status_code == 400
    assert "%3B" in refused.json()["errors"][0]["detail"]


def test_forms_and_clients_accept_every_label_name(odd_names: Running) -> None:
    labels = ["a,b;c=d", "cafe\u0301", "caf\u00e9"]
    accept = {"Accept": "application/json"}
    reply = http.post(f"{odd_names.url}/predictions/digits", data={"labels": labels}, headers=accept)
    assert [image["label"] for image in reply.json()["images"]] == [2, 9, 9], reply.text
    with Client(odd_names.url) as client:
        assert client.sample(labels=labels).labels.tolist() == [2, 9, 9]
        assert client.picture(labels=labels, seed=1) == client.picture(digits=[2, 9, 9], seed=1)
