"""A stranger's ways in: the README's commands in a copy of the project, and the wheel in an environment of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests import http
from tests.e2e.elsewhere import PLACE, environment
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).parent / "uv"
INSTALLING = 1800  # seconds; bounds a hang, wherever the packages come from


def run(*words: object, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALLING,
    )


@pytest.mark.timeout(4 * INSTALLING)
def test_the_wheel_installed_alone_trains_draws_and_packs_in_another_folder(tmp_path: Path) -> None:
    built = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("ganctl-*.whl")
    assert {name.partition("/")[0].partition("-")[0] for name in zipfile.ZipFile(wheel).namelist()} == {"ganctl"}
    venv, folder = tmp_path / "venv", tmp_path / "elsewhere"
    folder.mkdir()
    made = run(UV, "venv", "--python", sys.executable, venv, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    python = venv / "bin/python"
    lock = ROOT / "requirements.lock"
    installed = run(UV, "pip", "install", "--python", python, "--constraint", lock, wheel, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    trained = run(venv / "bin/ganctl", "train", "--max-steps", 3, "--json", cwd=folder)
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["run_dir"].startswith(str(folder))
    drawn = run(venv / "bin/ganctl", "sample", "pretrained", "--out", "digits.png", "--json", cwd=folder)
    assert drawn.returncode == 0, drawn.stderr
    where = run(python, "-c", "import ganctl.training; print(ganctl.training.__file__)", cwd=folder)
    assert where.stdout.startswith(str(venv))
    exported = Path(where.stdout.strip()).parents[1] / "exports/pretrained"
    packed = run(venv / "bin/ganctl", "package", exported, "--out", folder, cwd=folder)
    assert packed.returncode == 0, packed.stderr


@pytest.mark.timeout(4 * INSTALLING)
def test_the_readmes_commands_work_in_a_copy_of_the_project(tmp_path: Path) -> None:
    copy = tmp_path / PLACE
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout.split()
    for name in files:
        if (ROOT / name).is_symlink():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).symlink_to((ROOT / name).readlink())
        elif (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
            (copy / name).chmod((ROOT / name).stat().st_mode)
    demo, serve = re.findall(r"```sh\n(.*?)\n```", (copy / "README.md").read_text(), re.DOTALL)

    set_up = run("make", "setup", cwd=copy, LC_ALL="C")
    assert set_up.returncode == 0, set_up.stderr
    odd = environment(tmp_path)
    made = run("nohup", "sh", "-c", demo, cwd=copy, TRAIN_SECONDS="10", **odd)
    assert made.returncode == 0, made.stderr
    for name in ("run", "export", "digits.mar", "digits.png"):
        assert (copy / "demo" / name).exists(), name
    for told in ("demo/digits.png", "Fréchet distance", "time to train", "ganctl serve demo/digits.mar"):
        assert told in made.stdout
    with Image.open(copy / "demo/digits.png") as picture:
        columns, rows = picture.size
    assert (columns, rows) == (10 * 28 * 3, 8 * 28 * 3)

    again = run("make", "setup", cwd=copy, **odd)
    assert "installing" not in again.stdout + again.stderr, "a second call installs nothing"

    command = f"exec {serve} --port 0 --workers 1 --json"
    with subprocess.Popen(["sh", "-c", command], cwd=copy, env=odd, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        reply = http.get(f"{url}/digits/predict?text=2026&scale=5")
        assert (reply.status_code, reply.headers["content-type"]) == (200, "image/png")
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=PATIENCE) == 0
