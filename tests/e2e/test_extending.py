"""The diffs in docs/extending.md apply, change at most two files each, and do what the page says."""

import io
import json
import os
import re
import subprocess
import sys
import tarfile
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


def write_cifar(path: Path) -> None:
    """Writes an archive with the binary files of CIFAR-10, of 300 random images of ships; 50 are test images."""
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w:gz") as archive:
        for name, count in (("data_batch_1.bin", 150), ("data_batch_2.bin", 100), ("test_batch.bin", 50)):
            records = rng.integers(0, 256, (count, 1 + 3 * 32 * 32), dtype=np.uint8)
            records[:, 0] = 8  # one class, so that no classifier is fitted
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = records.nbytes
            archive.addfile(member, io.BytesIO(records.tobytes()))


def test_the_new_reader_network_loss_term_callback_and_export_format_work_together(
    extended: Path, tmp_path: Path
) -> None:
    write_cifar(tmp_path / "cifar.tar.gz")
    facts = json.loads(run(extended, tmp_path, "-m", "ganctl", "inspect", "cifar.tar.gz", "--json"))
    assert facts["splits"] == {"train": 225, "val": 25, "test": 50}
    assert [each["name"] for each in facts["classes"]] == ["ship"]
    settings = [
        "data.size=64", "model.generator=resnet64", "model.base_channels=4", "loss.drift=0.01", "log.every=1",
        "train.batch_size=8", "evaluation.num_images=100",
    ]  # fmt: skip
    callback = ["--callback", "ganctl.training.callbacks.csv_scores:CsvScores"]
    assignments = [word for setting in settings for word in ("--set", setting)]
    train = ("-m", "ganctl", "train", "cifar.tar.gz", "--max-steps", "2", "--run-dir", "run")
    run(extended, tmp_path, *train, *assignments, *callback)
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
