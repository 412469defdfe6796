"""Modules of other people that are called as ganctl's or Python's own: in the current folder, and on PYTHONPATH."""

import json
import os
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
PYTHONS = ("enum", "io", "json", "logging", "multiprocessing", "random", "signal", "subprocess", "tempfile", "types")
OTHERS = ("PIL", "click", "httpx", "numpy", "pydantic", "torch")
OURS = ("benchmarks", "exports", "serving", "training")
TRAIN = ("train", *(word for setting in SMALL for word in ("--set", setting)), "--max-steps", "2", "--json")


def environment(**variables: str) -> dict[str, str]:
    """That of the tests, without a PYTHONPATH of its own."""
    return {**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "OMP_NUM_THREADS": "1", **variables}


def run(*words: object, cwd: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*map(str, words)], cwd=cwd, env=environment(**variables), capture_output=True, text=True, check=False
    )


def write_module(folder: Path, name: str, text: str = "raise RuntimeError('not the one that was meant')\n") -> None:
    """A module, or a package where it is one of ganctl's or numpy."""
    if name in (*OURS, "numpy"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(text)
    else:
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text)


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A folder with modules of all these names, which fail when they are imported, and with one that is meant."""
    for name in (*PYTHONS, *OTHERS, *OURS, "ganctl"):
        write_module(tmp_path, name)
    (tmp_path / "mine.py").write_text(
        "from ganctl.training.callbacks.base import Callback\n\nclass Mine(Callback):\n    def on_start(self, run):\n"
        "        print('mine has been called', file=__import__('sys').stderr)\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    "more",
    [
        ("--nproc", "2"),
        pytest.param((), marks=pytest.mark.soak),
        pytest.param(("--set", "data.on_device=false", "--set", "data.num_workers=1"), marks=pytest.mark.soak),
    ],
)
def test_training_and_its_processes_import_nothing_from_the_current_folder_but_what_is_named(
    more: tuple[str, ...], crowded: Path
) -> None:
    done = run(COMMAND, *TRAIN, *more, "--callback", "mine:Mine", cwd=crowded)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2
    assert "mine has been called" in done.stderr


def test_the_server_its_workers_and_the_trial_of_a_new_version_import_nothing_from_the_current_folder(
    crowded: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mar = package(write_export(tmp_path_factory.mktemp("export") / "export"), tmp_path_factory.mktemp("mar"))
    words = [COMMAND, "serve", str(mar), "--port", "0", "--workers", "1", "--json"]
    with subprocess.Popen(words, cwd=crowded, env=environment(), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            port = json.loads(server.stdout.readline())["url"].rpartition(":")[2]
            done = run(COMMAND, "deploy", mar, "--port", port, "--json", cwd=crowded)
            assert done.returncode == 0, done.stderr
        finally:
            server.terminate()
    assert server.returncode == 0


def test_packing_and_doctor_import_nothing_from_the_current_folder(
    crowded: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    export = write_export(tmp_path_factory.mktemp("export") / "export")
    done = run(COMMAND, "package", export, "--out", crowded / "out", cwd=crowded)
    assert done.returncode == 0, done.stderr
    done = run(COMMAND, "doctor", "--json", cwd=crowded)
    assert json.loads(done.stdout)["findings"]["torch"]["ok"]


@pytest.mark.soak
def test_the_stages_of_a_demo_import_nothing_from_the_current_folder(crowded: Path) -> None:
    words = [COMMAND, "demo", "--out", "demo", "--train-seconds", "600"]
    process = subprocess.Popen(
        words, cwd=crowded, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for((crowded / "demo/run/stats.jsonl").exists, "the first stage trains", process=process)
    process.terminate()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM


@pytest.fixture
def crowded_but_startable(crowded: Path) -> Path:
    """The same without what Python itself imports before it runs `-m ganctl`."""
    for name in ("enum", "io", "types", "signal", "subprocess", "tempfile", "ganctl"):
        (crowded / f"{name}.py").unlink()
    return crowded


@pytest.mark.parametrize(
    ("words", "variables"),
    [((sys.executable, "-m", "ganctl"), {}), ((COMMAND,), {"PYTHONPATH": ":/nowhere"})],
)
def test_the_current_folder_is_passed_over_where_python_puts_it_first(
    words: tuple[str, ...], variables: dict[str, str], crowded_but_startable: Path
) -> None:
    """By `-m`, and by an empty entry of PYTHONPATH, such as `$PYTHONPATH:/opt/x` leaves."""
    if variables:
        (crowded_but_startable / "json.py").unlink()  # the script of the command imports ganctl, and that these
        (crowded_but_startable / "click.py").unlink()
    done = run(*words, "train", "--dry-run", "--json", cwd=crowded_but_startable, **variables)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["first_step"] == 0


@pytest.mark.parametrize("text", ["", "raise RuntimeError('not the one that was meant')"])
@pytest.mark.parametrize("name", ["random", "logging", "torch", "numpy", "json", "click", "types"])
def test_a_module_on_pythonpath_that_hides_another_is_told_in_one_message(name: str, text: str, tmp_path: Path) -> None:
    write_module(tmp_path / "theirs", name, text)
    done = run(COMMAND, "train", "--dry-run", cwd=tmp_path, PYTHONPATH=str(tmp_path / "theirs"))
    assert done.returncode == 1
    found = tmp_path / "theirs" / (f"{name}/__init__.py" if name == "numpy" else f"{name}.py")
    assert f"Error: the Python module {name}: found {found}, expected /" in done.stderr
    assert f"Rename the first, or take {tmp_path / 'theirs'} from PYTHONPATH" in done.stderr
    assert "Traceback" not in done.stderr
    assert "defect" not in done.stderr


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder with packages that are called as ganctl's rooms, and fail when they are imported."""
    for name in (*OURS, "tests"):
        write_module(tmp_path / "theirs", name)
    return tmp_path / "theirs"


@pytest.mark.parametrize(
    "words",
    [
        (*TRAIN, "--nproc", "2"),
        ("sample", "pretrained", "--out", "x.png"),
        ("package", "{pretrained}", "--out", "out"),
        ("bench", "train", "--help"),
    ],
)
def test_packages_on_pythonpath_that_are_called_as_ganctls_rooms_hide_nothing(
    words: tuple[str, ...], theirs: Path, tmp_path: Path
) -> None:
    pretrained = Path(ganctl.__file__).parent / "exports/pretrained"
    done = run(COMMAND, *(word.format(pretrained=pretrained) for word in words), cwd=tmp_path, PYTHONPATH=str(theirs))
    assert done.returncode == 0, done.stderr


@pytest.mark.soak
def test_nor_do_they_for_torchrun(theirs: Path, tmp_path: Path) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "ganctl")
    done = run(*torchrun, *TRAIN, cwd=tmp_path, PYTHONPATH=str(theirs))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise ValueError('my own mistake')", "my own mistake"),
        ("import socket; socket.create_connection(('127.0.0.1', 1))", "mine.py:5: ConnectionRefusedError: "),
    ],
)
def test_an_error_of_ones_own_is_told_whatever_else_lies_in_the_folder(body: str, told: str, tmp_path: Path) -> None:
    write_module(tmp_path, "random", "")
    (tmp_path / "mine.py").write_text(
        "import random\nfrom ganctl import Callback\nclass Mine(Callback):\n    def on_start(self, run):\n"
        f"        {body}\n"
    )
    done = run(COMMAND, *TRAIN, "--callback", "mine:Mine", cwd=tmp_path)
    assert done.returncode == 1
    assert told in done.stderr.splitlines()[-1]
    assert "Python module" not in done.stderr


def test_the_folder_of_the_installed_packages_may_be_the_current_one() -> None:
    done = run(COMMAND, "train", "--dry-run", cwd=Path(torch.__file__).parents[1])
    assert done.returncode == 0, done.stderr


def test_a_package_of_ones_own_may_be_called_as_a_room(tmp_path: Path) -> None:
    write_module(tmp_path, "training", "")
    (tmp_path / "training/mine.py").write_text(
        "from ganctl.training.callbacks.base import Callback\n\nclass Hook(Callback):\n    def on_start(self, run):\n"
        "        print('mine has been called', file=__import__('sys').stderr)\n"
    )
    done = run(COMMAND, *TRAIN, "--callback", "training.mine:Hook", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mine has been called" in done.stderr


def test_an_absent_module_of_a_package_is_told_with_where_the_package_is(tmp_path: Path) -> None:
    write_module(tmp_path, "training", "")
    done = run(COMMAND, "train", "--dry-run", "--callback", "training.mine:Hook", cwd=tmp_path)
    assert done.returncode == 3
    assert "no module 'training.mine'" in done.stderr
    assert f"(training is {tmp_path}" in done.stderr
