"""`uvx --from .` runs ganctl from a clone without a set-up, and builds it again when its code has changed."""

import json
import sys
from pathlib import Path

import pytest

from tests.e2e.test_installation import INSTALL_TIMEOUT, ROOT, run

UVX = Path(sys.executable).parent / "uvx"


@pytest.mark.soak  # downloads torch where the package cache is empty
@pytest.mark.timeout(4 * INSTALL_TIMEOUT)
def test_uvx_runs_ganctl_from_a_clone(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    assert run("git", "clone", "--quiet", ROOT, clone, cwd=tmp_path).returncode == 0

    def uvx(*words: object) -> str:
        done = run(UVX, "--from", clone, "ganctl", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert uvx("--version").startswith("ganctl, version")
    trained = json.loads(uvx("train", "mnist", "--max-steps", 2, "--run-dir", "run", "--json"))
    assert trained["steps"] == 2
    version = clone / "ganctl/__init__.py"
    version.write_text(version.read_text("utf-8").replace("0.2.0", "0.2.0.post7"), "utf-8")
    assert uvx("--version").startswith("ganctl, version 0.2.0.post7")
