"""The preset `residual` from a folder of color images to the reply of the service, and its plan."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganctl.serving.archive.mar import BackendName
from tests.any_images import COLORS, disks, save_folder
from tests.conftest import Ganctl, one_object
from tests.unit.serving.service_calls import json_call, load_service, pixels, reply_to

BACKENDS: tuple[BackendName, ...] = ("onnx", "torchscript")
SETTINGS = (
    "model.base_channels=4", "train.batch_size=8", "evaluation.num_images=100", "evaluation.every=1 epochs",
    "log.tensorboard=false", "train.precision=fp32", "train.duration=10 epochs",
)  # fmt: skip


@pytest.mark.parametrize(("size", "channels"), [(32, 3), (64, 4)])
@pytest.mark.soak
def test_images_are_trained_on_exported_and_served(size: int, channels: int, ganctl: Ganctl, tmp_path: Path) -> None:
    def run(*words: object) -> dict[str, Any]:
        done = ganctl(*words, "--json")
        assert done.returncode == 0, done.stderr
        return one_object(done.stdout)

    data = save_folder(tmp_path / "disks", disks(60, size)[..., :channels], labeled=True)
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    words = ("train", data, "--preset", "residual", *settings, "--max-steps", 3)
    plan = run(*words, "--dry-run")
    assert plan["gradients"] == "AutogradBackend"
    assert 0 < plan["activation_bytes"] < plan["memory_bytes"]
    assert run(*words, "--run-dir", "run")["steps"] == 3
    run("sample", "run", "--label", "color 1", "--count", 3, "--seed", 7, "--out", "local.npz")
    with np.load(tmp_path / "local.npz") as arrays:
        local = arrays["images"].astype(int)
    assert local.shape == (3, channels, size, size)

    run("export", "run", "--format", "torchscript", "--format", "onnx", "--out", "export")
    manifest = run("inspect", "export")
    assert manifest["class_names"] == [f"color {i}" for i in range(len(COLORS))]
    fields: dict[str, Any] = {"seed": 7, "count": 3, "labels": "color 1", "layout": "strip"}
    for backend in BACKENDS:
        picture = pixels(reply_to(load_service(tmp_path / "export", backend), json_call(None, **fields))).astype(int)
        assert picture.shape == (size, 3 * size, channels)
        visible = picture[..., 3:] > 0 if channels == 4 else True
        differences = np.abs(picture - np.concatenate([*np.moveaxis(local, 1, -1)], axis=1))
        assert (differences * visible).max() <= 1, backend
