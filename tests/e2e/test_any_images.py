"""Other people's images, from an archive or a folder to a picture over HTTP: with alpha, or gray and without labels."""

import io
import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from tests import http
from tests.any_images import COLORS, disks, save_folder
from tests.conftest import Ganctl, one_object
from tests.waiting import PATIENCE

SMALL = ("model.base_channels=4", "train.batch_size=16", "evaluation.num_images=100", "log.tensorboard=false")
CREDIT = {"license": "CC-BY-4.0", "attribution": "Ada Lovelace"}


def rgba_zip(folder: Path) -> str:
    """A zip of RGBA images of 48 × 48 pixels in class folders, with a license."""
    source = save_folder(folder / "files", disks(24, 48), labeled=True)  # few: a classifier is fitted to them
    (source / "LICENSE").write_text(f"{CREDIT['license']}\n")
    with zipfile.ZipFile(folder / "disks.zip", "w") as archive:
        for path in sorted(source.rglob("*")):
            archive.write(path, path.relative_to(source))
    return "disks.zip"


def gray_folder(folder: Path) -> str:
    """A folder of gray TIFF files of 16 × 16 pixels, without labels."""
    return save_folder(folder / "tiffs", disks(120, 16)[..., 3], suffix=".tiff").name


@pytest.mark.parametrize(
    ("make", "shape", "classes"), [(rgba_zip, (48, 48, 4), len(COLORS)), (gray_folder, (16, 16), 0)]
)
def test_images_are_trained_on_scored_sampled_exported_and_served(
    make: Callable[[Path], str], shape: tuple[int, ...], classes: int, ganctl: Ganctl, tmp_path: Path
) -> None:
    def run(*words: object) -> dict[str, Any]:
        done = ganctl(*words, "--json")
        assert done.returncode == 0, done.stderr
        return one_object(done.stdout)

    settings = [word for setting in SMALL for word in ("--set", setting)]
    credit = ("--set", f"data.attribution={CREDIT['attribution']}") if classes else ()
    trained = run("train", make(tmp_path), *settings, *credit, "--max-steps", 4, "--run-dir", "run")
    assert trained["steps"] == 4
    scores = run("evaluate", "run", "--num-images", 100)
    assert scores["no_summary"], "so few images give no summary"
    assert classes > 0 or scores["label_accuracy"] is None

    with_label = ("--label", "color 1") if classes else ()
    run("sample", "run", *with_label, "--count", 3, "--seed", 7, "--out", "local.npz")
    run("sample", "run", *with_label, "--seed", 7, "--frames", 8, "--out", "walk.webp")
    with Image.open(tmp_path / "walk.webp") as walk:
        assert len(list(ImageSequence.Iterator(walk))) == 8
    with np.load(tmp_path / "local.npz") as arrays:
        local = arrays["images"].astype(int)
        assert local.shape == (3, *shape[2:], *shape[:2])
        assert ("labels" in arrays) == (classes > 0)

    run("export", "run", "--format", "onnx", "--out", "export")
    run("package", "export", "--out", ".")
    archive = run("inspect", "digits.mar")
    expected = CREDIT if classes else dict.fromkeys(CREDIT)
    assert {name: archive[name] for name in CREDIT} == expected
    command = [sys.executable, "-m", "ganctl", "serve", "digits.mar", "--port", "0", "--workers", "1", "--json"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        fields = {"seed": 7, "count": 3, "layout": "strip"} | ({"labels": "color 1"} if classes else {})
        for media in ("image/png", "image/webp"):
            reply = http.post(f"{url}/predictions/digits", json=fields, headers={"Accept": media})
            assert (reply.status_code, reply.headers["content-type"]) == (200, media), reply.text
            with Image.open(io.BytesIO(reply.content)) as picture:
                assert picture.mode == ("RGBA" if classes else "L" if media == "image/png" else "RGB")
                pixels = np.asarray(picture if classes else picture.convert("L")).astype(int)
            assert pixels.shape == (shape[0], 3 * shape[1], *shape[2:])
            differences = np.abs(pixels - np.concatenate([*np.moveaxis(local, 1, -1)] if classes else [*local], axis=1))
            visible = pixels[..., 3:] > 0 if classes else True
            assert (differences * visible).max() <= 1
        page = http.get(f"{url}/digits/predict", headers={"Accept": "text/html"}).text
        assert (CREDIT["attribution"] in page) == (classes > 0)
        refused = http.post(f"{url}/predictions/digits", json={"digits": classes})
        assert refused.status_code == 400
        run("sample", url, *with_label, "--count", 3, "--seed", 7, "--out", "remote.npz")
        with np.load(tmp_path / "remote.npz") as arrays:
            assert np.abs(arrays["images"] - local).max() <= 1
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=PATIENCE) == 0
