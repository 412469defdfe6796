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

from ganctl.serving.handler.replies import Reply
from ganctl.serving.handler.request import Parser
from ganctl.serving.handler.service import Service
from tests.unit.serving.small_export import seen_label

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


def test_npz_holds_what_ganctl_sample_writes(load: Callable[..., Service]) -> None:
    headers = {"Accept": "application/x-npz"}
    for channels, conditional in ((1, True), (3, True), (1, False)):
        service = load(channels=channels, conditional=conditional)
        fields: dict[str, Any] = {"seed": 4, "count": 12, "scale": 2}
        if conditional:
            fields["digits"] = [1, 2]
        reply = only(service, asked(headers, **fields))
        assert (reply.status, reply.media) == (200, "application/x-npz")
        with np.load(io.BytesIO(reply.body), allow_pickle=False) as arrays:
            assert arrays["images"].shape == (12, 56, 56, 3)[: 4 if channels == 3 else 3]
            assert arrays["images"].dtype == np.uint8
            assert (int(arrays["seed"]), str(arrays["model_version"])) == (4, service.model.version)
            first = json.loads(only(service, asked(JSON, **fields)).body)["images"][0]["png"]
            with Image.open(io.BytesIO(base64.b64decode(first))) as image:
                assert np.array_equal(arrays["images"][0], np.asarray(image))
            if conditional:
                assert (arrays["labels"].dtype, arrays["labels"].tolist()) == (np.int64, [1, 2] * 6)
            else:
                assert "labels" not in arrays


@pytest.mark.parametrize("media", ["image/webp", "image/gif"])
def test_a_picture_in_another_format_has_the_same_pixels(load: Callable[..., Service], media: str) -> None:
    service = load()
    fields: dict[str, Any] = {"text": "2026", "count": 3, "seed": 1, "scale": 2}
    reply = only(service, asked({"Accept": media}, **fields))
    assert (reply.status, reply.media) == (200, media)
    with Image.open(io.BytesIO(reply.body)) as image:
        assert np.array_equal(np.asarray(image.convert("L")), pixels(only(service, asked(**fields))))


def test_a_browser_gets_a_picture_that_it_knows(service: Service) -> None:
    chrome = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"
    assert only(service, asked({"Accept": chrome}, digits=7)).media == "image/webp"
    assert only(service, asked({"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"})).media == "image/png"


def test_a_seeded_request_has_a_tag_and_is_not_drawn_again_for_who_knows_it(service: Service) -> None:
    first = only(service, asked(digits=7, seed=3))
    tag = first.headers["ETag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = only(service, asked({"If-None-Match": known}, digits=7, seed=3))
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
    for known in ('"other"', tag.strip('"'), ""):
        assert only(service, asked({"If-None-Match": known}, digits=7, seed=3)).status == 200
    others = [
        asked(digits=7, seed=4),
        asked(digits=8, seed=3),
        asked(JSON, digits=7, seed=3),
        asked(seed=3, digits=7, scale=2),
    ]
    assert len({tag, *(only(service, other).headers["ETag"] for other in others)}) == 5


def test_what_the_same_request_would_not_give_again_has_no_tag(service: Service, load: Callable[..., Service]) -> None:
    reply = only(service, asked({"If-None-Match": "*"}, digits=7))
    assert reply.status == 200
    assert "ETag" not in reply.headers
    tags = {
        only(load(**way), asked(seed=1)).headers["ETag"] for way in ({}, {"backend": "torchscript"}, {"channels": 3})
    }
    assert len(tags) == 3  # another back-end, another model


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
        asked({"Accept": "audio/mpeg"}),
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
    parse = Parser.parse

    def defect(self: Parser, inputs: Any, headers: Any) -> Any:
        if "defect" in headers:
            raise ZeroDivisionError
        return parse(self, inputs, headers)

    monkeypatch.setattr(Parser, "parse", defect)
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


def test_more_large_requests_than_a_batch_has_room_for_are_told_to_ask_again(load: Callable[..., Service]) -> None:
    service = load(max_batch=2)
    small, large = asked(seed=3), asked(seed=3, count=80, scale=16)
    alone = only(service, small).body
    replies = service.answer([large] * 5 + [small])
    assert [reply.status for reply in replies] == [200, 200, 429, 429, 429, 200]
    assert replies[2].headers == {"Retry-After": "1"}
    assert (replies[2].media, json.loads(replies[2].body)["status"]) == ("application/problem+json", 429)
    assert replies[-1].body == alone, "smaller ones behind them still fit"


def test_the_replies_to_a_batch_are_bounded_in_bytes(load: Callable[..., Service]) -> None:
    npz = {"Accept": "application/x-npz"}
    bytes_each = len(only(load(), asked(npz, count=100)).body)
    service = load(max_batch=2, max_reply=bytes_each)
    replies = service.answer([asked(npz, count=100)] * 5 + [asked(npz, count=101)])
    assert [reply.status for reply in replies] == [200, 200, 429, 429, 429, 413]
