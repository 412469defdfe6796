"""The native host speaks the Open Inference Protocol: driven by Triton's client, and by plain JSON."""

import importlib
import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests import http
from tests.integration.serving.conftest import Engine, Running

triton: Any = importlib.import_module("tritonclient.http")  # has no type hints


@pytest.fixture(scope="module")
def native(server_of: Callable[[Engine], Running]) -> Running:
    return server_of("native")


@pytest.fixture(scope="module")
def client(native: Running) -> Any:
    return triton.InferenceServerClient(native.url.removeprefix("http://"))


def tensor(name: str, values: Any, datatype: str) -> Any:
    array = np.array(values, {"INT64": np.int64, "FP32": np.float32}[datatype])
    given = triton.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array)
    return given


def arrays(native: Running, **fields: Any) -> NDArray[np.uint8]:
    """The images that the service draws for these fields, uint8 [N, H, W]."""
    reply = http.post(f"{native.url}/predictions/digits", json=fields, headers={"Accept": "application/x-npz"})
    with np.load(io.BytesIO(reply.content)) as found:
        images: NDArray[np.uint8] = found["images"]
    return images


def test_tritons_client_finds_the_server_and_the_model_ready_and_described(native: Running, client: Any) -> None:
    version = http.get(f"{native.url}/predictions/digits").headers["x-model-version"]
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", version)
    assert not client.is_model_ready("letters")
    assert client.get_server_metadata()["name"] == "ganctl"
    model = client.get_model_metadata("digits")
    assert model["versions"] == [version]
    assert {each["name"] for each in model["inputs"]} == {"label", "count", "seed", "truncation", "z"}
    assert model["outputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 1, 28, 28]}]


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_gets_the_images_of_labels_and_a_seed(native: Running, client: Any, binary: bool) -> None:
    inputs = [tensor("label", [3, 1, 4], "INT64"), tensor("seed", [7], "INT64"), tensor("truncation", [0.5], "FP32")]
    wanted = [triton.InferRequestedOutput("image", binary_data=binary)]
    result = client.infer("digits", inputs, outputs=wanted, request_id="mine")
    images = result.as_numpy("image")
    assert (images.shape, images.dtype) == ((3, 1, 28, 28), np.uint8)
    assert np.array_equal(images[:, 0], arrays(native, digits=[3, 1, 4], seed=7, truncation=0.5))
    assert result.get_response()["id"] == "mine"


def test_tritons_client_gets_the_images_of_latents(client: Any) -> None:
    z = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)
    labels = np.arange(40) % 10
    both = client.infer("digits", [tensor("z", z, "FP32"), tensor("label", labels, "INT64")]).as_numpy("image")
    one = client.infer("digits", [tensor("z", z[5:6], "FP32"), tensor("label", labels[5:6], "INT64")])
    assert both.shape == (40, 1, 28, 28)
    assert np.array_equal(one.as_numpy("image")[0], both[5]), "an image does not depend on the others"


def infer(native: Running, body: object, path: str = "digits") -> httpx.Response:
    return http.post(f"{native.url}/v2/models/{path}/infer", content=json.dumps(body).encode())


def test_plain_json_gets_plain_json(native: Running) -> None:
    label = {"name": "digits", "datatype": "INT64", "shape": [2], "data": [7, 2]}
    seed = {"name": "seed", "datatype": "INT64", "shape": [1], "data": [3]}
    reply = infer(native, {"id": "a", "inputs": [label, seed]})
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    record = reply.json()
    assert (record["id"], record["model_name"]) == ("a", "digits")
    assert record["model_version"] == reply.headers["x-model-version"]
    (output,) = record["outputs"]
    images = np.array(output["data"], np.uint8).reshape(output["shape"])
    assert np.array_equal(images[:, 0], arrays(native, digits=[7, 2], seed=3))


SEED = {"name": "seed", "datatype": "INT64", "shape": [1], "data": [3]}
Z = {"name": "z", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}
LABEL = {"name": "label", "datatype": "INT64", "shape": [1], "data": [3]}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 400, "inputs"),
        ([], 400, "the request"),
        ({"inputs": [SEED | {"data": [-1]}]}, 400, "seed"),
        ({"inputs": [SEED | {"shape": [2]}]}, 400, "shape"),
        ({"inputs": [SEED | {"shape": [-1]}]}, 400, "shape"),
        ({"inputs": [SEED | {"shape": [float("inf")]}]}, 400, "infinity"),
        ({"inputs": [SEED | {"datatype": "UINT8", "data": [300]}]}, 400, "300"),
        ({"inputs": [SEED | {"data": [10**30]}]}, 400, "large"),
        ({"inputs": [SEED | {"datatype": "BYTES"}]}, 400, "BYTES"),
        ({"inputs": [SEED | {"name": "other"}]}, 400, "'other'"),
        ({"inputs": [SEED, SEED]}, 400, "once"),
        ({"inputs": [SEED], "outputs": [{"name": "other"}]}, 400, "image"),
        ({"inputs": [LABEL | {"data": [10]}]}, 400, "digits"),
        ({"inputs": [Z]}, 400, "label"),
        ({"inputs": [Z, LABEL, SEED]}, 400, "seed"),
        ({"inputs": [Z | {"shape": [16], "data": [0.5] * 16}, LABEL]}, 400, "z: "),
        ({"inputs": [Z | {"data": [float("nan")] * 16}, LABEL]}, 400, "z: "),
        ({"inputs": [{"name": "count", "datatype": "INT64", "shape": [1], "data": [257]}]}, 400, "count"),
        ({"inputs": [SEED | {"data": None, "parameters": {"binary_data_size": 8}}]}, 400, "bytes"),
    ],
)
def test_a_faulty_request_gets_the_protocols_error(native: Running, body: object, status: int, message: str) -> None:
    reply = infer(native, body)
    assert reply.status_code == status, reply.text
    assert message in reply.json()["error"]


def test_unknown_paths_versions_and_methods_get_the_protocols_error(native: Running) -> None:
    base = f"{native.url}/v2"
    for path in ("/models/letters", "/models", "/nothing", "/models/digits/nothing", "/models/digits/versions/1"):
        reply = http.get(base + path)
        assert reply.status_code == 404
        assert reply.json()["error"]
    assert http.get(f"{base}/models/digits/infer").status_code == 405
    assert infer(native, {"inputs": [SEED]}, "letters").status_code == 404
    long = http.post(f"{base}/models/digits/infer", content=bytes(1 << 21))
    assert long.status_code == 413
