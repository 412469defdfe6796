"""Imports that would delay the first training step."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SMALL


@pytest.mark.soak
def test_a_training_does_not_import_the_compiler_of_pytorch(tmp_path: Path) -> None:
    """The import takes a second, and training compiles nothing."""
    settings = [word for setting in SMALL for word in ("--set", setting)]
    command = [sys.executable, "-X", "importtime", "-m", "ganctl", "train", "--max-steps", "2", "--run-dir"]
    for words in ([], ["--max-steps", "3", "--resume", "auto"]):
        done = subprocess.run(
            [*command, str(tmp_path / "run"), *settings, *words], capture_output=True, text=True, check=True
        )
        modules = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
        assert "torch" in modules
        assert not {name for name in modules if name.startswith(("torch._dynamo", "torch._inductor"))}
