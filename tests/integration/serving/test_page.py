"""The page for browsers, served by a real TorchServe and run by a real Chromium."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest

from ganctl.serving.archive.mar import package
from ganctl.serving.hosts.torchserve.server import Server
from tests import http
from tests.integration.serving.conftest import Running, running
from tests.unit.serving.small_export import write_export
from tests.waiting import PATIENCE

SAFARI = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH; Debian: apt-get install chromium")
FIELDS = {"text": 31, "count": 2, "seed": 5, "scale": 3, "truncation": 0.5}
HOSTILE = ["</script><script>document.title = 'broken'</script>", "<img src=x onerror=\"document.title='broken'\">"]


@pytest.fixture
def browse(tmp_path: Path) -> Callable[[str], str]:
    """browse(url) → the document as HTML after its scripts have ended. The console must stay empty."""

    def browse(url: str) -> str:
        assert CHROMIUM is not None
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
        command += ["--enable-logging=stderr", "--v=0", "--virtual-time-budget=5000", "--dump-dom", url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        assert console == [], "errors of scripts, or violations of the content security policy"
        return done.stdout

    return browse


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


def test_a_server_with_no_page_gives_a_browser_an_image(export: Path, tmp_path: Path) -> None:
    with running(export, tmp_path, "--no-page", "--workers", "1") as server:
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
