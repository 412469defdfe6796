"""Helpers of the tests of the page in a browser: open a page, read its pictures, draw those of `ganctl sample`."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ganctl.common.pixels import tile
from ganctl.exports import manifest
from ganctl.exports.browser.site import write_site
from ganctl.exports.runtime import open_export
from ganctl.training.sampling.local_sampler import LocalSampler
from ganctl.training.sampling.request import SampleRequest
from ganctl.training.sampling.samplers import sample_images
from tests.browser import Page
from tests.waiting import wait_for

with_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="no npm on the PATH; Debian: apt-get install npm")
PRETRAINED = Path(__file__).parents[3] / "exports/pretrained"
Pixels = NDArray[np.uint8]


def write(export: Path, folder: Path, runtime: dict[str, bytes]) -> Path:
    write_site(folder, manifest.read(export), export / "generator.onnx", runtime)
    return folder


def open_drawn(page: Page, url: str) -> None:
    """Opens a page, and waits for its pictures. The console must stay empty."""
    page.console.clear()
    page.requests.clear()
    page.open(url)
    page.wait("document.getElementById('status')?.textContent.includes('pictures/s')")
    assert page.console == [], "errors of scripts, or violations of the content security policy"


def text(page: Page, name: str) -> str:
    """The text of the element with the id `name`."""
    found: str = page.evaluate(f"document.getElementById('{name}').textContent")
    return found


def shown(page: Page) -> str:
    """The pixels of the canvas as a text that can be compared."""
    pixels: str = page.evaluate("document.getElementById('canvas').toDataURL()")
    return pixels


def downloaded(page: Page, folder: Path, seed: int) -> Pixels:
    """The pixels of the file that the button for the download writes."""
    page.download_to(folder)
    page.click("#download")
    file = folder / f"pictures-{seed}.png"
    # Chromium keeps the name with an empty file until the download has ended
    wait_for(lambda: file.is_file() and file.stat().st_size, "the download ends")
    with Image.open(file) as image:
        return np.asarray(image)


def grey_levels(found: Pixels, expected: Pixels) -> int:
    """The largest difference of two pictures of the same shape."""
    assert found.shape == expected.shape
    return int(np.abs(found.astype(int) - expected.astype(int)).max())


def sampled(export: Path, columns: int, **request: Any) -> Pixels:
    """The picture of `ganctl sample EXPORT` in a grid of so many columns."""
    source = open_export(export).source
    assert source is not None
    picture = tile(sample_images(SampleRequest(**request), LocalSampler(source)).images, columns)
    return picture[..., 0] if picture.shape[-1] == 1 else picture
