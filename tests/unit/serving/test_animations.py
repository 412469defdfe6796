"""With `frames` a request gives a film: a closed walk through handwritings, the same as `ganctl sample` walks."""

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
from tests.unit.serving.small_export import seen_label
from tests.unit.serving.test_service import asked, only, pixels

WEBP = {"Accept": "image/webp"}


def frames(reply: Reply, media: str) -> list[NDArray[np.uint8]]:
    """The frames of a film, in its own mode or as grey."""
    assert (reply.status, reply.media) == (200, media), reply.body
    with Image.open(io.BytesIO(reply.body)) as film:
        assert film.info["loop"] == 0
        return [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(film)]


@pytest.mark.parametrize(("stops", "count"), [(2, 2), (3, 10), (8, 96)])
def test_walks_are_those_of_ganctl_sample(stops: int, count: int) -> None:
    z = latents(5, stops, 16)
    np.testing.assert_allclose(walk(z, count), walk_latents(torch.from_numpy(z), count).numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("headers", "media"), [({}, "image/gif"), (WEBP, "image/webp")])
def test_a_film_passes_the_images_of_its_seed_and_comes_back(
    service: Service, headers: dict[str, Any], media: str
) -> None:
    film = frames(only(service, asked(headers, digits=7, seed=3, count=4, frames=12)), media)
    assert len(film) == 12
    assert {seen_label(frame) for frame in film} == {7}
    each = [
        pixels(only(service, asked(digits=7, seed=3, count=4, layout="strip")))[:, 28 * i : 28 * i + 28]
        for i in range(4)
    ]
    for stop, image in enumerate(each):
        assert np.array_equal(film[3 * stop], image)
    steps = [np.abs(a.astype(int) - b).mean() for a, b in zip(film, film[1:] + film[:1], strict=True)]
    assert steps[-1] < 2 * float(np.median(steps))


@pytest.mark.parametrize("fields", [{"text": "2026"}, {"digits": [2, 0, 2, 6]}])
def test_several_labels_stand_side_by_side_in_a_handwriting_that_walks(
    service: Service, fields: dict[str, Any]
) -> None:
    film = frames(only(service, asked(seed=1, frames=9, count=3, scale=2, **fields)), "image/gif")
    first = pixels(only(service, asked(text="2026", seed=1, scale=2)))
    assert np.array_equal(film[0], first)
    assert film[0].shape == (56, 4 * 56)
    for frame in film:
        assert [seen_label(frame[::2, ::2][:, 28 * i : 28 * i + 28]) for i in range(4)] == [2, 0, 2, 6]


def test_without_a_label_the_seed_gives_one_for_the_whole_film(service: Service) -> None:
    film = frames(only(service, asked(seed=4, frames=3)), "image/gif")
    still = pixels(only(service, asked(seed=4)))
    assert np.array_equal(film[0], still)
    assert {seen_label(frame) for frame in film} == {seen_label(still)}


def test_a_film_of_a_model_without_labels_and_one_in_colour(load: Callable[..., Service]) -> None:
    assert len(frames(only(load(conditional=False), asked(seed=1, frames=5)), "image/gif")) == 5
    reply = only(load(channels=3), asked(WEBP, digits=1, seed=1, frames=5))
    with Image.open(io.BytesIO(reply.body)) as film:
        colours = np.asarray(film.convert("RGB"))
        assert np.ptp(colours, axis=2).max() > 0
        assert len(list(ImageSequence.Iterator(film))) == 5


def test_a_film_is_the_same_in_any_batch(service: Service) -> None:
    film, neighbours = asked(text="31", seed=8, frames=20), [asked(count=7, seed=1), asked(seed=2, frames=3)]
    alone = only(service, film)
    assert service.answer([neighbours[0], film, neighbours[1]])[1].body == alone.body


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
def test_what_is_no_film_or_too_much_of_one_is_refused(
    service: Service, accept: str | None, fields: dict[str, Any], status: int, field: str
) -> None:
    reply = only(service, asked({} if accept is None else {"Accept": accept}, **fields))
    assert reply.status == status, reply.body
    assert f'"field": "{field}"'.encode() in reply.body
