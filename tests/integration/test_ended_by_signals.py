"""A signal that ends a command leaves nothing half-written: what was there before stays whole, and nothing else is."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ganctl.exports.export import export
from tests import held, refusing
from tests.conftest import one_object, train_small
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


@pytest.fixture(scope="module")
def exported(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(small_run, out=tmp_path_factory.mktemp("of") / "export", formats=["onnx"])


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return refusing.build(tmp_path_factory.mktemp("refusing"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number, err
    assert f"Error: ended by {number.name}; no partial file is left" in err
    assert one_object(out)["exit_code"] == 128 + number
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("number", "command", "after"),
    [
        (signal.SIGTERM, "sample {export} --out {folder}/x.png", 0),
        (signal.SIGHUP, "sample {export} --count 9 --out {folder}/pictures", 4),
        (signal.SIGINT, "sample {export} --count 9 --out {folder}/new/x.npz", 0),
        (signal.SIGINT, "export {run} --format torchscript --out {folder}/export", 0),
        (signal.SIGTERM, "export {run} --format torchscript --out {folder}/export", 2),
        (signal.SIGTERM, "package {export} --out {folder}", 0),
        (signal.SIGHUP, "package {export} --out {folder}/new/folder", 0),
    ],
)
def test_in_the_middle_of_writing(
    number: signal.Signals, command: str, after: int, library: Path, exported: Path, small_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    (folder / "export").mkdir(parents=True)
    for name in ("manifest.json", "generator.onnx"):
        (folder / "export" / name).write_text("of an earlier export")
    (folder / "digits.mar").write_text("an earlier archive")
    before = content(folder)
    words = command.format(export=exported, run=small_run, folder=folder).split()
    process = subprocess.Popen(
        [sys.executable, "-m", "ganctl", *words, "--json"],
        env=refusing.hold(library, "write", folder, tmp_path / "held", after=after),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for((tmp_path / "held").exists, "the command writes", process=process)
    process.send_signal(number)
    (tmp_path / "held").unlink()
    check(process, number)
    assert content(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == ["digits.mar", "export"]


def test_in_the_middle_of_filling_a_cache(library: Path, exported: Path, tmp_path: Path) -> None:
    held_file = tmp_path / "held"
    process = subprocess.Popen(
        [sys.executable, "-m", "ganctl", "evaluate", str(exported), "--num-images", "200", "--json"],
        env=refusing.hold(library, "write", tmp_path / "cache", held_file)
        | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(held_file.exists, "the command writes", process=process)
    process.send_signal(signal.SIGTERM)
    held_file.unlink()
    check(process, signal.SIGTERM)
    assert content(tmp_path) == {}


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(other, marks=pytest.mark.soak) for other in (signal.SIGINT, signal.SIGHUP))],
)
def test_in_the_middle_of_an_export(number: signal.Signals, tmp_path: Path) -> None:
    run_dir = train_small(tmp_path / "run", max_steps=2, extra=(held.GENERATOR,))
    export(run_dir, formats=["onnx"])
    before = content(run_dir)
    hold = held.Hold(tmp_path / "hold", held.EXPORT)
    process = subprocess.Popen(
        [sys.executable, "-m", "ganctl", "export", str(run_dir), "--json"],
        env=os.environ | hold.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    hold.wait(process)
    process.send_signal(number)
    process.send_signal(number)  # as a supervisor and a terminal do
    check(process, number)
    assert content(run_dir) == before
