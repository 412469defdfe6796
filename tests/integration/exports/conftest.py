"""Fixtures of the tests of the page in a browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ganctl.exports.browser.onnxruntime_web import fetch_runtime
from tests.browser import Page, chromium, static_server
from tests.integration.exports.pages import PRETRAINED, write


@pytest.fixture(scope="module")
def runtime() -> dict[str, bytes]:
    return fetch_runtime()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("chromium")
    with chromium(folder / "profile") as page:
        page.download_to(folder)
        yield page


@pytest.fixture(scope="module")
def site(runtime: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the page of the generator of MNIST that ganctl contains."""
    return write(PRETRAINED, tmp_path_factory.mktemp("site") / "browser", runtime)


@pytest.fixture(scope="module")
def url(site: Path) -> Iterator[str]:
    with static_server(site) as url:
        yield url
