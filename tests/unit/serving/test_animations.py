"""A request with `frames` returns an animation: a closed interpolation between latents, as by `ganctl sample`."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from ganctl.common.interpolation import walk
from ganctl.common.latents import latents
from ganctl.serving.handler.replies import Reply
from ganctl.serving.handler.service import Service
from ganctl.training.images.interpolation import walk_latents
from tests.unit.serving.service_calls import json_call, pixels, reply_to
from tests.unit.serving.small_export import seen_label

WEBP = {"Accept": "image/webp"}


def frames(reply: Reply, media: str) -> list[NDArray[np.uint8]]:
    """The frames of an animation that repeats forever, as gray images."""
    assert (reply.status, reply.media) == (200, media), reply.body
    with Image.open(io.BytesIO(reply.body)) as animation:
        assert animation.info["loop"] == 0
        return [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(animation)]


@pytest.mark.parametrize(("keyframes", "count"), [(2, 2), (3, 10), (8, 96)])
def test_the_interpolation_equals_that_of_ganctl_sample(keyframes: int, count: int) -> None:
    z = latents(5, keyframes, 16)
    np.testing.assert_allclose(walk(z, count), walk_latents(torch.from_numpy(z), count).numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("headers", "media"), [({}, "image/gif"), (WEBP, "image/webp")])
def test_an_animation_passes_through_the_images_of_its_seed_and_closes(
    service: Service, headers: dict[str, Any], media: str
) -> None:
    animation = frames(reply_to(service, json_call(headers, digits=7, seed=3, count=4, frames=12)), media)
    assert len(animation) == 12
    assert {seen_label(frame) for frame in animation} == {7}
    strip = pixels(reply_to(service, json_call(digits=7, seed=3, count=4, layout="strip")))
    for i in range(4):
        assert np.array_equal(animation[3 * i], strip[:, 28 * i : 28 * i + 28])
    steps = [np.abs(a.astype(int) - b).mean() for a, b in zip(animation, animation[1:] + animation[:1], strict=True)]
    assert steps[-1] < 2 * float(np.median(steps))


@pytest.mark.parametrize("fields", [{"text": "2026"}, {"digits": [2, 0, 2, 6]}])
def test_several_labels_are_animated_side_by_side_from_the_same_latents(
    service: Service, fields: dict[str, Any]
) -> None:
    animation = frames(reply_to(service, json_call(seed=1, frames=9, count=3, scale=2, **fields)), "image/gif")
    first = pixels(reply_to(service, json_call(text="2026", seed=1, scale=2)))
    assert np.array_equal(animation[0], first)
    assert animation[0].shape == (56, 4 * 56)
    for frame in animation:
        assert [seen_label(frame[::2, ::2][:, 28 * i : 28 * i + 28]) for i in range(4)] == [2, 0, 2, 6]


def test_without_a_label_all_frames_have_the_label_that_the_seed_gives(service: Service) -> None:
    animation = frames(reply_to(service, json_call(seed=4, frames=3)), "image/gif")
    still = pixels(reply_to(service, json_call(seed=4)))
    assert np.array_equal(animation[0], still)
    assert {seen_label(frame) for frame in animation} == {seen_label(still)}


def test_unconditional_models_return_animations(load: Callable[..., Service]) -> None:
    assert len(frames(reply_to(load(conditional=False), json_call(seed=1, frames=5)), "image/gif")) == 5


def test_color_models_return_animations_in_color(load: Callable[..., Service]) -> None:
    reply = reply_to(load(channels=3), json_call(WEBP, digits=1, seed=1, frames=5))
    with Image.open(io.BytesIO(reply.body)) as animation:
        colors = np.asarray(animation.convert("RGB"))
        assert np.ptp(colors, axis=2).max() > 0
        assert len(list(ImageSequence.Iterator(animation))) == 5


def test_an_animation_is_the_same_in_any_batch(service: Service) -> None:
    call = json_call(text="31", seed=8, frames=20)
    alone = reply_to(service, call)
    batch = service.answer([json_call(count=7, seed=1), call, json_call(seed=2, frames=3)])
    assert batch[1].body == alone.body


@pytest.mark.parametrize(
    ("accept", "fields", "status", "field"),
    [
        ("image/png", {"frames": 8}, 406, "Accept"),
        ("application/json", {"frames": 8}, 406, "Accept"),
        (None, {"frames": 1}, 400, "frames"),
        (None, {"frames": 257}, 400, "frames"),
        (None, {"frames": 4, "count": 5}, 400, "frames"),
        (None, {"frames": 4, "count": 1}, 400, "count"),
        (None, {"frames": 256, "text": "1" * 64}, 413, "frames"),
        (None, {"frames": 256, "scale": 16}, 413, "scale"),
        ("image/webp", {"count": 200, "scale": 3, "layout": "strip"}, 413, "scale"),
    ],
)
def test_an_animation_that_is_invalid_or_too_large_is_refused_with_the_field(
    service: Service, accept: str | None, fields: dict[str, Any], status: int, field: str
) -> None:
    reply = reply_to(service, json_call({} if accept is None else {"Accept": accept}, **fields))
    assert reply.status == status, reply.body
    assert f'"field": "{field}"'.encode() in reply.body
