"""A generator of four channels: every picture of the service has its alpha, and the page shows it on a checkerboard."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from ganctl.common.interpolation import walk
from ganctl.common.latents import latents
from ganctl.exports.runtime import open_export
from ganctl.serving.archive.mar import BackendName
from ganctl.serving.client.client import Client
from ganctl.serving.handler.model import Model
from ganctl.serving.handler.page import build_page
from ganctl.serving.handler.replies import Reply
from ganctl.serving.handler.service import Service
from ganctl.training.sampling.local_sampler import LocalSampler
from ganctl.training.sampling.request import SampleRequest
from ganctl.training.sampling.samplers import sample_images
from ganctl.training.sampling.server_sampler import ServerSampler
from tests.unit.serving.service_calls import json_call, load_service, pixels, reply_to
from tests.unit.serving.small_export import Z_DIM, seen_label, write_export

FRAMES = 9


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of an unlabeled model of RGBA images, whose alpha is noise."""
    return write_export(tmp_path_factory.mktemp("rgba") / "export", conditional=False, channels=4, class_names=[])


@pytest.fixture(scope="module")
def unlabeled(export: Path) -> Service:
    return load_service(export)


@pytest.fixture(scope="module")
def labeled(load: Callable[..., Service]) -> Service:
    return load(channels=4)


def exact_frames(service: Service, seed: int, keyframes: int) -> NDArray[np.uint8]:
    """The images of a walk as the generator returns them, uint8 [FRAMES, 28, 28, 4]."""
    return service.engine.generate({"z": walk(latents(seed, keyframes, Z_DIM), FRAMES)})


def decoded(reply: Reply) -> NDArray[np.uint8]:
    """The pictures of an animation, as a viewer composes them from the file's frames."""
    assert reply.status == 200, reply.body
    with Image.open(io.BytesIO(reply.body)) as animation:
        return np.stack([np.asarray(frame.convert("RGBA")) for frame in ImageSequence.Iterator(animation)])


def visible(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The pixels without the colors of transparent ones, which nobody sees."""
    return np.where(images[..., 3:] > 0, images, 0).astype(np.int64)


@pytest.mark.parametrize("backend", ["onnx", "torchscript"])
def test_a_png_has_the_alpha_of_the_generator(load: Callable[..., Service], backend: BackendName) -> None:
    service = load(backend, channels=4)
    picture = pixels(reply_to(service, json_call(digits=[3, 8], seed=1)))
    assert picture.shape == (28, 2 * 28, 4)
    assert [seen_label(picture[:, 28 * i : 28 * i + 28, 3]) for i in range(2)] == [3, 8]
    assert picture[..., 3].max() > 200
    assert picture[..., 3].min() < 50


def test_all_types_have_the_same_visible_pixels(labeled: Service) -> None:
    call: dict[str, Any] = {"digits": [1, 2, 3], "seed": 4, "layout": "strip", "scale": 2}
    png = pixels(reply_to(labeled, json_call(**call)))
    webp = decoded(reply_to(labeled, json_call({"Accept": "image/webp"}, **call)))[0]
    assert np.array_equal(visible(webp), visible(png))
    with np.load(io.BytesIO(reply_to(labeled, json_call({"Accept": "application/x-npz"}, **call)).body)) as arrays:
        assert arrays["images"].shape == (3, 4, 56, 56)
        assert np.array_equal(np.concatenate([*arrays["images"].transpose(0, 2, 3, 1)], axis=1), png)
    gif = decoded(reply_to(labeled, json_call({"Accept": "image/gif"}, **call)))[0]
    assert np.array_equal(gif[..., 3], np.where(png[..., 3] >= 128, 255, 0)), "a GIF pixel is opaque or transparent"
    opaque = png[..., 3] >= 128
    assert np.abs(gif[opaque].astype(int) - png[opaque])[:, :3].mean() < 24, "256 colors"


def test_cells_of_a_grid_without_an_image_are_transparent(labeled: Service) -> None:
    picture = pixels(reply_to(labeled, json_call(count=3, seed=1)))
    assert picture.shape == (56, 56, 4)
    assert not picture[28:, 28:].any()


@pytest.mark.parametrize("media", ["image/gif", "image/webp"])
def test_a_frame_of_an_animation_shows_nothing_of_the_frames_before_it(unlabeled: Service, media: str) -> None:
    images = exact_frames(unlabeled, seed=3, keyframes=3)
    expected = images[..., 3] if media == "image/webp" else np.where(images[..., 3] >= 128, 255, 0)
    vanishing = (expected[:-1] > 0) & (expected[1:] == 0) if media == "image/gif" else expected[1:] < expected[:-1]
    assert vanishing.any(axis=(1, 2)).all(), "each frame has pixels that are more transparent than in the one before"
    frames = decoded(reply_to(unlabeled, json_call({"Accept": media}, seed=3, count=3, frames=FRAMES)))
    assert np.array_equal(frames[..., 3], expected)
    if media == "image/webp":
        assert np.array_equal(visible(frames), visible(images))


def test_a_client_returns_arrays_and_pictures_with_alpha(export: Path, unlabeled: Service) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        reply = reply_to(unlabeled, ({"body": request.content}, dict(request.headers)))
        return httpx.Response(reply.status, content=reply.body)

    with Client("http://127.0.0.1:8080", transport=httpx.MockTransport(answer)) as client:
        sample = client.sample(count=3, seed=6)
        remote = sample_images(SampleRequest(count=300, seed=6), ServerSampler(client))
    assert sample.images.shape == (3, 28, 28, 4)
    assert sample.labels.tolist() == [-1] * 3
    assert [picture.mode for picture in sample.pictures()] == ["RGBA"] * 3
    source = open_export(export).source
    assert source is not None
    local = sample_images(SampleRequest(count=300, seed=6), LocalSampler(source))
    assert remote.labels is None
    assert local.labels is None
    assert np.abs(remote.images.astype(int) - local.images).max() <= 1
    assert np.array_equal(remote.images[:3], sample.images)


@pytest.mark.parametrize(("channels", "checkered"), [(1, False), (3, False), (4, True)])
def test_the_page_shows_only_transparent_pictures_on_a_checkerboard(channels: int, checkered: bool) -> None:
    page = build_page(Model("abc", 16, (), channels, 64, 64)).body.decode()
    assert ('class="plate checkered"' in page) == checkered
    assert ("transparency" in page) == checkered
