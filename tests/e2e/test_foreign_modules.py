"""Modules of the user with the names of ganctl's or Python's modules, in the current folder and on PYTHONPATH."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ganctl
from ganctl.serving.archive.mar import package
from tests.conftest import SMALL
from tests.unit.serving.small_export import write_export
from tests.waiting import PATIENCE, wait_for

COMMAND = str(Path(sys.executable).with_name("ganctl"))
STDLIB = ("enum", "io", "json", "logging", "multiprocessing", "random", "signal", "subprocess", "tempfile", "types")
DEPENDENCIES = ("PIL", "click", "httpx", "numpy", "pydantic", "torch")
GANCTL_PACKAGES = ("benchmarks", "exports", "serving", "training")
TRAIN = ("train", *(word for setting in SMALL for word in ("--set", setting)), "--max-steps", "2", "--json")


def environment(**variables: str) -> dict[str, str]:
    """Returns the environment of the tests without PYTHONPATH, and with `variables`."""
    return {**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "OMP_NUM_THREADS": "1", **variables}


def run(*words: object, cwd: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*map(str, words)], cwd=cwd, env=environment(**variables), capture_output=True, text=True, check=False
    )


def write_module(folder: Path, name: str, text: str = "raise RuntimeError('the wrong module was imported')\n") -> None:
    """Writes a module into a folder; for the packages of ganctl and numpy, a package."""
    if name in (*GANCTL_PACKAGES, "numpy"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(text)
    else:
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text)


@pytest.fixture
def shadowing_folder(tmp_path: Path) -> Path:
    """A folder with modules of all these names, which fail on import, and with the callback `mine:Mine`."""
    for name in (*STDLIB, *DEPENDENCIES, *GANCTL_PACKAGES, "ganctl"):
        write_module(tmp_path, name)
    (tmp_path / "mine.py").write_text(
        "from ganctl.training.callbacks.base import Callback\n\nclass Mine(Callback):\n    def on_start(self, run):\n"
        "        print('the callback was called', file=__import__('sys').stderr)\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    "more",
    [
        (),
        pytest.param(("--nproc", "2"), marks=pytest.mark.soak),
        pytest.param(("--set", "data.on_device=false", "--set", "data.num_workers=1"), marks=pytest.mark.soak),
    ],
)
def test_train_imports_only_the_named_callback_from_the_current_folder(
    more: tuple[str, ...], shadowing_folder: Path
) -> None:
    done = run(COMMAND, *TRAIN, *more, "--callback", "mine:Mine", cwd=shadowing_folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2
    assert "the callback was called" in done.stderr


def test_serve_and_deploy_import_nothing_from_the_current_folder(
    shadowing_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mar = package(write_export(tmp_path_factory.mktemp("export") / "export"), tmp_path_factory.mktemp("mar"))
    words = [COMMAND, "serve", str(mar), "--port", "0", "--workers", "1", "--json"]
    with subprocess.Popen(words, cwd=shadowing_folder, env=environment(), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            port = json.loads(server.stdout.readline())["url"].rpartition(":")[2]
            done = run(COMMAND, "deploy", mar, "--port", port, "--json", cwd=shadowing_folder)
            assert done.returncode == 0, done.stderr
        finally:
            server.terminate()
    assert server.returncode == 0


def test_package_and_doctor_import_nothing_from_the_current_folder(
    shadowing_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    export = write_export(tmp_path_factory.mktemp("export") / "export")
    done = run(COMMAND, "package", export, "--out", shadowing_folder / "out", cwd=shadowing_folder)
    assert done.returncode == 0, done.stderr
    done = run(COMMAND, "doctor", "--json", cwd=shadowing_folder)
    assert json.loads(done.stdout)["findings"]["torch"]["ok"]


@pytest.mark.soak
def test_the_stages_of_demo_import_nothing_from_the_current_folder(shadowing_folder: Path) -> None:
    words = [COMMAND, "demo", "--out", "demo", "--train-seconds", "600"]
    process = subprocess.Popen(
        words, cwd=shadowing_folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for((shadowing_folder / "demo/run/stats.jsonl").exists, "the first stage trains", process=process)
    process.terminate()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM


@pytest.fixture
def startable_folder(shadowing_folder: Path) -> Path:
    """The same folder without the modules that Python imports before it runs `-m ganctl`."""
    for name in ("enum", "io", "types", "signal", "subprocess", "tempfile", "ganctl"):
        (shadowing_folder / f"{name}.py").unlink()
    return shadowing_folder


@pytest.mark.parametrize(
    ("words", "variables"),
    [((sys.executable, "-m", "ganctl"), {}), ((COMMAND,), {"PYTHONPATH": ":/nowhere"})],
)
def test_modules_in_the_current_folder_are_ignored_even_if_python_searches_it_first(
    words: tuple[str, ...], variables: dict[str, str], startable_folder: Path
) -> None:
    """Both `-m` and an empty entry of PYTHONPATH (as in `$PYTHONPATH:/opt/x`) put the current folder first."""
    if variables:
        (startable_folder / "json.py").unlink()  # the start script imports ganctl, which imports these two
        (startable_folder / "click.py").unlink()
    done = run(*words, "train", "--dry-run", "--json", cwd=startable_folder, **variables)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["first_step"] == 0


@pytest.mark.parametrize(
    "text", [pytest.param("", marks=pytest.mark.soak), "raise RuntimeError('the wrong module was imported')"]
)
@pytest.mark.parametrize("name", ["random", "logging", "torch", "numpy", "json", "click", "types"])
def test_a_module_on_pythonpath_that_hides_another_one_is_reported_with_both_paths(
    name: str, text: str, tmp_path: Path
) -> None:
    folder = tmp_path / "packages"
    write_module(folder, name, text)
    done = run(COMMAND, "train", "--dry-run", cwd=tmp_path, PYTHONPATH=str(folder))
    assert done.returncode == 1
    file = re.escape(str(folder / (f"{name}/__init__.py" if name == "numpy" else f"{name}.py")))
    pattern = rf"^Error: .*\b{name}: found {file}, expected /\S*\b{name}\b.* {re.escape(str(folder))} from PYTHONPATH\b"
    assert re.search(pattern, done.stderr, re.MULTILINE), done.stderr
    assert "Traceback" not in done.stderr
    assert "defect" not in done.stderr


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with packages that have the names of ganctl's packages, and fail on import."""
    for name in (*GANCTL_PACKAGES, "tests"):
        write_module(tmp_path / "packages", name)
    return tmp_path / "packages"


@pytest.mark.parametrize(
    "words",
    [
        pytest.param((*TRAIN, "--nproc", "2"), marks=pytest.mark.soak),
        ("sample", "pretrained", "--out", "x.png"),
        ("package", "{pretrained}", "--out", "out"),
        ("bench", "train", "--help"),
    ],
)
def test_packages_on_pythonpath_with_the_names_of_ganctls_packages_hide_none_of_them(
    words: tuple[str, ...], packages: Path, tmp_path: Path
) -> None:
    pretrained = Path(ganctl.__file__).parent / "exports/pretrained"
    done = run(COMMAND, *(word.format(pretrained=pretrained) for word in words), cwd=tmp_path, PYTHONPATH=str(packages))
    assert done.returncode == 0, done.stderr


@pytest.mark.soak
def test_packages_on_pythonpath_hide_no_package_of_ganctl_under_torchrun(packages: Path, tmp_path: Path) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "ganctl")
    done = run(*torchrun, *TRAIN, cwd=tmp_path, PYTHONPATH=str(packages))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('a mistake of the user')", "mine.py:5: ValueError: a mistake of the user"),
        ("import socket; socket.create_connection(('127.0.0.1', 1))", "mine.py:5: ConnectionRefusedError: "),
    ],
)
def test_an_error_of_a_callback_is_not_attributed_to_a_module_in_the_current_folder(
    body: str, message: str, tmp_path: Path
) -> None:
    write_module(tmp_path, "random", "")
    (tmp_path / "mine.py").write_text(
        "import random\nfrom ganctl import Callback\nclass Mine(Callback):\n    def on_start(self, run):\n"
        f"        {body}\n"
    )
    done = run(COMMAND, *TRAIN, "--callback", "mine:Mine", cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert "Python module" not in done.stderr


def test_commands_work_if_site_packages_is_the_current_folder() -> None:
    done = run(COMMAND, "train", "--dry-run", cwd=Path(torch.__file__).parents[1])
    assert done.returncode == 0, done.stderr


def test_a_callback_is_found_in_a_user_package_called_training(tmp_path: Path) -> None:
    write_module(tmp_path, "training", "")
    (tmp_path / "training/mine.py").write_text(
        "from ganctl.training.callbacks.base import Callback\n\nclass Hook(Callback):\n    def on_start(self, run):\n"
        "        print('the callback was called', file=__import__('sys').stderr)\n"
    )
    done = run(COMMAND, *TRAIN, "--callback", "training.mine:Hook", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the callback was called" in done.stderr


def test_the_error_of_a_missing_callback_module_names_the_module_and_the_path_of_its_package(tmp_path: Path) -> None:
    write_module(tmp_path, "training", "")
    done = run(COMMAND, "train", "--dry-run", "--callback", "training.mine:Hook", cwd=tmp_path)
    assert done.returncode == 3
    assert re.search(rf"--callback training\.mine:Hook: .*'training\.mine'.*\btraining is {tmp_path}/", done.stderr)
