"""A batch of requests: each request gets its own reply, independent of the others."""

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
from PIL import Image

from ganctl.serving.handler.request import Parser
from ganctl.serving.handler.service import Service
from tests.unit.serving.service_calls import JSON, json_call, pixels, reply_to
from tests.unit.serving.small_export import seen_label


def test_a_reply_has_an_image_of_the_label_and_the_seed(service: Service) -> None:
    reply = reply_to(service, json_call(digits=7, seed=3))
    assert pixels(reply).shape == (28, 28)
    assert seen_label(pixels(reply)) == 7
    assert reply.headers["X-Seed"] == "3"


def test_the_random_seed_of_a_reply_gives_the_same_bytes_again(service: Service) -> None:
    first = reply_to(service, json_call(digits=4))
    again = reply_to(service, json_call(digits=4, seed=int(first.headers["X-Seed"])))
    assert again.body == first.body


def test_an_empty_body_gives_one_image(service: Service) -> None:
    assert pixels(reply_to(service, ({"body": bytearray()}, {}))).shape == (28, 28)


def test_json_has_the_label_and_the_image_of_each_digit(service: Service) -> None:
    reply = reply_to(service, json_call(JSON, digits=[1, 2], count=3, seed=9, scale=2))
    record = json.loads(reply.body)
    assert set(record) == {"model_version", "seed", "images"}
    assert record["model_version"] == service.model.version
    assert record["seed"] == 9
    assert [image["label"] for image in record["images"]] == [1, 2, 1]
    for image in record["images"]:
        with Image.open(io.BytesIO(base64.b64decode(image["png"]))) as read:
            assert read.size == (56, 56)
            assert seen_label(np.asarray(read)[::2, ::2]) == image["label"]


def test_npz_has_the_arrays_that_ganctl_sample_writes(load: Callable[..., Service]) -> None:
    headers = {"Accept": "application/x-npz"}
    for channels, conditional in ((1, True), (3, True), (1, False)):
        service = load(channels=channels, conditional=conditional)
        fields: dict[str, Any] = {"seed": 4, "count": 12, "scale": 2}
        if conditional:
            fields["digits"] = [1, 2]
        reply = reply_to(service, json_call(headers, **fields))
        assert (reply.status, reply.media) == (200, "application/x-npz")
        with np.load(io.BytesIO(reply.body), allow_pickle=False) as arrays:
            assert arrays["images"].shape == ((12, 3, 56, 56) if channels == 3 else (12, 56, 56))
            assert arrays["images"].dtype == np.uint8
            assert (int(arrays["seed"]), str(arrays["model_version"])) == (4, service.model.version)
            first = json.loads(reply_to(service, json_call(JSON, **fields)).body)["images"][0]["png"]
            with Image.open(io.BytesIO(base64.b64decode(first))) as image:
                expected = np.asarray(image)
                assert np.array_equal(arrays["images"][0], np.moveaxis(expected, -1, 0) if channels == 3 else expected)
            if conditional:
                assert (arrays["labels"].dtype, arrays["labels"].tolist()) == (np.int64, [1, 2] * 6)
            else:
                assert "labels" not in arrays


@pytest.mark.parametrize("media", ["image/webp", "image/gif"])
def test_a_picture_in_another_format_has_the_same_pixels(load: Callable[..., Service], media: str) -> None:
    service = load()
    fields: dict[str, Any] = {"text": "2026", "count": 3, "seed": 1, "scale": 2}
    reply = reply_to(service, json_call({"Accept": media}, **fields))
    assert (reply.status, reply.media) == (200, media)
    with Image.open(io.BytesIO(reply.body)) as image:
        assert np.array_equal(np.asarray(image.convert("L")), pixels(reply_to(service, json_call(**fields))))


def test_a_browser_gets_an_image_format_that_it_accepts(service: Service) -> None:
    chrome = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"
    assert reply_to(service, json_call({"Accept": chrome}, digits=7)).media == "image/webp"
    assert (
        reply_to(service, json_call({"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"})).media == "image/png"
    )


def test_a_request_with_a_seed_has_an_etag_and_gets_304_if_the_client_sends_it(service: Service) -> None:
    first = reply_to(service, json_call(digits=7, seed=3))
    tag = first.headers["ETag"]
    for sent in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = reply_to(service, json_call({"If-None-Match": sent}, digits=7, seed=3))
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
    for sent in ('"other"', tag.strip('"'), ""):
        assert reply_to(service, json_call({"If-None-Match": sent}, digits=7, seed=3)).status == 200


def test_a_request_without_a_seed_has_no_etag(service: Service) -> None:
    reply = reply_to(service, json_call({"If-None-Match": "*"}, digits=7))
    assert reply.status == 200
    assert "ETag" not in reply.headers


def test_etags_differ_for_other_requests_back_ends_and_models(service: Service, load: Callable[..., Service]) -> None:
    calls = [
        json_call(digits=7, seed=3),
        json_call(digits=7, seed=4),
        json_call(digits=8, seed=3),
        json_call(JSON, digits=7, seed=3),
        json_call(seed=3, digits=7, scale=2),
    ]
    tags = [reply_to(service, call).headers["ETag"] for call in calls]
    tags += [
        reply_to(load(**options), calls[0]).headers["ETag"] for options in ({"backend": "torchscript"}, {"channels": 3})
    ]
    assert len(set(tags)) == len(tags) == 7


def test_text_is_a_strip_of_images_from_one_latent_and_strips_are_stacked(service: Service) -> None:
    picture = pixels(reply_to(service, json_call(text="2026", count=2, seed=1)))
    assert picture.shape == (2 * 28, 4 * 28)
    strip = [picture[:28, 28 * i : 28 * i + 28] for i in range(4)]
    assert [seen_label(image) for image in strip] == [2, 0, 2, 6]
    assert np.array_equal(strip[0], strip[2])  # the same label from the same latent
    assert not np.array_equal(picture[:28], picture[28:])  # the second strip has another latent


def test_an_image_does_not_depend_on_the_count(service: Service) -> None:
    one = json.loads(reply_to(service, json_call(JSON, digits=5, seed=2)).body)["images"]
    many = json.loads(reply_to(service, json_call(JSON, digits=5, seed=2, count=40)).body)["images"]
    assert many[0] == one[0]


def test_a_given_label_does_not_change_the_latent(service: Service) -> None:
    random_label = json.loads(reply_to(service, json_call(JSON, seed=11)).body)["images"][0]
    given_label = json.loads(reply_to(service, json_call(JSON, seed=11, digits=random_label["label"])).body)["images"][
        0
    ]
    assert given_label == random_label


def test_truncation_moves_latents_toward_the_mean(service: Service) -> None:
    at_mean = [reply_to(service, json_call(digits=1, seed=seed, truncation=0)).body for seed in (1, 2)]
    assert at_mean[0] == at_mean[1]
    assert reply_to(service, json_call(digits=1, seed=1, truncation=0.5)).body not in at_mean


def test_a_request_has_the_same_bytes_alone_and_at_any_position_of_any_batch(load: Callable[..., Service]) -> None:
    random.seed(0)
    for backend in ("onnx", "torchscript"):
        service = load(backend)
        requests = [json_call(seed=seed, count=random.randint(1, 9)) for seed in range(20)]
        requests += [json_call(JSON, seed=seed, text="31", count=random.randint(1, 3)) for seed in range(20)]
        alone = [reply_to(service, request) for request in requests]
        for _ in range(3):
            order = random.sample(range(len(requests)), random.randint(2, len(requests)))
            batch = service.answer([requests[i] for i in order])
            assert [reply.body for reply in batch] == [alone[i].body for i in order]


def test_invalid_requests_do_not_change_the_other_replies_of_their_batch(service: Service) -> None:
    valid = json_call(digits=3, seed=3)
    invalid = [
        json_call(digits="3"),
        ({"body": bytearray(b"{")}, {}),
        json_call({"Accept": "audio/mpeg"}),
        json_call(count=256, scale=16),
    ]
    replies = service.answer([valid, invalid[0], invalid[1], valid, invalid[2], invalid[3], valid])
    assert [reply.status for reply in replies] == [200, 400, 400, 200, 406, 413, 200]
    assert {reply.body for reply in replies if reply.status == 200} == {reply_to(service, valid).body}
    for reply in replies:
        if reply.status != 200:
            assert reply.media == "application/problem+json"
            assert json.loads(reply.body)["errors"]
    assert [reply.status for reply in service.answer(invalid)] == [400, 400, 406, 413]


def test_header_names_are_case_insensitive_and_a_field_with_the_name_of_a_header_is_a_field(service: Service) -> None:
    assert reply_to(service, ({}, {"ACCEPT": "application/json"})).media == "application/json"
    reply = reply_to(service, ({"accept": bytearray(b"x")}, {"accept": {"content-type": ""}}))
    assert json.loads(reply.body)["errors"][0]["field"] == "accept"


def test_an_unconditional_model_returns_images_without_labels(load: Callable[..., Service]) -> None:
    service = load(conditional=False)
    record = json.loads(reply_to(service, json_call(JSON, count=2, seed=1)).body)
    assert [image["label"] for image in record["images"]] == [None, None]
    assert reply_to(service, json_call(digits=1)).status == 400


def test_a_color_model_returns_color_images(load: Callable[..., Service]) -> None:
    picture = pixels(reply_to(load(channels=3), json_call(digits=[1, 9], seed=1, layout="strip")))
    assert picture.shape == (28, 56, 3)
    assert [seen_label(picture[:, :28]), seen_label(picture[:, 28:])] == [1, 9]


def test_a_reply_above_the_limit_of_torchserve_gets_413(load: Callable[..., Service]) -> None:
    service = load(max_reply=3_000)
    assert reply_to(service, json_call(count=1)).status == 200
    assert reply_to(service, json_call(count=100)).status == 413


def test_an_unexpected_exception_fails_only_its_own_request_and_is_logged(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parse = Parser.parse

    def parse_with_defect(self: Parser, inputs: Any, headers: Any) -> Any:
        if "defect" in headers:
            raise ZeroDivisionError
        return parse(self, inputs, headers)

    monkeypatch.setattr(Parser, "parse", parse_with_defect)
    with caplog.at_level(logging.ERROR):
        replies = service.answer([json_call(), json_call({"defect": "1"}), json_call()])
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
def test_every_request_of_any_batch_gets_a_reply(service: Service, bodies: list[bytes]) -> None:
    replies = service.answer([({"body": bytearray(body)}, {}) for body in bodies])
    assert len(replies) == len(bodies)
    for body, reply in zip(bodies, replies, strict=True):
        assert reply.status in (200, 400)
        if b'"seed"' in body and reply.status == 200:
            assert reply.body == reply_to(service, ({"body": bytearray(body)}, {})).body


def test_large_requests_beyond_the_limit_of_a_batch_get_429_with_retry_after(load: Callable[..., Service]) -> None:
    service = load(max_batch=2)
    small, large = json_call(seed=3), json_call(seed=3, count=80, scale=16)
    alone = reply_to(service, small).body
    replies = service.answer([large] * 5 + [small])
    assert [reply.status for reply in replies] == [200, 200, 429, 429, 429, 200]
    assert replies[2].headers == {"Retry-After": "1"}
    assert (replies[2].media, json.loads(replies[2].body)["status"]) == ("application/problem+json", 429)
    assert replies[-1].body == alone, "a small request after them still fits"


def test_the_replies_to_a_batch_have_a_limit_in_bytes(load: Callable[..., Service]) -> None:
    npz = {"Accept": "application/x-npz"}
    bytes_each = len(reply_to(load(), json_call(npz, count=100)).body)
    service = load(max_batch=2, max_reply=bytes_each)
    replies = service.answer([json_call(npz, count=100)] * 5 + [json_call(npz, count=101)])
    assert [reply.status for reply in replies] == [200, 200, 429, 429, 429, 413]
