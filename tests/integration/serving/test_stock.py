"""A stock TorchServe serves our archive with its own worker, and returns the same bytes as our server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ganctl.benchmarks.serving.process import run_server
from ganctl.benchmarks.serving.torchserve import stock
from ganctl.serving.archive.mar import package
from tests import http
from tests.integration.serving.conftest import Running


@pytest.mark.parametrize("accept", ["image/png", "application/json", "image/gif", "application/openapi+json"])
def test_a_stock_torchserve_gives_the_same_bytes(stock_url: str, served: Running, accept: str) -> None:
    for body in ({"seed": 7}, {"digits": [1, 2, 3], "seed": 8, "count": 30, "scale": 2}):
        theirs, ours = (
            http.post(url, json=body, headers={"Accept": accept})
            for url in (stock_url, f"{served.url}/predictions/digits")
        )
        assert theirs.status_code == ours.status_code == 200
        assert theirs.content == ours.content
        for name in ("content-type", "x-seed", "x-model-version", "etag", "vary"):
            assert theirs.headers.get(name) == ours.headers.get(name), name


def test_a_stock_torchserve_tells_the_same_faults(stock_url: str, served: Running) -> None:
    theirs, ours = (
        http.post(url, json={"count": 0, "x": 1}) for url in (stock_url, f"{served.url}/predictions/digits")
    )
    assert theirs.status_code == ours.status_code == 400
    assert theirs.json() == ours.json()


@pytest.fixture(scope="module")
def stock_url(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    mar = package(export, tmp_path_factory.mktemp("mar"))
    with run_server("stock", lambda folder: stock(mar, folder)) as server:
        yield server.url
