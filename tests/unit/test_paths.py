"""Paths and class names may have any character in any locale."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ganctl.exports
from tests.conftest import Ganctl

PRETRAINED = Path(ganctl.exports.__file__).parent / "pretrained"

SPECIAL = "é 日本 #1 %41 & \"q\" 'p' \\n"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # Python must not switch to UTF-8 by itself


@pytest.mark.soak
def test_an_export_in_a_folder_with_special_characters_is_sampled_and_packed(
    started_ganctl: Ganctl, tmp_path: Path
) -> None:
    export = shutil.copytree(PRETRAINED, tmp_path / SPECIAL / "export")
    out = tmp_path / SPECIAL / "out"
    sampled = started_ganctl("sample", export, "--count", "2", "--out", out / "ü.npz", env=os.environ | ASCII)
    assert sampled.returncode == 0, sampled.stderr
    with np.load(out / "ü.npz") as arrays:
        assert arrays["images"].shape == (2, 28, 28)
    packed = started_ganctl("package", export, "--out", out, env=os.environ | ASCII)
    assert packed.returncode == 0, packed.stderr
    inspected = started_ganctl("inspect", out / "digits.mar", env=os.environ | ASCII)
    assert inspected.returncode == 0, inspected.stderr


def test_class_names_and_paths_do_not_depend_on_the_locale(started_ganctl: Ganctl, tmp_path: Path) -> None:
    data, run = tmp_path / SPECIAL / "data", tmp_path / SPECIAL / "run"
    for number, name in enumerate(("café", "日本")):
        (data / name).mkdir(parents=True)
        for image in range(10):
            Image.new("L", (28, 28), 100 * number + image).save(data / name / f"{image}.png")
    environment = os.environ | ASCII | {"XDG_CACHE_HOME": str(tmp_path / SPECIAL / "cache")}
    settings = (
        "model.base_channels=8",
        "evaluation.num_images=100",
        f"data.source={data}",
        "log.tensorboard=false",
    )
    words = [word for setting in settings for word in ("--set", setting)]
    trained = started_ganctl(
        "train", *words, "--batch-size", "8", "--max-steps", "2", "--run-dir", run, env=environment
    )
    assert trained.returncode == 0, trained.stderr
    sampled = started_ganctl("sample", run, "--digit", "café", "--count", "2", "--out", run / "ü", env=environment)
    assert sampled.returncode == 0, sampled.stderr
    with (run / "ü" / "labels.csv").open(encoding="utf-8") as rows:
        assert [row["label"] for row in csv.DictReader(rows)] == ["0", "0"]
    exported = started_ganctl("export", run, "--out", run / "ë", env=environment)
    assert exported.returncode == 0, exported.stderr
    assert json.loads((run / "ë" / "manifest.json").read_text("utf-8"))["class_names"] == ["café", "日本"]
