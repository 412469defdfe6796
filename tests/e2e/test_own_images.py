"""Color images in class folders, end to end: train, evaluate, export, package, serve, request images by class name."""

import io
import json
import os
import re
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

pytestmark = [pytest.mark.timeout(4 * PATIENCE), pytest.mark.soak]  # also fits a classifier

COLORS = {"leaf": (40, 200, 60), "sea": (30, 60, 220), "sun": (250, 220, 30)}
SIZE = 32
CLASSIFIER_FIT = "fitting the classifier"  # message on stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 disks of each color, at random positions on black; one file is not an image."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for name, color in COLORS.items():
        (folder / "disks" / name).mkdir(parents=True)
        for i in range(60):
            y, x = rng.integers(12, 20, 2)
            disk = ((rows - y) ** 2 + (columns - x) ** 2 < 90)[..., None]
            Image.fromarray((disk * np.array(color)).astype(np.uint8)).save(folder / "disks" / name / f"{i}.png")
    (folder / "disks/sun/broken.png").write_bytes(b"not an image")
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
    """Trains `run` and exports it to `export`; returns the scores of the run."""
    model = ("--set", "model.base_channels=16", "--set", "train.duration=9600 images", "--set", "train.batch_size=32")
    _, stderr = ganctl(folder, "train", "disks", "--run-dir", "run", code=4)
    assert "disks/sun/broken.png" in stderr
    assert "data.skip_corrupt=true" in stderr
    assert not (folder / "run").exists()

    train = ("train", "disks", *model, "--set", "data.skip_corrupt=true", "--run-dir", "run")
    trained, stderr = ganctl(folder, *train)
    assert re.search(r"data\.skip_corrupt .*\(1\)", stderr)
    assert trained["metrics"]["class_accuracy"].keys() == COLORS.keys()
    assert CLASSIFIER_FIT in stderr
    assert re.search(r"\bclassifier reads 100\.0% of the test images\b", stderr)
    ganctl(folder, "export", "run", "--out", "export")
    scores, stderr = ganctl(folder, "evaluate", "run")
    assert CLASSIFIER_FIT not in stderr, "the classifier was cached"
    assert scores["label_accuracy"] > 0.9
    return scores


def test_evaluate_scores_a_run_an_export_and_images_after_the_data_moved(folder: Path, scores: dict[str, Any]) -> None:
    ganctl(folder, "sample", "run", "--per-class", 60, "--seed", 8, "--out", "samples.npz")
    (folder / "disks").rename(folder / "moved")
    _, stderr = ganctl(folder, "evaluate", "run", code=4)
    assert f"data.source: {folder / 'disks'} " in stderr
    again, stderr = ganctl(folder, "evaluate", "run", GANCTL_DATA__SOURCE="moved")
    assert CLASSIFIER_FIT not in stderr, "the images are the same"
    assert {**again, "seconds": 0} == {**scores, "seconds": 0}
    by_export, stderr = ganctl(folder, "evaluate", "export", "--set", "data.source=moved")
    assert CLASSIFIER_FIT not in stderr, "the export has the data settings of the run"
    assert by_export["fd"] == pytest.approx(scores["fd"], rel=0.05)
    _, stderr = ganctl(folder, "evaluate", "samples.npz", code=4)
    assert re.search(r"\b3 × 32 × 32\b.*\b1 × 28 × 28\b", stderr)
    words = ("--set", "data.source=moved", "--set", "data.skip_corrupt=true")
    by_file, _ = ganctl(folder, "evaluate", "samples.npz", *words)
    assert by_file["label_accuracy"] > 0.9
    _, stderr = ganctl(folder, "evaluate", "run", "--set", "train.seed=1", code=3)
    assert re.search(r"--set train\.seed=1: .*\bdata\.", stderr)


def test_run_export_and_server_generate_disks_of_the_color_of_the_requested_class(
    folder: Path, scores: dict[str, Any]
) -> None:
    manifest = json.loads((folder / "export/manifest.json").read_text())
    assert manifest["class_names"] == list(COLORS)
    assert manifest["image"] == {"channels": 3, "height": SIZE, "width": SIZE}
    ganctl(folder, "sample", "export", "--digit", "sea", "--count", 4, "--out", "sea.npz")
    with np.load(folder / "sea.npz") as arrays:
        assert arrays["images"].shape == (4, 3, SIZE, SIZE)
        assert arrays["labels"].tolist() == [1] * 4

    ganctl(folder, "package", "export", "--out", ".")
    (mar,) = folder.glob("*.mar")
    command = [sys.executable, "-m", "ganctl", "serve", str(mar), "--port", "0", "--workers", "1", "--json"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        for name, color in COLORS.items():
            reply = http.post(f"{url}/predictions/digits", json={"labels": [name], "seed": 5})
            assert reply.status_code == 200, reply.text
            pixels = np.asarray(Image.open(io.BytesIO(reply.content))).astype(int)
            assert pixels.shape == (SIZE, SIZE, 3)
            nearest = min(COLORS, key=lambda other: np.abs(pixels[16, 16] - COLORS[other]).sum())
            assert nearest == name, (pixels[16, 16], color)
        for request in (("--digit", "sun", "--digit", "sea"), ("--per-class", 2)):
            samples = {}
            for name, source in (("server", url), ("run", "run")):
                ganctl(folder, "sample", source, *request, "--seed", 9, "--out", f"{name}.npz")
                with np.load(folder / f"{name}.npz") as arrays:
                    samples[name] = (arrays["labels"].tolist(), arrays["images"].astype(int))
            assert samples["server"][0] == samples["run"][0]
            assert np.abs(samples["server"][1] - samples["run"][1]).max() <= 1
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=PATIENCE) == 0
