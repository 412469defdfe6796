"""All commands in docs/tutorial.md run in their order: with smaller images, shorter trainings, and no download."""

import io
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
EMOJI = ROOT.parent / "shared/data/twemoji-64.zip"  # the images of the package, in the folders that the page makes
SIZE = 16
SHORTER = {
    "data.size=32": f"data.size={SIZE}",
    "train.duration=20m": "train.duration=1300images",
    "train.duration=25m": "train.duration=2000images",
}
PACK = "npm pack emoji-datasource-twitter@16.0.0"
CLASSES = (
    "activities", "animals-nature", "flags", "food-drink", "objects", "people-body", "smileys-emotion", "symbols",
    "travel-places",
)  # fmt: skip


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


def write_package(path: Path) -> None:
    """Writes an npm package with the images of EMOJI and the fields of `emoji.json` that the page reads."""

    def add(name: str, content: bytes) -> None:
        member = tarfile.TarInfo(f"package/{name}")
        member.size = len(content)
        package.addfile(member, io.BytesIO(content))

    entries = [{"image": "1f3fb.png", "category": "Component", "has_img_twitter": True}]  # a skin color
    with tarfile.open(path, "w:gz") as package, zipfile.ZipFile(EMOJI) as images:
        for name in images.namelist():
            category, image = name.split("/")
            title = " & ".join(word.title() for word in category.split("-"))
            entries.append({"image": image, "category": title, "has_img_twitter": True})
            add(f"img/twitter/64/{image}", images.read(name))
        entries.append({"image": "absent.png", "category": "Flags", "has_img_twitter": False})
        add("emoji.json", json.dumps(entries).encode())


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with an `npm` that packs the emoji from `../shared`."""
    if not EMOJI.exists():
        pytest.skip(f"the emoji of the tutorial, {EMOJI}, are absent")
    folder = tmp_path / "programs"
    folder.mkdir()
    write_package(folder / "package.tgz")
    npm = folder / "npm"
    package = "emoji-datasource-twitter-16.0.0.tgz"
    npm.write_text(f'#!/bin/sh\n[ "npm $*" = "{PACK}" ] && cp {folder}/package.tgz {package}\n')
    npm.chmod(0o755)
    return folder


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("curl") is None, reason="the tutorial sends requests with curl")
def test_the_commands_of_the_tutorial_train_on_emoji_and_serve_the_generator(programs: Path, tmp_path: Path) -> None:
    script = "\n".join(re.findall(r"```sh\n(.*?)```", (ROOT / "docs/tutorial.md").read_text("utf-8"), re.DOTALL))
    for long, short in SHORTER.items():
        assert long in script
        script = script.replace(long, short)
    assert PACK in script
    port = free_port()
    script = script.replace("8080", str(port))
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "tutorial.sh").write_text(f"set -euo pipefail\n{script}", "utf-8")
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "tutorial.sh"],
        cwd=folder,
        env=os.environ | {"PATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert re.search(r"^images +1906$", output, re.MULTILINE), "inspect counts the emoji without the skin colors"
    for name in CLASSES:
        assert re.search(rf"\b{name} \(\d+\)", output), "train lists the classes"
    with Image.open(folder / "emoji.png") as picture:  # enlarged twice; a column of 8 images for each class
        assert (picture.mode, picture.size) == ("RGBA", (2 * SIZE * len(CLASSES), 2 * SIZE * 8))
    with Image.open(folder / "food.png") as picture:
        assert (picture.mode, picture.size) == ("RGBA", (4 * SIZE, 4 * SIZE))
    # curl prints no newline after the reply, and output of the server may follow
    reply, _ = json.JSONDecoder().raw_decode(done.stdout, done.stdout.index('{"model_version"'))
    assert [image["label"] for image in reply["images"]] == [0, 2, 0, 2]
    assert f"(3, {SIZE}, {SIZE}, 4)" in done.stdout
    card = (folder / "export/card.md").read_text("utf-8")
    for text in ("CC BY 4.0", "Twemoji"):
        assert text in card
    deployed = rf"\b{port}\b.*\bserves model \w+.*\bprevious\b"
    assert re.search(deployed, output), "deploy reports the new and the previous version"
