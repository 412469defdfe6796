"""The code in docs/python.md runs unchanged, and the documents name only settings and flags that exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from ganctl.serving.cli.deploy import deploy
from ganctl.serving.cli.serve import serve
from ganctl.training.cli.evaluate import evaluate
from ganctl.training.cli.sample import sample
from ganctl.training.cli.train import train
from ganctl.training.config.schema import DESCRIPTIONS
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


def test_the_code_of_the_python_page_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 5
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks), "utf-8")
    places = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    environment = os.environ | places | {"GANCTL_EVALUATION__NUM_IMAGES": "200"}
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.match(r".*runs/00000-conv-mnist max-steps \d", lines[0]), lines
    assert re.match(r"step 10: \d+% of the digits can be read", lines[1])
    assert lines[2] == "stopped by max-steps"
    assert "'across': " in lines[3]


@pytest.mark.parametrize(
    "name",
    ["data.md", "evaluation.md", "hub.md", "lightning.md", "operating.md", "python.md", "ranks.md", "service.md"],
)
def test_the_settings_and_flags_in_the_documents_exist(name: str) -> None:
    text = (ROOT / "docs" / name).read_text("utf-8")
    sections = {setting.split(".")[0] for setting in DESCRIPTIONS}
    for setting in re.findall(r"[`\"]([a-z_]+\.[a-z_0-9]+)[`\"=]", text):
        if setting.split(".")[0] in sections and not setting.endswith((".py", ".toml", ".md")):
            assert setting in DESCRIPTIONS, setting
    commands = (train, evaluate, sample, serve, deploy)
    options = [option for command in commands for option in command.params if isinstance(option, click.Option)]
    flags = {flag for option in options for flag in (*option.opts, *option.secondary_opts)}
    torchrun_flags = {"--standalone", "--nproc-per-node", "--max-restarts", "--nnodes"}
    torchrun_flags |= {"--rdzv-backend", "--rdzv-endpoint", "--rdzv-id", "--logdir", "--signals-to-handle"}
    other_flags = {
        "--shm-size",
        "--ntasks",
        "--data",
        "--source",
        "--target",
        "--private",
    }  # of docker, srun, benchmarks, hf
    for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
        assert flag in flags | torchrun_flags | other_flags, flag
