"""The diffs in docs/extending.md apply, change at most two files each, and do what the page says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
DIFFS = re.findall(r"```diff\n(.*?)```", (ROOT / "docs/extending.md").read_text("utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the product with all diffs applied."""
    folder = tmp_path_factory.mktemp("extended")
    packages = ("ganctl", "training", "exports", "serving")
    subprocess.run(["cp", "-a", *(str(ROOT / name) for name in packages), str(folder)], check=True)
    for diff in DIFFS:
        done = subprocess.run(
            ["git", "apply", "--whitespace=nowarn"], cwd=folder, input=diff, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
    return folder


def run(extended: Path, folder: Path, *words: str) -> bytes:
    """Runs Python with the extended product; returns its stdout."""
    environment = os.environ | {"PYTHONPATH": str(extended), "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_every_diff_changes_at_most_two_files() -> None:
    assert len(DIFFS) == 6
    for diff in DIFFS:
        assert 1 <= len(re.findall(r"^\+\+\+ b/", diff, re.MULTILINE)) <= 2


def test_the_new_reader_network_loss_term_callback_and_export_format_work_together(
    extended: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (240, 64, 64, 3), dtype=np.uint8)
    np.savez(
        tmp_path / "set.npz", images=images, labels=np.zeros(240, np.int64)
    )  # one class, so that no classifier is trained
    settings = [
        "data.name=npz", "data.root=set.npz", "model.generator=resnet64", "model.base_channels=4", "loss.drift=0.01",
        "log.every=1", "train.batch_size=8", "evaluation.num_images=100",
    ]  # fmt: skip
    callback = ["--callback", "ganctl.training.callbacks.csv_scores:CsvScores"]
    assignments = [word for setting in settings for word in ("--set", setting)]
    run(extended, tmp_path, "-m", "ganctl", "train", *assignments, *callback, "--max-steps", "2", "--run-dir", "run")
    stats = json.loads((tmp_path / "run/stats.jsonl").read_text("utf-8").splitlines()[0])
    assert stats["drift"] >= 0
    assert (tmp_path / "run/scores.csv").read_text("utf-8").startswith("step,images,")
    run(extended, tmp_path, "-m", "ganctl", "export", "run", "--format", "onnx17", "--out", "export")
    manifest = json.loads((tmp_path / "export/manifest.json").read_text("utf-8"))
    assert manifest["parity"].keys() == {"generator.opset17.onnx"}


def test_the_new_reply_type_is_served(extended: Path, tmp_path: Path) -> None:
    script = """
import json, sys
from pathlib import Path
import ganctl
from ganctl.serving.handler.service import Service
folder = Path(ganctl.__file__).parent / "exports/pretrained"
service = Service.load(folder, {"backend": "onnx", "model_file": "generator.onnx"})
(reply,) = service.answer([({"body": b'{"digits": 7, "seed": 1}'}, {"Accept": "image/bmp"})])
assert reply.status == 200, reply
sys.stdout.buffer.write(reply.body)
"""
    (tmp_path / "seven.bmp").write_bytes(run(extended, tmp_path, "-c", script))
    with Image.open(tmp_path / "seven.bmp") as image:
        assert (image.format, image.size) == ("BMP", (28, 28))
