"""All commands in docs/tutorial.md run in their order, with shorter trainings."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
SHORTER = {"train.duration=20m": "train.duration=1300images", "train.duration=25m": "train.duration=2000images"}


def free_port() -> int:
    """Returns the first of five consecutive free ports; a server uses all five."""
    while True:
        first = random.randrange(20_000, 60_000)
        try:
            for port in range(first, first + 5):
                with socket.create_server(("127.0.0.1", port)):
                    pass
        except OSError:
            continue
        return first


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tutorial sends requests with curl")
def test_the_commands_of_the_tutorial_train_on_a_folder_of_images_and_serve_the_generator(tmp_path: Path) -> None:
    script = "\n".join(re.findall(r"```sh\n(.*?)```", (ROOT / "docs/tutorial.md").read_text("utf-8"), re.DOTALL))
    for long, short in SHORTER.items():
        assert long in script
        script = script.replace(long, short)
    port = free_port()
    script = script.replace("8080", str(port))
    (tmp_path / "tutorial.sh").write_text(f"set -euo pipefail\n{script}", "utf-8")
    places = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        ["bash", "tutorial.sh"],
        cwd=tmp_path,
        env=os.environ | places,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("circle", "square", "triangle"):
        assert f"{name} (240)" in done.stdout + done.stderr
    with Image.open(tmp_path / "square.png") as square:
        assert square.size == (4 * 32, 4 * 32)
    # curl prints no newline after the reply, and output of the server may follow
    reply, _ = json.JSONDecoder().raw_decode(done.stdout, done.stdout.index('{"model_version"'))
    assert [image["label"] for image in reply["images"]] == [0, 2, 0, 2]
    assert "(3, 32, 32, 3)" in done.stdout
    deployed = rf"\b{port}\b.*\bserves model \w+.*\bprevious\b"
    assert re.search(deployed, done.stdout + done.stderr), "deploy reports the new and the previous version"
