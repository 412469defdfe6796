"""Installs ganctl as a new user does: from the README in a copy of the project, and from the wheel."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests import http
from tests.e2e.elsewhere import PLACE, environment
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).parent / "uv"
INSTALL_TIMEOUT = 1800  # seconds; only limits a hang, however slow the package index is


def run(*words: object, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALL_TIMEOUT,
    )


def draw_disks(folder: Path) -> None:
    """Draws 100 disks of different sizes and grays."""
    folder.mkdir()
    for i in range(100):
        image = Image.new("L", (16, 16))
        ImageDraw.Draw(image).ellipse((1, 1, 6 + i % 8, 6 + i % 8), fill=100 + i)
        image.save(folder / f"{i}.png")


@pytest.mark.soak  # another environment to install; the one of the README is in `make test`
@pytest.mark.timeout(4 * INSTALL_TIMEOUT)
def test_the_wheel_in_a_new_environment_trains_samples_and_packages(tmp_path: Path) -> None:
    built = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("ganctl-*.whl")
    files = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in files} == {"ganctl"}
    assert "ganctl/py.typed" in files
    pretrained = {"features.safetensors", "projection.safetensors", "NOTICE.md"}
    assert {f"ganctl/training/pretrained/{name}" for name in pretrained} <= {*files}
    assert any(name.endswith(".dist-info/licenses/training/pretrained/NOTICE.md") for name in files)
    venv, folder = tmp_path / "venv", tmp_path / "work"
    folder.mkdir()
    created = run(UV, "venv", "--python", sys.executable, venv, cwd=tmp_path)
    assert created.returncode == 0, created.stderr
    python = venv / "bin/python"
    lock = ROOT / "requirements.lock"
    installed = run(UV, "pip", "install", "--python", python, "--constraint", lock, wheel, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    trained = run(venv / "bin/ganctl", "train", "--max-steps", 3, "--json", cwd=folder)
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["run_dir"].startswith(str(folder))
    sampled = run(venv / "bin/ganctl", "sample", "pretrained", "--out", "digits.png", "--json", cwd=folder)
    assert sampled.returncode == 0, sampled.stderr
    imported = run(python, "-c", "import ganctl.training; print(ganctl.training.__file__)", cwd=folder)
    assert imported.stdout.startswith(str(venv))
    exported = Path(imported.stdout.strip()).parents[1] / "exports/pretrained"
    packaged = run(venv / "bin/ganctl", "package", exported, "--out", folder, cwd=folder)
    assert packaged.returncode == 0, packaged.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project in a folder with an unusual name. The files have the times of the originals."""
    copy = tmp_path / PLACE
    for name in run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout.split():
        if (ROOT / name).exists():  # git lists a deleted file until the deletion is committed
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    return copy


@pytest.mark.soak  # another environment to install
@pytest.mark.timeout(4 * INSTALL_TIMEOUT)
def test_the_set_up_works_in_a_folder_with_an_unusual_name(copy: Path, tmp_path: Path) -> None:
    setup = run("make", "setup", cwd=copy, LC_ALL="C")
    assert setup.returncode == 0, setup.stderr
    again = run("make", "setup", cwd=copy, **environment(tmp_path))
    assert "installing" not in again.stdout + again.stderr, "a second setup installs nothing"
    sampled = run(copy / ".venv/bin/ganctl", "sample", "pretrained", "--out", "digits.png", cwd=copy)
    assert sampled.returncode == 0, sampled.stderr


@pytest.mark.timeout(4 * INSTALL_TIMEOUT)
def test_the_commands_of_the_readme_work_in_a_copy_of_the_project(copy: Path, tmp_path: Path) -> None:
    demo, serve, own = re.findall(r"```sh\n(.*?)\n```", (copy / "README.md").read_text(), re.DOTALL)
    if (Path(sys.prefix) / ".ready").exists():  # else `make demo` makes an environment
        (copy / ".venv").symlink_to(sys.prefix)
    variables = environment(tmp_path)
    small = {"TRAIN_SECONDS": "10", "GANCTL_EVALUATION__NUM_IMAGES": "200", "GANCTL_EVALUATION__TEST_IMAGES": "200"}
    demo_done = run("nohup", "sh", "-c", demo, cwd=copy, **small, **variables)
    assert demo_done.returncode == 0, demo_done.stderr
    for name in ("run", "export", "digits.mar", "digits.png"):
        assert (copy / "demo" / name).exists(), name
    for text in ("demo/digits.png", "Fréchet distance", "time to train", "ganctl serve demo/digits.mar"):
        assert text in demo_done.stdout
    with Image.open(copy / "demo/digits.png") as image:
        assert image.size == (10 * 28 * 3, 8 * 28 * 3)

    draw_disks(copy / "disks")
    inspect, train, serve_own = own.replace("DATA", "disks").splitlines()
    inspected = run("sh", "-c", inspect, cwd=copy, **variables)
    assert inspected.returncode == 0, inspected.stderr
    assert (copy / "contact-disks.png").exists()
    trained = run("sh", "-c", train.replace(" --run-dir", " --max-steps 3 --run-dir"), cwd=copy, **variables)
    assert trained.returncode == 0, trained.stderr

    for command, query in ((serve, "text=2026&scale=5"), (serve_own, "count=2")):
        words = ["sh", "-c", f"exec {command} --port 0 --workers 1 --json"]
        with subprocess.Popen(words, cwd=copy, env=variables, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            reply = http.get(f"{url}/digits/predict?{query}")
            assert (reply.status_code, reply.headers["content-type"]) == (200, "image/png")
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=PATIENCE) == 0
