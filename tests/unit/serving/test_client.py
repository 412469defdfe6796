"""The client and the sampler of `ganctl sample URL`, with a real service but without TorchServe."""

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
from ganctl.training.sampling.local_sampler import LocalSampler
from ganctl.training.sampling.rejection import LabelPredictor, sample_accepted
from ganctl.training.sampling.request import SampleRequest
from ganctl.training.sampling.samplers import sample_images
from ganctl.training.sampling.server_sampler import ServerSampler
from tests.unit.serving.service_calls import load_service, reply_to
from tests.unit.serving.small_export import seen_label, write_export

URL = "http://127.0.0.1:8080"
PREDICT = f"{URL}/predictions/digits"
DARK = 25.6  # mean gray level; about a tenth of the images are darker
NAMES = ["10", "2", "leaf", "1", "sun", "a", "b", "c", "d", "e"]  # some are numbers, but not of their own class


def client_of(service: Service) -> Client:
    def answer(request: httpx.Request) -> httpx.Response:
        reply = reply_to(service, ({"body": request.content}, dict(request.headers)))
        return httpx.Response(reply.status, content=reply.body, headers={"Content-Type": reply.media})

    return Client(URL, transport=httpx.MockTransport(answer))


@pytest.fixture(scope="module")
def named_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export whose class names are not the class numbers."""
    folder = write_export(tmp_path_factory.mktemp("named") / "export")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["class_names"] = NAMES
    manifest["files"]["generator.onnx"]["format"] = "onnx"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def named_service(named_export: Path) -> Service:
    return load_service(named_export)


def local_sampler(folder: Path) -> LocalSampler:
    source = open_export(folder).source
    assert source is not None
    return LocalSampler(source)


@pytest.mark.parametrize(
    "sample_request",
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
def test_a_server_generates_the_same_images_as_its_export(
    named_export: Path, named_service: Service, sample_request: SampleRequest
) -> None:
    local = sample_images(sample_request, local_sampler(named_export))
    with client_of(named_service) as client:
        remote = sample_images(sample_request, ServerSampler(client))
    assert local.labels is not None
    assert remote.labels is not None
    assert remote.labels.tolist() == local.labels.tolist()
    assert np.abs(remote.images.astype(int) - local.images).max() <= 1


def test_a_class_that_the_server_does_not_have_is_an_error_with_its_classes(named_service: Service) -> None:
    with client_of(named_service) as client, pytest.raises(RemoteError, match=r"labels.*10, 2, leaf.*moon"):
        sample_images(SampleRequest(labels=("moon",)), ServerSampler(client))


class BrightOnly(LabelPredictor):
    """Predicts the label of the brightest block, and -1 for dark images, so that they are rejected."""

    def __init__(self) -> None:
        self.classes = 10

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        predicted = [seen_label(image[..., 0]) if image.mean() > DARK else -1 for image in images]
        return np.array(predicted, np.int64)


@pytest.mark.parametrize(
    "sample_request",
    [SampleRequest(labels=("1", "leaf", "sun"), count=300, seed=4), SampleRequest(text="21", count=200, seed=4)],
)
def test_rejection_sampling_from_a_server_accepts_the_same_images_as_from_its_export(
    named_export: Path, named_service: Service, sample_request: SampleRequest
) -> None:
    with client_of(named_service) as client:
        remote = sample_accepted(sample_request, ServerSampler(client), BrightOnly())
    local = sample_accepted(sample_request, local_sampler(named_export), BrightOnly())
    assert local.total_drawn is not None
    assert local.total_drawn > len(local.images)
    assert remote.total_drawn == local.total_drawn
    assert np.abs(remote.images.astype(int) - local.images).max() <= 1


def test_the_client_reads_the_number_of_classes_from_the_description(load: Callable[..., Service]) -> None:
    with client_of(load()) as client:
        assert client.count_classes() == 10
    with client_of(load(conditional=False)) as client, pytest.raises(RemoteError, match=rf"{PREDICT}: .*\bno labels\b"):
        client.count_classes()


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, {"images": []}, "ganctl server.*KeyError"),
        (400, {"errors": "none"}, "400"),
        (401, {"message": "Token is absent"}, "401.*Token is absent.*`inference`.*token file"),
    ],
)
def test_a_reply_without_a_description_is_an_error_with_the_url_and_the_status(
    status: int, body: dict[str, object], expected: str
) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(status, json=body))
    with (
        Client(URL, transport=transport) as client,
        pytest.raises(RemoteError, match=f"{PREDICT}: .*{expected}") as caught,
    ):
        client.count_classes()
    assert caught.value.status == status


def test_the_client_returns_arrays_pillow_images_and_encoded_animations(service: Service) -> None:
    with client_of(service) as client:
        sample = client.sample(digits=[1, 2], seed=3)
        assert [np.asarray(picture).tolist() for picture in sample.pictures()] == sample.images.tolist()
        assert client.picture(digits=7, seed=1, frames=4, media="image/webp").startswith(b"RIFF")


def test_a_value_that_json_cannot_hold_is_a_type_error_with_the_field(service: Service) -> None:
    with client_of(service) as client, pytest.raises(TypeError, match=r"digits: found \{7\}"):
        client.picture(digits={7}, seed=1)
