"""The main commands end to end, in a folder with an unusual name: train, export, package, serve, sample over HTTP."""

import base64
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ganctl.training.config.schema import DataSettings
from ganctl.training.evaluation.measure import MEASURE
from ganctl.training.evaluation.scorer import load_scorer
from tests import http
from tests.e2e.elsewhere import PLACE, environment
from tests.waiting import PATIENCE

pytestmark = pytest.mark.timeout(2 * PATIENCE)  # the first test includes a training


def ganctl(folder: Path, *words: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "ganctl", *map(str, words), "--json"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder.parent),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads(done.stdout)
    return record


@dataclass
class Served:
    folder: Path
    url: str
    records: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A small conditional GAN, trained for two epochs, behind a real TorchServe."""
    folder = tmp_path_factory.mktemp("job") / PLACE
    folder.mkdir(parents=True)
    # the default recipe with half its channels, to the end of its duration, where the learning rate is low
    assignments = (
        "model.base_channels=16", "train.duration=45000 images", "optimizer.lr=2e-3",
        "evaluation.num_images=500", "evaluation.test_images=500",
    )  # fmt: skip
    settings = [word for assignment in assignments for word in ("--set", assignment)]
    records = {"train": ganctl(folder, "train", *settings, "--run-dir", "run")}
    records["export"] = ganctl(folder, "export", "run", "--out", "export")
    records["package"] = ganctl(folder, "package", "export", "--out", ".")
    command = [sys.executable, "-m", "ganctl", "serve", "digits.mar", "--port", "0", "--workers", "1", "--json"]
    server = subprocess.Popen(command, cwd=folder, env=environment(folder.parent), stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    records["serve"] = json.loads(server.stdout.readline())
    yield Served(folder, records["serve"]["url"], records)
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=PATIENCE) == 0
    assert server.stdout.read() == ""  # exactly one object


def test_the_classifier_reads_the_served_digits_as_their_labels(served: Served) -> None:
    with http.Client(base_url=served.url) as client:
        reply = client.post(
            "/predictions/digits",
            json={"digits": list(range(10)), "count": 200, "seed": 1},
            headers={"Accept": "application/json"},
        )
    assert reply.status_code == 200, reply.text
    record = reply.json()
    assert record["model_version"] == served.records["export"]["model_version"]
    pngs = [Image.open(io.BytesIO(base64.b64decode(entry["png"]))) for entry in record["images"]]
    images = torch.from_numpy(np.stack([np.asarray(png) for png in pngs]))[:, None]
    labels = torch.tensor([entry["label"] for entry in record["images"]])
    assert labels.tolist() == list(range(10)) * 20
    for measure in (1, 2):  # two classifiers
        accuracy = (load_scorer(DataSettings(), measure=measure)(images).predictions == labels).float().mean().item()
        assert accuracy >= 0.7, measure  # the demo trains ten times longer; chance is 0.1


def test_server_export_and_checkpoint_generate_the_same_digits_for_a_seed(served: Served) -> None:
    samples = {}
    for name, source in (("server", served.url), ("export", "export"), ("run", "run")):
        words = ("--digit", 4, "--digit", 2, "--count", 300, "--seed", 9, "--truncation", 0.7)
        ganctl(served.folder, "sample", source, *words, "--out", f"{name}.npz")
        with np.load(served.folder / f"{name}.npz") as arrays:
            samples[name] = (arrays["images"].astype(int), arrays["labels"])
    for name in ("export", "run"):
        assert np.abs(samples[name][0] - samples["server"][0]).max() <= 1
        assert np.array_equal(samples[name][1], samples["server"][1])


def test_server_and_run_generate_the_same_images_for_a_text(served: Served) -> None:
    for name, source in (("server", served.url), ("run", "run")):
        words = ("--text", "2026", "--count", 2, "--seed", 3, "--out", f"{name}-text.png")
        ganctl(served.folder, "sample", source, *words)
    images = [np.asarray(Image.open(served.folder / f"{name}-text.png")).astype(int) for name in ("server", "run")]
    assert images[0].shape == (2 * 56, 4 * 56)
    assert np.abs(images[0] - images[1]).max() <= 1


def test_the_run_and_its_export_state_the_measure_of_their_scores(served: Served) -> None:
    assert served.records["train"]["metrics"]["measure"] == MEASURE
    manifest = json.loads((served.folder / "export/manifest.json").read_text())
    assert manifest["checkpoint"]["metrics"]["measure"] == MEASURE
    assert f"Measure {MEASURE} " in (served.folder / "export/card.md").read_text()


def test_inspect_prints_the_same_version_for_export_archive_and_checkpoint(served: Served) -> None:
    version = served.records["export"]["model_version"]
    assert ganctl(served.folder, "inspect", "export")["model_version"] == version
    assert ganctl(served.folder, "inspect", "digits.mar")["model_version"] == version
    checkpoint = ganctl(served.folder, "inspect", "run/checkpoints/best.safetensors")
    assert checkpoint["generator_sha256"].startswith(version)


@pytest.mark.soak
def test_serve_accepts_a_run_folder(served: Served) -> None:
    command = [sys.executable, "-m", "ganctl", "serve", "run", "--port", "0", "--workers", "1", "--json"]
    variables = environment(served.folder.parent)
    with subprocess.Popen(command, cwd=served.folder, env=variables, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        reply = http.get(f"{url}/predictions/digits")
        assert reply.headers["content-type"] == "image/png"
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=PATIENCE) == 0
