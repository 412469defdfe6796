"""An ONNX archive is served without torch installed, as in the serving image."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ganctl.serving.archive.mar import package
from tests import http
from tests.integration.serving.conftest import PROJECT, Engine, running
from tests.waiting import PATIENCE

# A sitecustomize.py: every Python process of the server runs it at its start.
HIDE = """\
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *args: None if name == "torch" else find(name, *args)
"""


@pytest.fixture
def _no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `import torch` fail in the processes that the test starts."""
    folder = tmp_path / "hide_torch"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HIDE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(folder), str(PROJECT))))
    done = subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, text=True, check=False)
    assert "No module named 'torch'" in done.stderr


@pytest.mark.usefixtures("_no_torch")
def test_an_onnx_export_is_packaged_and_served_without_torch(engine: Engine, export: Path, tmp_path: Path) -> None:
    with running(export, tmp_path, engine=engine) as server:
        assert http.get(f"{server.url}/predictions/digits").headers["content-type"] == "image/png"


@pytest.mark.usefixtures("_no_torch")
def test_a_torchscript_archive_without_torch_is_refused_with_the_remedy(export: Path, tmp_path: Path) -> None:
    mar = package(export, tmp_path, "torchscript")
    command = [sys.executable, "-m", "ganctl", "serve", str(mar), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 6
    assert re.search(rf"{re.escape(str(mar))}: .*TorchScript.*\btorch\b.*\bonnx\b", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
