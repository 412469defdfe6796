"""A stock TorchServe serves an archive with its own worker, and returns the same bytes as `ganctl serve`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ganctl.benchmarks.serving.process import run_server
from ganctl.benchmarks.serving.torchserve import stock
from ganctl.serving.archive.mar import package
from tests import http
from tests.integration.serving.conftest import Running


@pytest.mark.parametrize("accept", ["image/png", "application/json", "image/gif", "application/openapi+json"])
def test_a_stock_torchserve_returns_the_same_bytes(stock_url: str, torchserve: Running, accept: str) -> None:
    for body in ({"seed": 7}, {"digits": [1, 2, 3], "seed": 8, "count": 30, "scale": 2}):
        stock_reply, ganctl_reply = (
            http.post(url, json=body, headers={"Accept": accept})
            for url in (stock_url, f"{torchserve.url}/predictions/digits")
        )
        assert stock_reply.status_code == ganctl_reply.status_code == 200
        assert stock_reply.content == ganctl_reply.content
        for name in ("content-type", "x-seed", "x-model-version", "etag", "vary"):
            assert stock_reply.headers.get(name) == ganctl_reply.headers.get(name), name


def test_a_stock_torchserve_returns_the_same_errors(stock_url: str, torchserve: Running) -> None:
    stock_reply, ganctl_reply = (
        http.post(url, json={"count": 0, "x": 1}) for url in (stock_url, f"{torchserve.url}/predictions/digits")
    )
    assert stock_reply.status_code == ganctl_reply.status_code == 400
    assert stock_reply.json() == ganctl_reply.json()


@pytest.fixture(scope="module")
def stock_url(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The prediction URL of a stock TorchServe."""
    mar = package(export, tmp_path_factory.mktemp("mar"))
    with run_server("stock", lambda folder: stock(mar, folder)) as server:
        yield server.url
