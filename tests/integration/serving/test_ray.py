"""A real Ray serves the folder of `ganctl package --for ray`: replies, a killed replica, scaling, new versions."""

import importlib.util
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ganctl.serving.client.client import Client
from tests import http
from tests.integration.serving.conftest import Engine, Running
from tests.integration.serving.ray_cluster import Cluster, ray_cluster
from tests.integration.serving.repeated import repeated
from tests.unit.serving.small_export import write_export
from tests.waiting import PATIENCE, wait_for

pytestmark = [
    pytest.mark.soak,  # two minutes; Ray takes half a minute to start
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None,
        reason="the package ray is not installed: 'pip install ganctl[ray]' installs it",
    ),
]

CLIENTS = 8
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
REQUESTS = [
    ("POST", "/predictions/digits", JSON, b'{"digits": [7, 3], "seed": 3}'),
    ("POST", "/predictions/digits", JSON, b'{"text": "2026", "seed": 3, "scale": 2}'),
    ("POST", "/predictions/digits", JSON | {"Accept": "image/webp"}, b'{"digits": 1, "frames": 8, "seed": 3}'),
    ("POST", "/predictions/digits", JSON | {"Accept": "application/json"}, b'{"digits": 1, "seed": 3}'),
    ("POST", "/predictions/digits", JSON, b'{"count": 256, "scale": 4, "seed": 3}'),
    ("POST", "/predictions/digits", FORM, b"digits=7&seed=3"),
    ("POST", "/predictions/digits", FORM, b"digits=%zz"),
    ("POST", "/predictions/digits", JSON, b'{"digits": 11, "more": 1}'),
    ("POST", "/predictions/digits", JSON, b" " * 100_000),
    ("GET", "/digits/predict?digits=7&seed=3", {}, b""),
    ("GET", "/models/digits/invoke?digits=7&seed=3", {}, b""),
    ("GET", "/predictions/digits/VERSION?digits=7&seed=3", {}, b""),
    ("GET", "/predictions/digits/1?digits=7&seed=3", {}, b""),
    ("GET", "/predictions/digits", {"Accept": "application/openapi+json"}, b""),
    ("GET", "/predictions/digits", {"Accept": "text/html"}, b""),
    ("GET", "/predictions/digits", {"Accept": "text/csv"}, b""),
    ("HEAD", "/digits/predict?digits=7&seed=3", {}, b""),
    ("GET", "/ping", {}, b""),
]
COMPARED = ("content-type", "x-seed", "x-model-version", "etag", "vary", "cache-control")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ray_cluster(tmp_path_factory.mktemp("ray")) as cluster:
        yield cluster


def draw(url: str) -> Callable[[], Callable[[], None]]:
    """Starts a client that hides lost replicas; its requests have a seed, and must all get the same picture."""
    pictures = set[bytes]()

    def start() -> Callable[[], None]:
        client = Client(url, timeout=PATIENCE)

        def send() -> None:
            pictures.add(client.picture(digits=7, seed=5, count=8))
            assert len(pictures) == 1

        return send

    return start


def test_replies_are_those_of_the_native_host(
    cluster: Cluster, export: Path, server_of: Callable[[Engine], Running]
) -> None:
    native = server_of("native").url
    cluster.deploy(export, min_replicas=2, max_replicas=2)
    cluster.wait_until_running(2)
    version = http.get(f"{native}/predictions/digits").headers["X-Model-Version"]
    for method, path, headers, body in REQUESTS:
        path = path.replace("VERSION", version)
        expected, *found = [
            http.request(method, f"{url}{path}", headers=headers, content=body)
            for url in (native, cluster.url, cluster.url)
        ]
        for reply in found:
            assert (reply.status_code, reply.content) == (expected.status_code, expected.content), (method, path, body)
            for name in COMPARED:
                assert reply.headers.get(name) == expected.headers.get(name), (method, path, name)
    refused = http.request("PUT", f"{cluster.url}/predictions/digits")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD, POST")
    assert http.get(f"{cluster.url}/elsewhere").status_code == 404


def test_a_killed_replica_is_hidden_by_the_client_and_replaced(cluster: Cluster, export: Path) -> None:
    cluster.deploy(export, min_replicas=2, max_replicas=2)
    before = cluster.wait_until_running(2)
    with repeated(CLIENTS, draw(cluster.url)) as clients:
        clients.wait_for_more(1)
        for victim in before:  # the second one after the first is replaced: each has drawn the same picture
            os.kill(victim, signal.SIGKILL)
            clients.wait_for_more(3)  # a failed request would raise here
            cluster.wait_until_running(2, other_than=victim)
            clients.wait_for_more(3)
    assert not cluster.replicas() & before


def test_a_second_replica_starts_under_load(cluster: Cluster, export: Path) -> None:
    cluster.deploy(export, min_replicas=1, max_replicas=1, downscale_delay_s=1)
    (first,) = cluster.wait_until_running(1)
    cluster.deploy(export, min_replicas=1, max_replicas=2, target_ongoing_requests=2)
    assert cluster.wait_until_running(1) == {first}
    with repeated(CLIENTS, draw(cluster.url)) as clients:
        assert first in cluster.wait_until_running(2)
        clients.wait_for_more(3)


def test_a_new_version_is_deployed_without_a_failed_request(cluster: Cluster, export: Path, tmp_path: Path) -> None:
    replies = Counter[tuple[int, str | None]]()

    def start() -> Callable[[], None]:
        client = http.Client(base_url=cluster.url)

        def send() -> None:
            reply = client.post("/predictions/digits", json={"digits": 7})
            replies[reply.status_code, reply.headers.get("x-model-version")] += 1

        return send

    cluster.deploy(export, min_replicas=2, max_replicas=2)
    before = cluster.wait_until_running(2)
    (old,) = {http.get(f"{cluster.url}/predictions/digits").headers["X-Model-Version"]}
    new = write_export(tmp_path / "export", model_version="0123456789ab")
    with repeated(CLIENTS, start) as clients:
        clients.wait_for_more(3)
        cluster.deploy(new, min_replicas=2, max_replicas=2)
        wait_for(lambda: not cluster.replicas() & before, "the old replicas have ended")
        cluster.wait_until_running(2)
        clients.wait_for_more(3)
    assert replies.keys() == {(200, old), (200, "0123456789ab")}
