"""The client and `ganctl sample URL`, against a real service without TorchServe around it."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from ganctl.exports.runtime import open_export
from ganctl.serving.client.client import Client
from ganctl.serving.errors import RemoteError
from ganctl.serving.handler.service import Service
from ganctl.training.sampling.rejection import LabelPredictor, sample_accepted
from ganctl.training.sampling.request import SampleRequest
from ganctl.training.sampling.samplers import LocalSampler, ServerSampler, sample_images
from tests.unit.serving.small_export import seen_label, write_export

# names as of a folder's classes: some look like numbers, none is its own
DARK = 25.6  # mean grey level; about a tenth of the images are darker
NAMES = ["10", "2", "leaf", "1", "sun", "a", "b", "c", "d", "e"]


def client_of(service: Service) -> Client:
    def answer(request: httpx.Request) -> httpx.Response:
        (reply,) = service.answer([({"body": request.content}, dict(request.headers))])
        return httpx.Response(reply.status, content=reply.body, headers={"Content-Type": reply.media})

    return Client("http://127.0.0.1:8080", transport=httpx.MockTransport(answer))


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export whose classes have other names than their numbers."""
    folder = write_export(tmp_path_factory.mktemp("named") / "export")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["class_names"] = NAMES
    manifest["files"]["generator.onnx"]["format"] = "onnx"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def drawer_of(folder: Path) -> LocalSampler:
    source = open_export(folder).source
    assert source is not None
    return LocalSampler(source)


@pytest.mark.parametrize(
    "order",
    [
        SampleRequest(labels=("sun", "leaf"), count=300, seed=4),
        SampleRequest(labels=("2", "10"), seed=4),
        SampleRequest(labels=("1", "leaf", "sun") * 100, seed=4),
        SampleRequest(per_class=2, seed=4),
        SampleRequest(per_class=30, seed=4),
        SampleRequest(text="21", count=200, seed=4),
        SampleRequest(count=300, seed=4),
    ],
)
def test_a_server_draws_what_its_export_draws_for_the_same_order(named: Path, order: SampleRequest) -> None:
    service = Service.load(named, {"backend": "onnx", "model_file": "generator.onnx"})
    here = sample_images(order, drawer_of(named))
    with client_of(service) as client:
        there = sample_images(order, ServerSampler(client))
    assert here.labels is not None
    assert there.labels is not None
    assert there.labels.tolist() == here.labels.tolist()
    assert np.abs(there.images.astype(int) - here.images).max() <= 1


def test_a_class_that_the_server_does_not_know_is_told_with_those_it_knows(named: Path) -> None:
    service = Service.load(named, {"backend": "onnx", "model_file": "generator.onnx"})
    with client_of(service) as client, pytest.raises(RemoteError, match="must be one of 10, 2, leaf"):
        sample_images(SampleRequest(labels=("moon",)), ServerSampler(client))


class Strict(LabelPredictor):
    """Reads the label whose block is lit, and in dark images none."""

    def __init__(self) -> None:
        self.classes = 10

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        read = [seen_label(image[..., 0]) if image.mean() > DARK else -1 for image in images]
        return np.array(read, np.int64)


@pytest.mark.parametrize(
    "order",
    [SampleRequest(labels=("1", "leaf", "sun"), count=300, seed=4), SampleRequest(text="21", count=200, seed=4)],
)
def test_a_server_draws_verified_what_its_export_draws_verified(named: Path, order: SampleRequest) -> None:
    service = Service.load(named, {"backend": "onnx", "model_file": "generator.onnx"})
    with client_of(service) as client:
        there = sample_accepted(order, ServerSampler(client), Strict())
    here = sample_accepted(order, drawer_of(named), Strict())
    assert here.total_drawn is not None
    assert here.total_drawn > len(here.images)
    assert there.total_drawn == here.total_drawn
    assert np.abs(there.images.astype(int) - here.images).max() <= 1


def test_the_client_counts_the_classes_that_the_service_describes(load: Callable[..., Service]) -> None:
    with client_of(load()) as client:
        assert client.count_classes() == 10
    with client_of(load(conditional=False)) as client, pytest.raises(RemoteError, match="has no labels"):
        client.count_classes()


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, {"images": []}, "not from a ganctl server"),
        (400, {"errors": "none"}, "no reason given"),
        (401, {"message": "Token is absent"}, "token file"),
    ],
)
def test_classes_that_cannot_be_counted_are_no_guess(status: int, body: dict[str, object], told: str) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(status, json=body))
    with Client("http://127.0.0.1:8080", transport=transport) as client, pytest.raises(RemoteError, match=told):
        client.count_classes()


def test_images_come_as_arrays_and_as_pictures(service: Service) -> None:
    with client_of(service) as client:
        sample = client.sample(digits=[1, 2], seed=3)
        assert [np.asarray(picture).tolist() for picture in sample.pictures()] == sample.images.tolist()
        assert client.picture(digits=7, seed=1, frames=4, media="image/webp").startswith(b"RIFF")
