"""The page for browsers, served by a real TorchServe and run by a real Chromium."""

import html
import io
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ganctl.serving.archive.mar import package
from ganctl.serving.hosts.torchserve.server import Server
from tests import http
from tests.browser import CHROMIUM, in_chromium
from tests.integration.serving.conftest import Engine, Running, running
from tests.unit.serving.small_export import write_export
from tests.waiting import PATIENCE

SAFARI = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FIELDS = {"text": 31, "count": 2, "seed": 5, "scale": 3, "truncation": 0.5}
CREDIT = {"license": "CC BY 4.0", "attribution": "Ada <ada@example.org> & others"}
HOSTILE = ["</script><script>document.title = 'broken'</script>", "<img src=x onerror=\"document.title='broken'\">"]


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., str]:
    """browse(url, *flags) → the document as HTML after its scripts have ended. The console must stay empty."""

    def browse(url: str, *flags: str) -> str:
        assert CHROMIUM is not None
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
        command += ["--enable-logging=stderr", "--v=0", "--virtual-time-budget=5000", *(flags or ["--dump-dom"]), url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        assert console == [], "errors of scripts, or violations of the content security policy"
        return done.stdout

    return browse


@pytest.fixture(scope="module")
def transparent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a generator of RGBA images without labels, whose alpha is noise."""
    folder = tmp_path_factory.mktemp("rgba") / "export"
    export = write_export(folder, conditional=False, channels=4, class_names=[], **CREDIT)
    with Server(package(export), port=0, workers=1) as server:
        yield server


def element(document: str, name: str) -> str:
    """The text of the element with the id `name`."""
    (match,) = re.findall(rf'<(\w+)[^>]* id="{name}"[^>]*>(.*?)</\1>', document, re.DOTALL)
    return html.unescape(re.sub("<[^>]*>", "", match[1])).strip()


@pytest.mark.parametrize("path", ["/digits/predict", "/predictions/digits", "/models/digits/invoke"])
def test_a_browser_gets_the_page_and_curl_an_image(served: Running, path: str) -> None:
    page = http.get(served.url + path, headers=SAFARI)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'sha256-")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["vary"] == "Accept"
    known = http.get(served.url + path, headers=SAFARI | {"If-None-Match": page.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")
    assert http.get(served.url + path).headers["content-type"] == "image/png"


@pytest.mark.soak_on_torchserve
def test_a_server_with_no_page_gives_a_browser_an_image(engine: Engine, export: Path, tmp_path: Path) -> None:
    with running(export, tmp_path, "--no-page", "--workers", "1", engine=engine) as server:
        address = f"{server.url}/digits/predict"
        assert http.get(address, headers=SAFARI).headers["content-type"] == "image/png"
        assert http.get(address, headers={"Accept": "text/html"}).status_code == 406


@in_chromium
@pytest.mark.parametrize("path", ["/digits/predict", "/predictions/digits", "/models/digits/invoke"])
def test_the_page_generates_images_at_every_address(served: Running, browse: Callable[[str], str], path: str) -> None:
    document = browse(f"{served.url}{path}#{urlencode(FIELDS)}")
    assert element(document, "status").startswith("168 × 168 pixels")
    link = element(document, "link")
    picture = http.get(link)
    assert (picture.headers["content-type"], picture.headers["x-seed"]) == ("image/png", "5")
    assert picture.content == http.get(f"{served.url}/digits/predict?{urlencode(FIELDS)}").content
    assert element(document, "curl") == f"curl -o 31-5.png '{link}'"
    assert element(document, "download") == "Download 31-5.png"
    assert element(document, "error") == ""


@in_chromium
def test_the_page_generates_an_image_without_fields_and_an_animation_with_frames(
    served: Running, browse: Callable[[str], str]
) -> None:
    assert element(browse(f"{served.url}/digits/predict"), "status").startswith("448 × 448 pixels")
    animation = browse(f"{served.url}/digits/predict#text=2026&count=3&seed=5&scale=1&frames=12")
    assert element(animation, "status").startswith("112 × 28 pixels")
    assert "-H 'Accept: image/webp'" in element(animation, "curl")
    assert element(animation, "count-label") == "Keyframes"


@in_chromium
def test_the_page_shows_each_error_at_its_field(served: Running, browse: Callable[[str], str]) -> None:
    document = browse(f"{served.url}/digits/predict#text=12a&count=300&seed=5")
    assert re.search(r'\b0123456789\b.*"a"', element(document, "error-text"))
    assert re.search(r"\b1\b.*\b256\b", element(document, "error-count"))
    assert [element(document, f"error-{name}") for name in ("seed", "scale", "truncation")] == [""] * 3
    assert "marked fields" in element(document, "error")
    assert document.count('aria-invalid="true"') == 2


def contains(screenshot: NDArray[np.int16], picture: NDArray[np.int16]) -> bool:
    """Returns True if a screenshot shows a picture; rounded colors and the picture's edges do not matter."""
    inner = picture[8:-8, 8:-8]
    height, width = inner.shape[:2]
    rows, columns = screenshot.shape[0] - height + 1, screenshot.shape[1] - width + 1
    found = np.ones((rows, columns), bool)
    for y in range(0, height, max(1, height // 12)):
        for x in range(0, width, max(1, width // 12)):
            found &= (np.abs(screenshot[y : y + rows, x : x + columns] - inner[y, x]) <= 3).all(axis=-1)
    return any(
        np.abs(screenshot[y : y + height, x : x + width] - inner).max() <= 3 for y, x in np.argwhere(found).tolist()
    )


@in_chromium
@pytest.mark.parametrize("path", ["/digits/predict", pytest.param("/predictions/digits", marks=pytest.mark.soak)])
def test_a_transparent_picture_lies_on_a_checkerboard(
    transparent: Server, browse: Callable[..., str], tmp_path: Path, path: str
) -> None:
    fields = {"seed": 5, "count": 1, "scale": 8}
    flags = (f"--screenshot={tmp_path}/page.png", "--window-size=1100,1300", "--force-device-scale-factor=1")
    browse(f"{transparent.url}{path}#{urlencode(fields)}", *flags)
    with Image.open(tmp_path / "page.png") as file:
        screenshot = np.asarray(file.convert("RGB")).astype(np.int16)
    png = http.get(f"{transparent.url}/digits/predict?{urlencode(fields)}").content
    picture = np.asarray(Image.open(io.BytesIO(png))).astype(np.int16)
    assert picture.shape == (224, 224, 4)
    alpha = picture[..., 3:] / 255
    assert (alpha.min() < 0.4, alpha.max() > 0.6) == (True, True)
    rows, columns = np.mgrid[:224, :224] // 8
    board = np.where((rows + columns) % 2, 204, 255)[..., None]  # squares of 8 pixels
    assert contains(screenshot, np.rint(picture[..., :3] * alpha + board * (1 - alpha)).astype(np.int16))
    assert not contains(screenshot, np.rint(picture[..., :3] * alpha + 255 * (1 - alpha)).astype(np.int16))


@in_chromium
def test_the_page_of_an_unlabeled_model_draws_and_names_the_license_and_the_authors_of_its_images(
    transparent: Server, browse: Callable[..., str]
) -> None:
    document = browse(f"{transparent.url}/digits/predict#count=4&seed=5&scale=1")
    (footer,) = re.findall("<footer>(.*?)</footer>", document, re.DOTALL)
    text = html.unescape(re.sub("<[^>]*>", "", footer))
    assert CREDIT["license"] in text
    assert CREDIT["attribution"] in text
    assert "transparency" in text
    assert element(document, "status").startswith("56 × 56 pixels")
    assert element(document, "error") == ""


@in_chromium
def test_label_names_with_html_are_shown_as_text(tmp_path: Path, browse: Callable[[str], str]) -> None:
    export = write_export(tmp_path / "export")
    manifest = json.loads((export / "manifest.json").read_text())
    manifest["class_names"][:2] = HOSTILE
    (export / "manifest.json").write_text(json.dumps(manifest))
    with Server(package(export), port=0, workers=1) as server:
        document = browse(f"{server.url}/predictions/digits#digits=0,3&count=4&seed=5&scale=1")
    (title,) = re.findall(r"<title>(.*?)</title>", document)
    assert title != "broken", "no script of a name has run"
    assert element(document, "status").startswith("56 × 56 pixels")
    assert element(document, "link").endswith("/digits/predict?digits=0,3&seed=5&count=4&scale=1")
