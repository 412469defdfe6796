"""A batch of requests: every request gets its own answer, whatever its neighbours ask."""

import base64
import io
import json
import logging
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from serving.handler import request as request_module
from serving.handler import service as service_module
from serving.handler.service import Reply, Service

from .small_export import seen_label

JSON = {"Accept": "application/json"}
Asked = tuple[dict[str, Any], dict[str, Any]]


def asked(headers: dict[str, Any] | None = None, **fields: Any) -> Asked:
    return {"body": bytearray(json.dumps(fields).encode())}, headers or {}


def pixels(reply: Reply) -> NDArray[np.uint8]:
    assert (reply.status, reply.media) == (200, "image/png"), reply.body
    with Image.open(io.BytesIO(reply.body)) as image:
        return np.asarray(image)


def only(service: Service, request: Asked) -> Reply:
    return service.answer([request])[0]


def test_a_digit_is_drawn_with_its_label_and_its_seed_is_told(service: Service) -> None:
    reply = only(service, asked(digits=7, seed=3))
    assert pixels(reply).shape == (28, 28)
    assert seen_label(pixels(reply)) == 7
    assert reply.headers["X-Seed"] == "3"


def test_a_drawn_seed_is_told_and_gives_the_same_bytes_again(service: Service) -> None:
    first = only(service, asked(digits=4))
    again = only(service, asked(digits=4, seed=int(first.headers["X-Seed"])))
    assert again.body == first.body


def test_no_body_at_all_draws_a_digit(service: Service) -> None:
    assert pixels(only(service, ({"body": bytearray()}, {}))).shape == (28, 28)


def test_json_gives_labels_and_single_images(service: Service) -> None:
    reply = only(service, asked(JSON, digits=[1, 2], count=3, seed=9, scale=2))
    record = json.loads(reply.body)
    assert set(record) == {"model_version", "seed", "images"}
    assert record["model_version"] == service.model.version
    assert record["seed"] == 9
    assert [image["label"] for image in record["images"]] == [1, 2, 1]
    for image in record["images"]:
        with Image.open(io.BytesIO(base64.b64decode(image["png"]))) as read:
            assert read.size == (56, 56)
            assert seen_label(np.asarray(read)[::2, ::2]) == image["label"]


def test_text_is_a_strip_in_one_handwriting_and_strips_are_stacked(service: Service) -> None:
    picture = pixels(only(service, asked(text="2026", count=2, seed=1)))
    assert picture.shape == (2 * 28, 4 * 28)
    strip = [picture[:28, 28 * i : 28 * i + 28] for i in range(4)]
    assert [seen_label(image) for image in strip] == [2, 0, 2, 6]
    assert np.array_equal(strip[0], strip[2])  # the same label from the same latent
    assert not np.array_equal(picture[:28], picture[28:])  # the second strip is another hand


def test_an_image_does_not_depend_on_the_count(service: Service) -> None:
    one = json.loads(only(service, asked(JSON, digits=5, seed=2)).body)["images"]
    many = json.loads(only(service, asked(JSON, digits=5, seed=2, count=40)).body)["images"]
    assert many[0] == one[0]


def test_a_label_by_name_does_not_change_the_handwriting(service: Service) -> None:
    free = json.loads(only(service, asked(JSON, seed=11)).body)["images"][0]
    named = json.loads(only(service, asked(JSON, seed=11, digits=free["label"])).body)["images"][0]
    assert named == free


def test_truncation_pulls_towards_the_mean(service: Service) -> None:
    at_mean = [only(service, asked(digits=1, seed=seed, truncation=0)).body for seed in (1, 2)]
    assert at_mean[0] == at_mean[1]
    assert only(service, asked(digits=1, seed=1, truncation=0.5)).body not in at_mean


def test_the_same_request_has_the_same_bytes_alone_and_anywhere_in_any_batch(load: Callable[..., Service]) -> None:
    random.seed(0)
    for backend in ("onnx", "torchscript"):
        service = load(backend)
        requests = [asked(seed=seed, count=random.randint(1, 9)) for seed in range(20)]
        requests += [asked(JSON, seed=seed, text="31", count=random.randint(1, 3)) for seed in range(20)]
        alone = [only(service, request) for request in requests]
        for _ in range(3):
            order = random.sample(range(len(requests)), random.randint(2, len(requests)))
            batch = service.answer([requests[i] for i in order])
            assert [reply.body for reply in batch] == [alone[i].body for i in order]


def test_one_bad_request_never_hurts_its_neighbours(service: Service) -> None:
    good = asked(digits=3, seed=3)
    bad = [
        asked(digits="3"),
        ({"body": bytearray(b"{")}, {}),
        asked({"Accept": "text/html"}),
        asked(count=256, scale=16),
    ]
    replies = service.answer([good, bad[0], bad[1], good, bad[2], bad[3], good])
    assert [reply.status for reply in replies] == [200, 400, 400, 200, 406, 413, 200]
    assert {reply.body for reply in replies if reply.status == 200} == {only(service, good).body}
    for reply in replies:
        if reply.status != 200:
            assert reply.media == "application/problem+json"
            assert json.loads(reply.body)["errors"]
    assert [reply.status for reply in service.answer(bad)] == [400, 400, 406, 413]


def test_header_names_know_no_case_and_a_parameter_named_like_a_header_is_no_header(service: Service) -> None:
    assert only(service, ({}, {"ACCEPT": "application/json"})).media == "application/json"
    reply = only(service, ({"accept": bytearray(b"x")}, {"accept": {"content-type": ""}}))
    assert json.loads(reply.body)["errors"][0]["field"] == "accept"


def test_an_unconditional_model_draws_without_labels(load: Callable[..., Service]) -> None:
    service = load(conditional=False)
    record = json.loads(only(service, asked(JSON, count=2, seed=1)).body)
    assert [image["label"] for image in record["images"]] == [None, None]
    assert only(service, asked(digits=1)).status == 400


def test_colour_is_drawn_in_colour(load: Callable[..., Service]) -> None:
    picture = pixels(only(load(channels=3), asked(digits=[1, 9], seed=1, layout="strip")))
    assert picture.shape == (28, 56, 3)
    assert [seen_label(picture[:, :28]), seen_label(picture[:, 28:])] == [1, 9]


def test_a_reply_that_torchserve_could_not_carry_gets_413(load: Callable[..., Service]) -> None:
    service = load(max_reply=3_000)
    assert only(service, asked(count=1)).status == 200
    assert only(service, asked(count=100)).status == 413


def test_a_defect_of_ours_hurts_only_the_request_that_meets_it(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def parse(inputs: Any, headers: Any, model: Any) -> Any:
        if "defect" in headers:
            raise ZeroDivisionError
        return request_module.parse(inputs, headers, model)

    monkeypatch.setattr(service_module, "parse", parse)
    with caplog.at_level(logging.ERROR):
        replies = service.answer([asked(), asked({"defect": "1"}), asked()])
    assert [reply.status for reply in replies] == [200, 500, 200]
    assert "ZeroDivisionError" in caplog.text


@settings(deadline=None, max_examples=150)
@given(
    bodies=st.lists(
        st.binary(max_size=40)
        | st.fixed_dictionaries(
            {}, optional={"digits": st.integers(-1, 11), "seed": st.integers(0, 9), "count": st.integers(0, 20)}
        ).map(lambda fields: json.dumps(fields).encode()),
        max_size=12,
    )
)
def test_no_batch_fails(service: Service, bodies: list[bytes]) -> None:
    replies = service.answer([({"body": bytearray(body)}, {}) for body in bodies])
    assert len(replies) == len(bodies)
    for body, reply in zip(bodies, replies, strict=True):
        assert reply.status in (200, 400)
        if b'"seed"' in body and reply.status == 200:
            assert reply.body == only(service, ({"body": bytearray(body)}, {})).body
