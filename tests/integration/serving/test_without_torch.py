"""An ONNX archive is served without torch installed, as in the serving image."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ganctl.serving.archive.mar import package
from tests import http
from tests.integration.serving.conftest import PROJECT, running
from tests.waiting import PATIENCE

# Python reads it at its start, in every process of the server.
HIDE = """\
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name == "torch" else find(name, *more)
"""


@pytest.fixture
def _no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hiding = tmp_path / "hiding"
    hiding.mkdir()
    (hiding / "sitecustomize.py").write_text(HIDE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(hiding), str(PROJECT))))
    hidden = subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, text=True, check=False)
    assert "No module named 'torch'" in hidden.stderr


@pytest.mark.usefixtures("_no_torch")
def test_an_export_with_onnx_is_packed_and_served(export: Path, tmp_path: Path) -> None:
    with running(export, tmp_path) as server:
        assert http.get(f"{server.url}/predictions/digits").headers["content-type"] == "image/png"


@pytest.mark.usefixtures("_no_torch")
def test_an_archive_of_torchscript_is_refused_with_the_reason(export: Path, tmp_path: Path) -> None:
    mar = package(export, tmp_path, "torchscript")
    command = [sys.executable, "-m", "ganctl", "serve", str(mar), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 6
    assert "TorchScript generator, which needs the package torch" in done.stderr
    assert "Traceback" not in done.stderr
