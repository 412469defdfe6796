"""A signal that ends a command leaves no partial file: existing files stay unchanged, and no new ones appear."""

import os
import re
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


def read_files(folder: Path) -> dict[str, bytes]:
    """Returns the content of all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_ended(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """Waits for the process; checks that it ends with the exit code and the message of the signal."""
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number, err
    assert re.search(rf"^Error: .*\b{number.name}\b", err, re.MULTILINE), err
    assert one_object(out)["exit_code"] == 128 + number
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("number", "command", "after"),
    [
        (signal.SIGTERM, "sample {export} --out {folder}/x.png", 0),
        (signal.SIGHUP, "sample {export} --count 9 --out {folder}/images", 4),
        (signal.SIGINT, "sample {export} --count 9 --out {folder}/new/x.npz", 0),
        (signal.SIGINT, "export {run} --format torchscript --out {folder}/export", 0),
        (signal.SIGTERM, "export {run} --format torchscript --out {folder}/export", 2),
        (signal.SIGTERM, "package {export} --out {folder}", 0),
        (signal.SIGHUP, "package {export} --out {folder}/new/folder", 0),
    ],
)
def test_a_signal_during_a_write_leaves_the_existing_files_unchanged(
    number: signal.Signals, command: str, after: int, library: Path, exported: Path, small_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    (folder / "export").mkdir(parents=True)
    for name in ("manifest.json", "generator.onnx"):
        (folder / "export" / name).write_text("an earlier export")
    (folder / "digits.mar").write_text("an earlier archive")
    before = read_files(folder)
    words = command.format(export=exported, run=small_run, folder=folder).split()
    process = subprocess.Popen(
        [sys.executable, "-m", "ganctl", *words, "--json"],
        env=refusing.hold(library, "write", folder, tmp_path / "held", after=after),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for((tmp_path / "held").exists, "the write is held", process=process)
    process.send_signal(number)
    (tmp_path / "held").unlink()
    check_ended(process, number)
    assert read_files(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == ["digits.mar", "export"]


def test_a_signal_while_evaluate_writes_its_cache_leaves_no_file(library: Path, exported: Path, tmp_path: Path) -> None:
    held_file = tmp_path / "held"
    process = subprocess.Popen(
        [sys.executable, "-m", "ganctl", "evaluate", str(exported), "--num-images", "200", "--json"],
        env=refusing.hold(library, "write", tmp_path / "cache", held_file)
        | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(held_file.exists, "the write is held", process=process)
    process.send_signal(signal.SIGTERM)
    held_file.unlink()
    check_ended(process, signal.SIGTERM)
    assert read_files(tmp_path) == {}


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(other, marks=pytest.mark.soak) for other in (signal.SIGINT, signal.SIGHUP))],
)
@pytest.mark.soak
def test_two_signals_during_an_export_leave_the_earlier_export_unchanged(
    number: signal.Signals, tmp_path: Path
) -> None:
    run_dir = train_small(tmp_path / "run", max_steps=2, extra=(held.GENERATOR,))
    export(run_dir, formats=["onnx"])
    before = read_files(run_dir)
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
    process.send_signal(number)  # a supervisor and a terminal may both send one
    check_ended(process, number)
    assert read_files(run_dir) == before
