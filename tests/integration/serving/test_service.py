"""HTTP requests to a real server: fields, media types, errors, tokens, and the Python client."""

import functools
import io
import json
import random
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from ganctl.serving.client.client import Client
from ganctl.serving.errors import RemoteError
from ganctl.serving.hosts.torchserve.server import Server
from tests import http
from tests.integration.serving.conftest import PROJECT, Running
from tests.integration.serving.doors import metrics
from tests.unit.serving.small_export import seen_label


def post(running: Running, body: Any = None, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    headers = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return http.post(f"{running.url}/predictions/digits", content=content, headers=headers)


def pixels(reply: httpx.Response) -> NDArray[np.uint8]:
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/png"), reply.text
    with Image.open(io.BytesIO(reply.content)) as image:
        return np.asarray(image)


def test_a_query_in_a_browser_returns_an_image(served: Running) -> None:
    accept = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    reply = http.get(f"{served.url}/digits/predict?digits=7&seed=3&scale=2", headers=accept)
    assert pixels(reply).shape == (56, 56)
    assert seen_label(pixels(reply)[::2, ::2]) == 7
    assert reply.headers["x-seed"] == "3"
    assert len(reply.headers["x-model-version"]) == 12


def test_queries_forms_and_json_return_the_same_image(served: Running) -> None:
    fields = {"digits": "2", "seed": "5"}
    replies = [
        post(served, {"digits": 2, "seed": 5}),
        http.get(f"{served.url}/digits/predict", params=fields),
        http.get(f"{served.url}/models/digits/invoke", params=fields),
        http.post(f"{served.url}/predictions/digits", data=fields),
        http.post(f"{served.url}/predictions/digits", files={name: (None, value) for name, value in fields.items()}),
        http.request("GET", f"{served.url}/predictions/digits", json={"digits": 2, "seed": 5}),
    ]
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.content for reply in replies}) == 1


def test_a_request_without_fields_returns_one_image_of_a_new_seed(served: Running) -> None:
    replies = [http.get(f"{served.url}/predictions/digits") for _ in range(2)]
    assert pixels(replies[0]).shape == (28, 28)
    assert replies[0].headers["x-seed"] != replies[1].headers["x-seed"]


@pytest.mark.parametrize(
    ("media", "start"),
    [
        ("image/png", b"\x89PNG"),
        ("image/webp", b"RIFF"),
        ("image/gif", b"GIF8"),
        ("application/json", b"{"),
        ("application/x-npz", b"PK"),
        ("application/openapi+json", b"{"),
    ],
)
def test_the_accept_header_selects_the_media_type(served: Running, media: str, start: bytes) -> None:
    reply = post(served, {"digits": 7, "seed": 3, "count": 4}, Accept=f"{media}, */*;q=0.1")
    assert (reply.status_code, reply.headers["content-type"]) == (200, media)
    assert reply.headers["vary"] == "Accept"
    assert reply.content.startswith(start)


def test_a_query_with_frames_returns_an_animation(served: Running) -> None:
    reply = http.get(f"{served.url}/digits/predict?text=2026&frames=12&seed=3")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/gif")
    with Image.open(io.BytesIO(reply.content)) as animation:
        assert animation.size == (4 * 28, 28)
        assert len(list(ImageSequence.Iterator(animation))) == 12


def test_a_known_etag_gets_304_and_keeps_the_connection(served: Running) -> None:
    with http.Client(base_url=served.url) as client:
        address = "/digits/predict?digits=7&seed=3"
        tag = client.get(address).headers["etag"]
        known = client.get(address, headers={"If-None-Match": tag})
        assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", tag)
        assert client.get(address, headers={"If-None-Match": '"other"'}).status_code == 200
        assert "etag" not in client.get("/digits/predict?digits=7").headers


def test_text_count_and_layout_determine_the_size_of_the_image(served: Running) -> None:
    picture = pixels(post(served, {"text": "2026", "count": 3, "seed": 1}))
    assert picture.shape == (3 * 28, 4 * 28)
    assert [seen_label(picture[28:56, 28 * i : 28 * i + 28]) for i in range(4)] == [2, 0, 2, 6]
    assert pixels(post(served, {"count": 5, "layout": "strip"})).shape == (28, 5 * 28)
    assert pixels(post(served, {"count": 256})).shape == (16 * 28, 16 * 28)


def test_the_client_returns_arrays_and_files(served: Running) -> None:
    with Client(served.url) as client:
        images, labels, seed = client.sample(digits=[1, 2], count=4, seed=9)
        assert images.shape == (4, 28, 28)
        assert images.dtype == np.uint8
        assert seed == 9
        assert labels.tolist() == [1, 2, 1, 2] == [seen_label(image) for image in images]
        assert client.sample(text="31").labels.tolist() == [3, 1]
        assert client.count_classes() == 10
        assert client.sample(labels="4", count=np.int64(2)).labels.tolist() == [4, 4]  # type: ignore[arg-type]
        picture = client.picture(digits=[1, 2], count=4, seed=9)
        with Image.open(io.BytesIO(picture)) as image:
            assert np.array_equal(np.asarray(image)[:28, :28], images[0])
    with Client(f"{served.url}/predictions/digits/") as client:
        assert client.sample(seed=1).images.shape == (1, 28, 28)


def test_the_python_code_of_the_service_page_runs(served: Running) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (PROJECT / "docs/service.md").read_text("utf-8"), re.DOTALL)
    variables: dict[str, Any] = {}
    exec(code.replace("http://127.0.0.1:8080", served.url), variables)
    assert variables["sample"].images.shape == (100, 28, 28)
    assert variables["film"].startswith(b"RIFF")


def test_the_client_raises_the_errors_of_all_fields(served: Running) -> None:
    with Client(served.url) as client, pytest.raises(RemoteError, match=r"seed: .*digits: |digits: .*seed: ") as caught:
        client.sample(seed=-1, digits=11)
    assert caught.value.status == 400
    assert {error["field"] for error in caught.value.problem["errors"]} == {"seed", "digits"}
    with Client(served.url + "/predictions/letters") as client, pytest.raises(RemoteError, match="404"):
        client.sample()
    with Client(str(served.record["metrics_url"])) as client, pytest.raises(RemoteError):
        client.sample()


def test_the_same_request_has_the_same_bytes_alone_and_under_load(served: Running, token_server: Server) -> None:
    bodies: list[dict[str, Any]] = [{"digits": i % 10, "seed": i, "count": 1 + i % 7} for i in range(30)]
    headers = token_server.authorization("inference")
    for server in (served.url, token_server.url):
        with http.Client(base_url=server, headers=headers) as client:
            alone = [client.post("/predictions/digits", json=body) for body in bodies]
            assert {reply.status_code for reply in alone} == {200}
            noise: list[dict[str, Any]] = [{"count": random.randint(1, 40)} for _ in range(90)]
            order = random.sample([*enumerate(bodies * 2), *enumerate(noise, 1000)], 150)
            post_json = functools.partial(client.post, "/predictions/digits")
            with ThreadPoolExecutor(24) as threads:
                replies = [future.result() for future in [threads.submit(post_json, json=body) for _, body in order]]
        for (index, _), reply in zip(order, replies, strict=True):
            assert reply.status_code == 200
            if index < 1000:
                assert reply.content == alone[index % 30].content


def test_images_of_onnx_and_torchscript_differ_by_at_most_one_gray_level(served: Running, token_server: Server) -> None:
    token = token_server.authorization("inference")["Authorization"].split()[1]
    with Client(served.url) as one, Client(token_server.url, token=token) as other:
        fields: dict[str, Any] = {"seed": 77, "count": 100}
        first, second = one.sample(**fields), other.sample(**fields)
    assert first.labels.tolist() == second.labels.tolist()
    assert np.abs(first.images.astype(int) - second.images.astype(int)).max() <= 1


INVALID = [  # body, headers, status, field in the problem
    (b'{"digits": "7"}', {}, 400, "digits"),
    (b'{"digits": true}', {}, 400, "digits"),
    (b'{"count": 3.5}', {}, 400, "count"),
    (b'{"count": 257}', {}, 400, "count"),
    (b'{"seed": NaN}', {}, 400, "body"),
    (b'{"seed": 1, "seed": 2}', {}, 400, "seed"),
    (b'{"frames": 1}', {}, 400, "frames"),
    (b'{"frames": 256, "scale": 16}', {}, 413, "scale"),
    (b'{"frames": 8}', {"Accept": "image/png"}, 406, "Accept"),
    (b'{"text": "12a"}', {}, 400, "text"),
    (b"[1, 2]", {}, 400, "body"),
    (b"{", {}, 400, "body"),
    (b"\xff\xfe\x00", {}, 400, "body"),
    (b"[" * 20_000, {}, 400, "body"),
    (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, {}, 400, "body"),
    (b'{"text": "' + b"1" * 70_000 + b'"}', {}, 413, "body"),
    (b'{"count": 256, "scale": 16}', {}, 413, "scale"),
    (b"{}", {"Accept": "image/avif"}, 406, "Accept"),
    (b'{"seed": 3}', {"Accept": "text/html"}, 406, "Accept"),
    (b'{"digits": 7}', {"Content-Type": "application/x-www-form-urlencoded"}, 400, "body"),
    (b'{"text": "="}', {"Content-Type": "application/x-www-form-urlencoded"}, 400, '{"text": "'),
    (b'{"seed": -1}', {"describe": "True"}, 400, "seed"),
]


def test_invalid_requests_get_their_problem_and_concurrent_valid_ones_their_image(served: Running) -> None:
    valid = {"digits": 3, "seed": 3}
    expected = post(served, valid).content
    mixed = [case for case in INVALID for _ in range(3)] + [None] * 60
    random.shuffle(mixed)

    def send(case: tuple[bytes, dict[str, str], int, str] | None) -> httpx.Response:
        return post(served, valid) if case is None else post(served, case[0], **case[1])

    with ThreadPoolExecutor(24) as threads:
        replies = list(threads.map(send, mixed))
    for case, reply in zip(mixed, replies, strict=True):
        if case is None:
            assert (reply.status_code, reply.content) == (200, expected)
            continue
        body, _, status, field = case
        assert reply.status_code == status, (body[:40], reply.text[:300])
        assert reply.headers["content-type"] == "application/problem+json"
        problem = reply.json()
        assert problem["status"] == status
        assert field in {error["field"] for error in problem["errors"]}


@pytest.mark.parametrize(
    "headers",
    [
        {"describe": "True"},
        {"explain": "True"},
        {"Accept": "*/*;q=" + "9" * 200},
        {"Accept": "é".encode("latin-1")},
        {"url_path": "../../etc"},
        {"ts_request_sequence_id": "x"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/octet-stream"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "é".encode("latin-1")},
    ],
)
def test_unusual_headers_cause_no_5xx(served: Running, headers: dict[str, Any]) -> None:
    reply = http.post(f"{served.url}/predictions/digits", content=b'{"seed": 3}', headers=headers)
    assert reply.status_code in (200, 400, 406)


def test_the_requests_of_the_tests_above_restart_no_worker(served: Running) -> None:
    workers = http.get(f"{served.record['management_url']}/models/digits").json()[0]["workers"]
    assert [worker["status"] for worker in workers] == ["READY", "READY"]
    assert metrics(str(served.record["metrics_url"]))["ganctl_worker_starts_total", ()] == 2


def test_requests_write_nothing_to_the_logs(served: Running) -> None:
    logs = next(served.temporary.glob("ganctl-*/logs"))
    before = sum(path.stat().st_size for path in logs.iterdir())
    for seed in range(50):
        assert post(served, {"seed": seed}).status_code == 200
    assert sum(path.stat().st_size for path in logs.iterdir()) == before


def test_auth_token_requires_the_inference_key(token_server: Server) -> None:
    assert token_server.token_file is not None
    assert token_server.token_file.stat().st_mode & 0o077 == 0
    key = json.loads(token_server.token_file.read_text())["inference"]["key"]
    with Client(token_server.url) as client, pytest.raises(RemoteError, match=r"\(400\).*`inference`"):
        client.sample()
    with Client(token_server.url, token=key) as client:
        assert client.sample(digits=1).labels.tolist() == [1]


def test_a_client_reads_and_renews_an_expired_key(token_server: Server) -> None:
    file = token_server.token_file
    assert file is not None
    keys = json.loads(file.read_text())
    with Client(token_server.url, token_file=file, management_url=token_server.management_url) as client:
        assert client.sample(digits=1).labels.tolist() == [1]
        headers = {"Authorization": f"Bearer {keys['API']['key']}"}
        renewed = http.get(f"{token_server.management_url}/token", params={"type": "inference"}, headers=headers)
        assert renewed.status_code == 200
        assert client.sample(digits=2).labels.tolist() == [2]  # the client has read the renewed key
    keys["inference"]["key"] = "expired"
    file.write_text(json.dumps(keys))
    with Client(token_server.url, token_file=file, management_url=token_server.management_url) as client:
        assert client.sample(digits=3).labels.tolist() == [3]  # the client has renewed the key
    assert json.loads(file.read_text())["inference"]["key"] != "expired"
