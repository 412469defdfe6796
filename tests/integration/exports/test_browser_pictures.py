"""The page of `ganctl export --format browser` draws in Chromium what `ganctl sample` draws."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from ganctl.common.interpolation import slerp
from ganctl.common.latents import MAX_SEED, draw_labels, latents
from ganctl.common.pixels import tile
from ganctl.exports import manifest
from ganctl.exports.browser.onnxruntime_web import VERSION, fetch_runtime
from ganctl.exports.errors import ExportError
from ganctl.exports.export import export
from ganctl.exports.runtime import open_export
from ganctl.training.config.cache_dir import cache_path, write_cached
from tests.browser import Page, in_chromium, static_server
from tests.conftest import Ganctl
from tests.integration.exports.pages import (
    PRETRAINED,
    downloaded,
    grey_levels,
    open_drawn,
    sampled,
    text,
    with_npm,
    write,
)
from tests.unit.serving.small_export import write_export

pytestmark = [in_chromium, with_npm]


def test_64_seeded_digits_are_those_of_ganctl_sample(page: Page, url: str, ganctl: Ganctl, tmp_path: Path) -> None:
    open_drawn(page, f"{url}/#seed=5&count=64&scale=1")
    picture = downloaded(page, tmp_path, seed=5)
    done = ganctl("sample", PRETRAINED, "--seed", 5, "--count", 64, "--out", "digits.npz")
    assert done.returncode == 0, done.stderr
    images = np.load(tmp_path / "digits.npz")["images"]
    assert grey_levels(picture, tile(images[..., None], 8)[..., 0]) <= 2


def test_chosen_labels_truncation_and_scale_are_those_of_ganctl_sample(page: Page, url: str, tmp_path: Path) -> None:
    open_drawn(page, f"{url}/#seed={MAX_SEED}&count=7&scale=3&digits=2,7&truncation=0.65")
    picture = downloaded(page, tmp_path, seed=MAX_SEED)
    expected = sampled(PRETRAINED, 2, labels=("2", "7"), count=7, seed=MAX_SEED, truncation=0.65)
    assert grey_levels(picture, expected.repeat(3, axis=0).repeat(3, axis=1)) <= 2


def test_the_page_draws_at_least_20_pictures_a_second(page: Page, url: str) -> None:
    open_drawn(page, f"{url}/#seed=5&count=64")
    for _ in range(2):  # the first pictures are drawn while the browser still compiles the runtime
        page.click("#new-seed")
        page.wait(
            "document.getElementById('canvas').ariaLabel.endsWith(`seed ${document.getElementById('seed').value}`)"
        )
    (rate,) = re.findall(r"(\d+) pictures/s", text(page, "status"))
    assert int(rate) >= 20


@pytest.mark.parametrize(("conditional", "channels"), [(False, 4), (True, 3), (False, 1)])
def test_every_kind_of_generator_draws_what_its_export_draws(
    page: Page, runtime: dict[str, bytes], tmp_path: Path, conditional: bool, channels: int
) -> None:
    folder = write_export(tmp_path / "export", conditional, channels, license="CC BY 4.0", attribution="Ada & others")
    with static_server(write(folder, tmp_path / "browser", runtime)) as url:
        open_drawn(page, f"{url}/#seed=9&count=10&scale=1")
        assert grey_levels(downloaded(page, tmp_path, seed=9), sampled(folder, 4, count=10, seed=9)) <= 2
        assert page.evaluate("document.querySelectorAll('[name=digits]').length") == (10 if conditional else 0)
        assert page.evaluate("document.querySelector('.checkered') !== null") == (channels == 4)
        footer = text(page, "footer")
    assert manifest.read(folder)["model_version"] in footer
    assert "CC BY 4.0" in footer
    assert "Ada & others" in footer


@pytest.mark.parametrize(("seed", "dim"), [(0, 1), (5, 128), (2**32 + 3, 6), (MAX_SEED, 129)])
def test_latents_and_labels_are_those_of_python(page: Page, url: str, seed: int, dim: int) -> None:
    page.open(f"{url}/latents.js")  # any address of the server, for the modules
    found = page.evaluate(
        f"""import('{url}/latents.js').then(({{latents, drawLabels}}) =>
            [latents({seed}, 70, {dim}).map((row) => [...row]), drawLabels({seed}, 70, 7)])"""
    )
    assert found[1] == draw_labels(seed, 70, 7).tolist()
    np.testing.assert_array_max_ulp(np.array(found[0], np.float32), latents(seed, 70, dim), maxulp=1)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_interpolation_is_that_of_python(page: Page, url: str, fraction: float) -> None:
    a, b = latents(1, 2, 64)
    cases = [(a, b), (a, a), (a, -a), (a, np.zeros_like(a))]
    page.open(f"{url}/latents.js")
    for start, end in cases:
        arrays = ", ".join(f"Float32Array.of({','.join(map(str, row.tolist()))})" for row in (start, end))
        found = page.evaluate(f"import('{url}/interpolation.js').then(({{slerp}}) => [...slerp({arrays}, {fraction})])")
        expected = slerp(start[None], end[None], np.array([fraction]))[0]
        np.testing.assert_allclose(np.array(found), expected, rtol=1e-6, atol=1e-6)


def test_a_walk_draws_between_the_seeds(page: Page, url: str, tmp_path: Path) -> None:
    open_drawn(page, f"{url}/#seed=5&count=4&scale=1&walk=2.25")
    picture = downloaded(page, tmp_path, seed=5)
    z = slerp(latents(7, 4, 128), latents(8, 4, 128), np.full(4, 0.25))
    source = open_export(PRETRAINED).source
    assert source is not None
    images = source.generate(torch.from_numpy(z), torch.from_numpy(draw_labels(5, 4, 10)))
    assert grey_levels(picture, tile(images.permute(0, 2, 3, 1).numpy(), 2)[..., 0]) <= 2


def test_the_plane_of_the_pad_keeps_the_norm_of_the_latents(page: Page, url: str) -> None:
    page.open(f"{url}/latents.js")
    found = page.evaluate(
        f"""Promise.all([import('{url}/latents.js'), import('{url}/interpolation.js')]).then(([seeds, paths]) => {{
            const [z, u, v] = seeds.latents(3, 3, 64);
            return [[...z], [...paths.onPlane(z, u, v, 0, 0)], [...paths.onPlane(z, u, v, -1.5, 2)]]; }})"""
    )
    z, center, corner = map(np.array, found)
    assert (center == z).all()
    assert np.linalg.norm(corner) == pytest.approx(np.linalg.norm(z))
    assert np.dot(corner, z) / np.dot(z, z) < 0.9


def test_an_export_of_a_run_holds_the_page_and_can_be_replaced(
    runtime: dict[str, bytes], small_run: Path, ganctl: Ganctl, page: Page, tmp_path: Path
) -> None:
    out = tmp_path / "export"
    done = ganctl("export", small_run, "--format", "browser", "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"--directory {out}/browser" in done.stdout
    assert {path.name for path in out.iterdir()} == {
        "generator.onnx", "manifest.json", "card.md", "README.md", "samples.png", "browser",
    }  # fmt: skip
    with static_server(out / "browser") as url:
        open_drawn(page, f"{url}/#seed=5&count=64&scale=1")
        assert grey_levels(downloaded(page, tmp_path, seed=5), sampled(out, 8, count=64, seed=5)) <= 2
    export(small_run, out=out, formats=["onnx"])
    assert not (out / "browser").exists()


def test_the_runtime_is_cached_for_machines_without_a_network(
    runtime: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fetch_runtime() == runtime
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    with pytest.raises(ExportError, match=r"found no npm .* apt-get install npm"):
        fetch_runtime()


def test_a_damaged_file_in_the_cache_is_fetched_again_and_a_failure_of_npm_is_explained(
    runtime: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, content in runtime.items():
        write_cached(cache_path("onnxruntime-web", VERSION, name), content + b"damaged" * name.endswith(".mjs"))
    environment = {"registry": "http://127.0.0.1:1/", "cache": str(tmp_path / "npm"), "fetch_retries": "0"}
    for name, value in environment.items():
        monkeypatch.setenv(f"npm_config_{name}", value)
    messages: list[str] = []
    with pytest.raises(ExportError, match=r"npm could not fetch onnxruntime-web .*ECONNREFUSED"):
        fetch_runtime(messages.append)
    assert [message for message in messages if "is damaged (ort.wasm.bundle.min.mjs: found SHA-256" in message]
