"""In bash, zsh and fish, Tab completes commands, options, their values, settings, runs and paths."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ganctl.training.config.outline import outline
from ganctl.training.config.schema import DESCRIPTIONS
from tests.conftest import Ganctl
from tests.integration.shells import SHELLS, InteractiveShell


@pytest.fixture(scope="module", params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InteractiveShell]:
    """A shell in a folder with images, a run, a model archive, and a file of settings."""
    folder = tmp_path_factory.mktemp("here")
    for name in ("images", "other images", "runs/00000-conv-mnist/checkpoints"):
        (folder / name).mkdir(parents=True)
    for name in ("model.mar", "settings.toml"):
        (folder / name).touch()
    (folder / "bin").mkdir()
    (folder / "bin/ganctl").symlink_to(Path(sys.executable).parent / "ganctl")
    shell = InteractiveShell(str(request.param), folder)
    yield shell
    shell.close()


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("tra", "train"),
        ("train --pres", "train|--preset"),
        ("train --preset qui", "train|--preset|quick"),
        ("train --preset=qui", "train|--preset=quick"),
        ("train --set train.precision=bf", "train|--set|train.precision=bf16"),
        ("train --set data.source=ima", "train|--set|data.source=images/"),
        ("train --set data.source=fash", "train|--set|data.source=fashion-mnist"),
        ("train ima", "train|images/"),
        ("train oth", "train|other images/"),
        ("train fash", "train|fashion-mnist"),
        ("train --device cu", "train|--device|cuda"),
        ("train --callback mlf", "train|--callback|mlflow"),
        ("train --resume au", "train|--resume|auto"),
        ("train --resume runs/", "train|--resume|runs/00000-conv-mnist/"),
        ("train --config set", "train|--config|settings.toml"),
        ("train --config=set", "train|--config=settings.toml"),
        ("train images --nproc au", "train|images|--nproc|auto"),
        ("evaluate runs/000", "evaluate|runs/00000-conv-mnist/"),
        ("evaluate pre", "evaluate|pretrained"),
        ("evaluate x --set data.chan", "evaluate|x|--set|data.channels="),
        ("export images/ --format torchs", "export|images/|--format|torchscript"),
        ("package ima", "package|images/"),
        ("serve mod", "serve|model.mar"),
        ("serve digits=mod", "serve|digits=model.mar"),
        ("serve a=x b=pretr", "serve|a=x|b=pretrained"),
        ("completion fi", "completion|fish"),
    ],
)  # fmt: skip
def test_tab_completes_a_word(typed: str, completed: str, shell: InteractiveShell) -> None:
    expected = ["ganctl", *completed.split("|")]
    if shell.name == "zsh":  # which takes the slash away again when a line ends with it
        expected[-1] = expected[-1].removesuffix("/")
    assert shell.complete(f"ganctl {typed}") == expected


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("train other\\ i", "train|other images/"),
        ("train ~/ima", "train|~/images/"),
        ("train --set data.source=other\\ i", "train|--set|data.source=other images/"),
    ],
)
def test_tab_completes_a_quoted_word(typed: str, completed: str, shell: InteractiveShell) -> None:
    words = [word.replace("~", shell.home) for word in ["ganctl", *completed.split("|")]]
    assert [word.rstrip("/") for word in shell.complete(f"ganctl {typed}")] == [word.rstrip("/") for word in words]


def test_tab_completes_inside_quotes_and_after_a_command_with_a_tilde(shell: InteractiveShell) -> None:
    words = shell.complete("~/bin/ganctl train --preset qui")
    assert words[1:] == ["train", "--preset", "quick"]
    quote = "" if shell.name == "bash" else '"'  # bash closes the quote itself
    assert shell.complete('ganctl train "other i', then=quote)[2].rstrip("/") == "other images"


def test_a_value_follows_the_name_of_a_setting_without_a_space(shell: InteractiveShell) -> None:
    words = shell.complete("ganctl train --set train.prec", then="fp32")
    assert words == ["ganctl", "train", "--set", "train.precision=fp32"]


def test_an_empty_source_lists_runs_names_and_paths(shell: InteractiveShell) -> None:
    if shell.name == "zsh":
        pytest.skip("zsh lists completions on a terminal only")
    listed = {word.removesuffix("/") for word in shell.list_completions("ganctl evaluate ")}
    assert {"runs/00000-conv-mnist", "pretrained", "images", "other images", "model.mar"} <= listed


COMPLETED = (
    "ganctl tr", "ganctl train --pre", "ganctl train --preset ", "ganctl train --set train.", "ganctl train ",
    "ganctl train --callback ", "ganctl evaluate ", "ganctl export x --format ", "ganctl serve ", "ganctl sample x --l",
    "ganctl inspect x --set data.", "ganctl package x --for ", "ganctl deploy ", "ganctl bench ",
)  # fmt: skip


@pytest.mark.parametrize("line", COMPLETED)
def test_a_completion_imports_no_heavy_package_and_takes_300_milliseconds_of_the_processor_at_most(line: str) -> None:
    environment = {
        **os.environ,
        "_GANCTL_COMPLETE": "bash_complete",
        "COMP_LINE": line,
        "COMP_WORD": line.split(" ")[-1],
    }
    command = [sys.executable, "-X", "importtime", "-m", "ganctl"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip()
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert not imported & {"torch", "numpy", "pydantic", "PIL", "onnxruntime", "mlflow", "wandb"}
    before = os.times()
    subprocess.run([sys.executable, "-m", "ganctl"], env=environment, capture_output=True, check=True)
    after = os.times()  # a soak test limits the seconds of the clock
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    assert seconds < 0.3


def test_the_outline_of_settings_agrees_with_the_schema() -> None:
    assert {name: setting.description for name, setting in outline().items()} == dict(DESCRIPTIONS)
    assert outline()["train.cuda_graph"].choices == ("auto", "true", "false")


def test_the_default_of_completion_is_the_shell_of_the_user(ganctl: Ganctl) -> None:
    named = ganctl("completion", "fish")
    assert named.returncode == 0
    assert ganctl("completion", env={**os.environ, "SHELL": "/usr/bin/fish"}).stdout == named.stdout
    unknown = ganctl("completion", env={**os.environ, "SHELL": "/bin/tcsh"})
    assert unknown.returncode == 2
    assert "found tcsh, expected bash, zsh, fish" in unknown.stderr
