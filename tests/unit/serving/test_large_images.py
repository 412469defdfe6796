"""Images of up to 128 × 128 pixels: the largest request follows from their size, and clients keep to it."""

from typing import cast

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ganctl.serving.client.client import Client
from ganctl.serving.handler.engine import Engine, Inputs
from ganctl.serving.handler.model import Limits, Model
from ganctl.serving.handler.service import Service
from ganctl.training.sampling.local_sampler import LocalSampler
from ganctl.training.sampling.request import SampleRequest
from ganctl.training.sampling.samplers import sample_images
from ganctl.training.sampling.server_sampler import ServerSampler
from tests.unit.serving.service_calls import json_call, openapi_of, reply_to
from tests.unit.serving.test_page import Elements

SHAPES = [(1, 16), (3, 32), (4, 48), (4, 64), (1, 128), (3, 128), (4, 128)]


def noise(z: NDArray[np.float32], channels: int, size: int) -> NDArray[np.uint8]:
    """Images of incompressible pixels that follow from the latents, uint8 [N, size, size, C]."""
    rng = np.random.default_rng(z.view(np.uint32).ravel().tolist())
    return rng.integers(0, 256, (len(z), size, size, channels), np.uint8)


class NoiseEngine:
    """An engine without a network."""

    def __init__(self, channels: int, size: int) -> None:
        self._channels, self._size = channels, size

    def generate(self, inputs: Inputs) -> NDArray[np.uint8]:
        return noise(inputs["z"], self._channels, self._size)


class NoiseSource:
    """The local counterpart of NoiseEngine, image by image."""

    latent_dim, conditional, class_names = 8, False, ()

    def __init__(self, channels: int, size: int) -> None:
        self._channels, self._size = channels, size

    def generate(self, z: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        images = noise(z.numpy(), self._channels, self._size)
        return torch.from_numpy(images).permute(0, 3, 1, 2)


def service_of(channels: int, size: int, **limits: int) -> Service:
    model = Model("abc", 8, (), channels, size, size, Limits(**limits))
    return Service(model, cast(Engine, NoiseEngine(channels, size)), "noise")


@pytest.mark.parametrize(("channels", "size"), SHAPES)
def test_the_largest_described_requests_are_answered_and_larger_ones_refused(channels: int, size: int) -> None:
    service = service_of(channels, size)
    fields = openapi_of(service)["components"]["schemas"]["Request"]["properties"]
    count, frames = fields["count"]["maximum"], fields["frames"]["maximum"]
    assert count == frames == min(256, 2**22 // (channels * size * size))
    for media in ("image/png", "application/json", "application/x-npz"):
        assert reply_to(service, json_call({"Accept": media}, count=count, seed=1)).status == 200, media
    assert reply_to(service, json_call(count=count + 1)).status in (400, 413)
    assert reply_to(service, json_call({"Accept": "image/webp"}, frames=frames + 1, count=2)).status in (400, 413)


@pytest.mark.parametrize(("channels", "size"), SHAPES)
def test_the_page_starts_with_a_request_that_is_answered(channels: int, size: int) -> None:
    page, service = Elements(Model("abc", 8, (), channels, size, size)), service_of(channels, size)
    (count,), (scale,), (frames,) = map(page.named, ("count", "scale", "frames"))
    assert (
        reply_to(service, json_call(seed=1, count=int(count["value"] or 0), scale=int(scale["value"] or 0))).status
        == 200
    )
    walk = {
        "count": int(count["data-alternative"] or 0),
        "frames": int(frames["value"] or 0),
        "scale": int(scale["value"] or 0),
    }
    assert reply_to(service, json_call({"Accept": "image/webp"}, seed=1, **walk)).status == 200
    most = min(256, 2**22 // (channels * size * size))
    assert (count["max"], frames["max"]) == (str(most), str(most))


def client_of(service: Service, statuses: list[int]) -> Client:
    """A client of a service; `statuses` receives the status of each reply."""

    def answer(request: httpx.Request) -> httpx.Response:
        reply = reply_to(service, ({"body": request.content}, dict(request.headers)))
        statuses.append(reply.status)
        return httpx.Response(reply.status, content=reply.body)

    return Client("http://127.0.0.1:8080", transport=httpx.MockTransport(answer))


def test_ganctl_sample_asks_a_server_for_no_more_images_than_it_draws_at_once() -> None:
    statuses: list[int] = []
    with client_of(service_of(4, 128), statuses) as client:
        assert client.max_count() == 64
        remote = sample_images(SampleRequest(count=150, seed=7), ServerSampler(client)).images
    assert remote.shape == (150, 128, 128, 4)
    assert set(statuses) == {200}
    local = sample_images(SampleRequest(count=150, seed=7), LocalSampler(NoiseSource(4, 128))).images
    assert np.array_equal(remote, local), "the same seeds for the same images"


def test_a_server_with_lower_limits_is_asked_for_fewer_images() -> None:
    statuses: list[int] = []
    with client_of(service_of(3, 32, max_count=10), statuses) as client:
        assert len(sample_images(SampleRequest(count=25, seed=7), ServerSampler(client)).images) == 25
    assert set(statuses) == {200}
