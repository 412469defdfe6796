"""The controls, messages and limits of the page of `ganctl export --format browser`, in Chromium."""

import json
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Page, chromium, in_chromium, static_server
from tests.integration.exports.pages import (
    open_drawn,
    shown,
    text,
    with_npm,
    write,
)
from tests.unit.serving.small_export import write_export

pytestmark = [in_chromium, with_npm]
HOSTILE = ["<img src=x onerror=\"document.title='broken'\">", "</script><script>document.title = 'broken'</script>"]


def test_the_walk_plays_until_it_is_paused(page: Page, url: str) -> None:
    open_drawn(page, f"{url}/#seed=5&count=4")
    first = shown(page)
    page.click("#play")
    page.wait("Number(document.getElementById('walk').value) > 0.5")
    page.click("#play")
    assert text(page, "play") == "Play"
    position = page.evaluate("document.getElementById('walk').value")
    assert shown(page) != first
    page.wait("new Promise((resolve) => setTimeout(resolve, 200, true))")
    assert page.evaluate("document.getElementById('walk').value") == position
    assert f"walk={position}" in page.evaluate("location.hash")


def test_the_latent_pad_follows_the_pointer_and_the_keys(page: Page, url: str) -> None:
    open_drawn(page, f"{url}/#seed=5&count=4")
    first = shown(page)
    x, y, side = page.evaluate(
        """(() => { const pad = document.getElementById('pad'); pad.scrollIntoView({block: 'center'});
            const box = pad.getBoundingClientRect(); return [box.x, box.y, box.width]; })()"""
    )
    page.drag((x + side / 2, y + side / 2), (x + 0.75 * side, y + side / 4))
    page.wait("location.hash.includes('pad=')")
    assert text(page, "pad-value") == "1.00, 1.00"
    page.wait(f"document.getElementById('canvas').toDataURL() !== {json.dumps(first)}")
    page.evaluate("document.getElementById('pad').focus()")
    page.press("ArrowLeft")
    page.press("ArrowDown")
    assert text(page, "pad-value") == "0.90, 0.90"
    assert page.evaluate("document.getElementById('pad').getAttribute('aria-valuetext')") == "0.90 across, 0.90 up"
    page.press("Home")
    page.wait(f"document.getElementById('canvas').toDataURL() === {json.dumps(first)}")


def test_another_bookmark_in_the_same_tab_shows_its_pictures(page: Page, url: str) -> None:
    open_drawn(page, f"{url}/#seed=7&count=1")
    first = shown(page)
    assert "1 picture ·" in text(page, "status")
    page.evaluate("location.hash = '#seed=99&count=4'")
    page.wait("document.getElementById('canvas').ariaLabel.includes('seed 99')")
    assert page.evaluate("document.getElementById('count').value") == "4"
    page.evaluate("history.back()")
    page.wait(f"document.getElementById('canvas').toDataURL() === {json.dumps(first)}")


def test_the_page_names_the_authors_of_a_known_data_set(page: Page, url: str) -> None:
    open_drawn(page, f"{url}/#seed=5")
    assert "MNIST, by Yann LeCun" in text(page, "footer")
    assert "CC-BY-SA-3.0" in text(page, "footer")


def test_the_page_asks_its_own_server_only(page: Page, url: str) -> None:
    open_drawn(page, f"{url}/#seed=5")
    assert len(page.requests) > 5
    assert [address for address in page.requests if not address.startswith((f"{url}/", "data:", "about:"))] == []
    with static_server(Path(__file__).parent) as other:
        assert page.evaluate(f"fetch('{other}/').then(() => 'allowed', () => 'refused')") == "refused"
    assert any("Content Security Policy" in message for message in page.console)


def test_every_control_has_a_name_for_screen_readers(page: Page, url: str) -> None:
    open_drawn(page, f"{url}/#seed=5")
    nodes = page.command("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "checkbox", "slider", "spinbutton", "image"}
    controls = [node for node in nodes if node.get("role", {}).get("value") in roles]
    assert len(controls) > 20
    assert [node for node in controls if not node["name"]["value"]] == []
    assert "16 pictures of" in page.evaluate("document.getElementById('canvas').ariaLabel")


@pytest.fixture(scope="module")
def odd_url(runtime: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the page of a generator with class names of HTML, and a long one."""
    folder = tmp_path_factory.mktemp("odd")
    odd = write_export(folder / "export", class_names=[*HOSTILE, "a-class-of-pictures-" + "x" * 60, *"cdefghi"])
    with static_server(write(odd, folder / "browser", runtime)) as url:
        yield url


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_the_screen(page: Page, odd_url: str, width: int) -> None:
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width == 390}
    page.command("Emulation.setDeviceMetricsOverride", **metrics)
    try:
        open_drawn(page, f"{odd_url}/#seed=5&scale=16")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    finally:
        page.command("Emulation.clearDeviceMetricsOverride")


def test_class_names_with_html_are_shown_as_text(page: Page, odd_url: str) -> None:
    open_drawn(page, f"{odd_url}/#seed=5&digits=0,1")
    assert page.evaluate("document.title") == "Pictures from a neural network"
    assert text(page, "chips").startswith("".join(HOSTILE))


def test_an_invalid_field_shows_its_range_and_keeps_the_pictures(page: Page, url: str) -> None:
    open_drawn(page, f"{url}/#seed=5&count=4")
    before = shown(page)
    page.evaluate("document.getElementById('count').value = 300")
    page.evaluate("document.getElementById('count').dispatchEvent(new Event('input', {bubbles: true}))")
    assert text(page, "error-count") == "Expected a whole number from 1 to 256."
    assert page.evaluate("document.getElementById('count').getAttribute('aria-invalid')") == "true"
    assert shown(page) == before


def test_servers_that_declare_the_compression_work_too(page: Page, site: Path) -> None:
    with static_server(site, {".gz": {"Content-Encoding": "gzip"}}) as url:
        open_drawn(page, f"{url}/#seed=5")


def test_a_missing_model_is_named(page: Page, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "site")
    (tmp_path / "site/generator.onnx.gz").unlink()
    with static_server(tmp_path / "site") as url:
        page.open(f"{url}/")
        page.wait("document.getElementById('notice').textContent.includes('generator.onnx.gz')")
        assert "404" in text(page, "notice")


@pytest.mark.parametrize(
    ("flag", "missing"),
    [
        pytest.param(
            "--no-enable-sse4-1", "WebAssembly with SIMD",
            marks=pytest.mark.skipif(platform.machine() != "x86_64", reason="SIMD can be taken away on x86 only"),
        ),
        ("--jitless", "WebAssembly"),
    ],
)  # fmt: skip
def test_a_browser_without_webassembly_or_its_simd_gets_a_message(
    url: str, tmp_path: Path, flag: str, missing: str
) -> None:
    with chromium(tmp_path / "profile", f"--js-flags={flag}") as page:
        page.open(f"{url}/")
        page.wait("document.getElementById('notice').textContent.includes('lacks')")
        assert text(page, "notice").startswith(f"This browser lacks {missing}. Use Chrome")
        assert page.evaluate("document.getElementById('form').hidden")
        assert page.console == []
