"""Class folders of one's own colour images, all the way: train, evaluate, export, package, serve, ask by class name."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import http
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.timeout(4 * PATIENCE), pytest.mark.soak]  # a classifier is trained, too

COLOURS = {"leaf": (40, 200, 60), "sea": (30, 60, 220), "sun": (250, 220, 30)}
SIZE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 discs of each colour, at random places on black; one file is no picture."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for name, colour in COLOURS.items():
        (folder / "discs" / name).mkdir(parents=True)
        for i in range(60):
            y, x = rng.integers(12, 20, 2)
            disc = ((rows - y) ** 2 + (columns - x) ** 2 < 90)[..., None]
            Image.fromarray((disc * np.array(colour)).astype(np.uint8)).save(folder / "discs" / name / f"{i}.png")
    (folder / "discs/sun/broken.png").write_bytes(b"no picture")
    return folder


def ganctl(folder: Path, *words: object, code: int = 0, **variables: str) -> tuple[dict[str, Any], str]:
    command = [sys.executable, "-m", "ganctl", *map(str, words), "--json"]
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")} | variables
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def scores(folder: Path) -> dict[str, Any]:
    """Trains `run`, makes `export` of it, and gives the scores of the run."""
    data = ("--set", "data.name=folder", "--set", "data.root=discs", "--set", f"data.size={SIZE}")
    length = ("--set", "model.base_channels=16", "--set", "train.duration=9600 images", "--set", "train.batch_size=32")
    _, told = ganctl(folder, "train", *data, "--run-dir", "run", code=4)
    assert "discs/sun/broken.png" in told
    assert "data.skip_corrupt=true" in told
    assert not (folder / "run").exists()

    trained, told = ganctl(folder, "train", *data, *length, "--set", "data.skip_corrupt=true", "--run-dir", "run")
    assert "skips files that cannot be read as images (1)" in told
    assert trained["metrics"]["class_accuracy"].keys() == COLOURS.keys()
    assert "training the classifier that scores folder" in told
    assert "the test accuracy of the classifier is 100.0%" in told
    ganctl(folder, "export", "run", "--out", "export")
    scores, told = ganctl(folder, "evaluate", "run")
    assert "training the classifier" not in told, "it was kept"
    assert scores["label_accuracy"] > 0.9
    return scores


def test_a_run_its_export_and_its_images_are_scored_wherever_the_data_lie(folder: Path, scores: dict[str, Any]) -> None:
    ganctl(folder, "sample", "run", "--per-class", 60, "--seed", 8, "--out", "drawn.npz")
    (folder / "discs").rename(folder / "moved")
    _, told = ganctl(folder, "evaluate", "run", code=4)
    assert f"{folder / 'discs'} does not exist" in told
    again, told = ganctl(folder, "evaluate", "run", GANCTL_DATA__ROOT="moved")
    assert "training the classifier" not in told, "the images are the same"
    assert {**again, "seconds": 0} == {**scores, "seconds": 0}
    by_export, told = ganctl(folder, "evaluate", "export", "--set", "data.root=moved")
    assert "training the classifier" not in told, "the export knows how the images were read"
    assert by_export["fd"] == pytest.approx(scores["fd"], rel=0.05)
    _, told = ganctl(folder, "evaluate", "drawn.npz", code=4)
    assert "found images 3 × 32 × 32 (channels, height, width), expected 1 × 28 × 28" in told
    words = ("--set", "data.name=folder", "--set", "data.root=moved", "--set", f"data.size={SIZE}")
    by_file, _ = ganctl(folder, "evaluate", "drawn.npz", *words, "--set", "data.skip_corrupt=true")
    assert by_file["label_accuracy"] > 0.9
    _, told = ganctl(folder, "evaluate", "run", "--set", "train.seed=1", code=3)
    assert "--set train.seed=1: expected a setting of the data" in told


def test_discs_of_three_colours_come_back_by_their_names(folder: Path, scores: dict[str, Any]) -> None:
    manifest = json.loads((folder / "export/manifest.json").read_text())
    assert manifest["class_names"] == list(COLOURS)
    assert manifest["image"] == {"channels": 3, "height": SIZE, "width": SIZE}
    ganctl(folder, "sample", "export", "--digit", "sea", "--count", 4, "--out", "sea.npz")
    with np.load(folder / "sea.npz") as arrays:
        assert arrays["images"].shape == (4, SIZE, SIZE, 3)
        assert arrays["labels"].tolist() == [1] * 4

    ganctl(folder, "package", "export", "--out", ".")
    (mar,) = folder.glob("*.mar")
    command = [sys.executable, "-m", "ganctl", "serve", str(mar), "--port", "0", "--workers", "1", "--json"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        for name, colour in COLOURS.items():
            reply = http.post(f"{url}/predictions/digits", json={"labels": [name], "seed": 5})
            assert reply.status_code == 200, reply.text
            pixels = np.asarray(Image.open(io.BytesIO(reply.content))).astype(int)
            assert pixels.shape == (SIZE, SIZE, 3)
            nearest = min(COLOURS, key=lambda other: np.abs(pixels[16, 16] - COLOURS[other]).sum())
            assert nearest == name, (pixels[16, 16], colour)
        for order in (("--digit", "sun", "--digit", "sea"), ("--per-class", 2)):
            drawn = {}
            for name, source in (("server", url), ("run", "run")):
                ganctl(folder, "sample", source, *order, "--seed", 9, "--out", f"{name}.npz")
                with np.load(folder / f"{name}.npz") as arrays:
                    drawn[name] = (arrays["labels"].tolist(), arrays["images"].astype(int))
            assert drawn["server"][0] == drawn["run"][0]
            assert np.abs(drawn["server"][1] - drawn["run"][1]).max() <= 1
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=PATIENCE) == 0
