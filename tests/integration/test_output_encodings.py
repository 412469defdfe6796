"""Output with non-ASCII names works in every encoding; brackets and colons are not markup; --json prints valid JSON."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ganctl.main import COMMANDS
from tests.conftest import SMALL, Ganctl

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX file names, which are bytes")

NAME = "日本 é [b]×[/b] [/red] [link=x]:smile: 😀"
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
STREAM_VARIABLES = {
    "ASCII": ASCII,
    "strict ASCII": {"PYTHONIOENCODING": "ascii:strict"},
    "Latin-1": {"PYTHONIOENCODING": "latin-1"},
    "UTF-8": {"PYTHONIOENCODING": "utf-8"},
}
ENCODINGS = {"Latin-1": "latin-1", "UTF-8": "utf-8"}


def run(*words: str | bytes | Path, variables: dict[str, str], folder: Path) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "ganctl", *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | variables
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)


@pytest.mark.parametrize(
    "stream", ["ASCII", *(pytest.param(name, marks=pytest.mark.soak) for name in STREAM_VARIABLES if name != "ASCII")]
)
def test_a_non_ascii_name_is_printed_in_every_encoding(stream: str, small_run: Path, tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir(parents=True)  # parents: the name contains slashes
    commands: list[tuple[list[str | Path], int]] = [(["inspect", small_run / NAME], 4)]
    if stream == "ASCII":
        commands += [(["sample", small_run, "--out", f"{NAME}/{NAME}.png"], 0), (["train", "--preset", NAME], 3)]
    for words, code in commands:
        encoding = ENCODINGS.get(stream, "ascii")
        done = run(*words, variables=STREAM_VARIABLES[stream], folder=tmp_path)
        output = (done.stdout + done.stderr).decode(encoding)
        assert done.returncode == code, output
        assert "defect" not in output
        for part in ("[b]", "[/b] [/red] [link=x]:smile:", "日本" if encoding == "utf-8" else r"\u65e5\u672c"):
            assert part in output
        done = run(*words, "--json", variables=STREAM_VARIABLES[stream], folder=tmp_path)
        lines = done.stdout.decode("utf-8" if encoding == "utf-8" else "ascii").splitlines()
        assert len(lines) == 1
        assert NAME in str(json.loads(lines[0]).values())


HELP_IN_SOAK = {*COMMANDS} - {"train", "serve"}


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["train"],
        ["serve"],
        *(pytest.param([name], marks=pytest.mark.soak) for name in sorted(HELP_IN_SOAK)),
        pytest.param(["bench", "train"], marks=pytest.mark.soak),
    ],
)
def test_help_is_printed_in_ascii_where_the_locale_is_ascii(command: list[str], tmp_path: Path) -> None:
    done = run(*command, "--help", variables=ASCII, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert b"Usage:" in done.stdout
    assert done.stdout.isascii()


@pytest.mark.parametrize("variables", [ASCII, pytest.param({}, marks=pytest.mark.soak)])
def test_a_file_name_that_is_not_utf8_is_read_written_and_printed(
    variables: dict[str, str], small_run: Path, tmp_path: Path
) -> None:
    name = b"\xff\xe9 [b]"
    shutil.copytree(small_run, os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    done = run("sample", name, "--out", name + b".png", "--json", variables=variables, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert os.fsencode(json.loads(done.stdout)["out"]) == os.fsencode(tmp_path) + b"/" + name + b".png"
    done = run(
        "export", name, "--format", "torchscript", "--out", name + b"/export", variables=variables, folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert rb"\udcff\udce9 [b]/export" in done.stdout
    done = run("inspect", name + b"/nothing", variables=variables, folder=tmp_path)
    assert (done.returncode, rb"\udcff\udce9 [b]/nothing: " in done.stderr) == (4, True)


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.soak
def test_train_prints_the_name_of_its_run_folder_without_markup_and_logs_in_utf8(
    terminal: bool, tmp_path: Path
) -> None:
    settings = [word for setting in (*SMALL, "log.tensorboard=true") for word in ("--set", setting)]
    variables = ASCII | ({"FORCE_COLOR": "1", "COLUMNS": "300"} if terminal else {})
    done = run("train", *settings, "--max-steps", "1", "--run-dir", NAME, variables=variables, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    output = (done.stdout + done.stderr).decode("ascii")
    assert r"\u65e5\u672c \xe9 [b]\xd7[/b] [/red] [link=x]:smile: \U0001f600" in output
    run_dir = tmp_path / NAME
    for name in ("log.txt", "stats.jsonl", "config.toml", "environment.json"):
        (run_dir / name).read_bytes().decode("utf-8")
    assert "Fréchet" in (run_dir / "log.txt").read_text("utf-8")


@pytest.mark.soak
def test_train_writes_into_a_folder_whose_name_is_not_utf8(started_ganctl: Ganctl, tmp_path: Path) -> None:
    settings = [word for setting in (*SMALL, "log.tensorboard=true") for word in ("--set", setting)]
    root = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    done = started_ganctl("train", *settings, "--max-steps", 1, "--set", f"log.root={root}", "--json")
    assert done.returncode == 0, done.stderr
    run_dir = Path(json.loads(done.stdout)["run_dir"])
    assert run_dir.parent == Path(root)
    assert list(run_dir.glob("events.out.tfevents.*"))


@pytest.mark.soak
def test_ranks_print_in_the_encoding_of_the_command(tmp_path: Path) -> None:
    for name in ("café", "日本"):
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.new("L", (28, 28), i).save(tmp_path / name / f"{i}.png")
    words = (
        "train",
        "--dry-run",
        "--nproc",
        "2",
        "--batch-size",
        "8",
        "--set",
        f"data.source={tmp_path}",
    )
    done = run(*words, variables=STREAM_VARIABLES["Latin-1"], folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rb"\u65e5\u672c" in done.stdout
    assert "café" in done.stdout.decode("latin-1")


@pytest.mark.soak
def test_the_model_card_of_non_ascii_classes_is_utf8(small_run: Path, tmp_path: Path) -> None:
    from ganctl.training.checkpoint.format import read_checkpoint, write_checkpoint

    state = read_checkpoint(small_run / "checkpoints/best.safetensors").state
    state["data"]["class_names"] = [NAME, "猫", *"23456789"]
    write_checkpoint(tmp_path / "run/checkpoints/best.safetensors", state)
    done = run("export", "run", "--format", "torchscript", "--json", variables=ASCII, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode("ascii"))["class_names"][:2] == [NAME, "猫"]
    assert "猫" in (tmp_path / "run/export/card.md").read_text("utf-8")
    done = run("sample", "run", "--digit", "猫", "--out", "images", variables=ASCII, folder=tmp_path)
    assert done.returncode == 0, done.stderr
