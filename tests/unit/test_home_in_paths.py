"""`~` and `~user` in paths: the home folder, or an error that names the flag, setting or variable."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from ganctl.main import COMMANDS, cli
from ganctl.options import PathParam

UNKNOWN = "~nosuchuser/x"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes to an empty folder, in case a command creates a folder with the name `~nosuchuser`."""
    monkeypatch.chdir(tmp_path)


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, words)


def assert_unknown_home(result: Result, source: str, code: int) -> None:
    """The command failed with this exit code and a message that names the source of the path, and the user."""
    assert result.exit_code == code, result.output
    for fact in ("home folder", "~nosuchuser", source):
        assert fact in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("words", "source", "code"),
    [
        (("train", "--run-dir", UNKNOWN), "--run-dir", 2),
        (("train", "--config", UNKNOWN), "--config", 2),
        (("train", "--resume", UNKNOWN), "--resume", 2),
        (("train", "--init-from", UNKNOWN), "--init-from", 3),
        (("train", "--set", f"log.root={UNKNOWN}"), "log.root", 3),
        (("train", "--set", f"data.source={UNKNOWN}"), "data.source", 3),
        (("train", UNKNOWN), "DATA: data.source", 3),
        (("train", "--set", f"train.init_from={UNKNOWN}"), "train.init_from", 3),
        (("evaluate", UNKNOWN), "SOURCE", 2),
        (("evaluate", "pretrained", "--features", UNKNOWN), "--features", 2),
        (("evaluate", "pretrained", "--set", f"data.source={UNKNOWN}"), "data.source", 3),
        (("sample", "pretrained", "--out", f"{UNKNOWN}.png"), "--out", 2),
        (("inspect", UNKNOWN), "PATH", 2),
        (("export", UNKNOWN), "SOURCE", 2),
        (("export", "run", "--out", UNKNOWN), "--out", 2),
        (("package", UNKNOWN), "EXPORT_DIR", 2),
        (("package", "export", "--out", UNKNOWN), "--out", 2),
        (("serve", UNKNOWN), "SOURCE", 2),
        (("serve", "--access-log", UNKNOWN), "--access-log", 2),
        (("deploy", UNKNOWN), "SOURCE", 2),
        (("demo", "--out", UNKNOWN), "--out", 2),
    ],
)
def test_an_unknown_home_folder_is_an_error_that_names_the_flag_or_setting(
    words: tuple[str, ...], source: str, code: int
) -> None:
    assert_unknown_home(run(*words, *(["--dry-run"] if words[0] == "train" else [])), source, code)


@pytest.mark.parametrize(
    "variable", ["PATH_DATASETS", "GANCTL_DATA__SOURCE", "GANCTL_LOG__ROOT", "GANCTL_TRAIN__INIT_FROM"]
)
def test_an_unknown_home_folder_is_an_error_that_names_the_environment_variable(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, UNKNOWN)
    assert_unknown_home(run("train", "--dry-run"), variable, 3)


def test_a_tilde_that_the_shell_did_not_expand_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert run("sample", "pretrained", "--out=~/digits.png").exit_code == 0
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["digits.png"]


def test_an_existing_folder_whose_name_begins_with_a_tilde_is_used(tmp_path: Path) -> None:
    (tmp_path / "~run").mkdir()
    for words in (("inspect", "~run"), ("train", "--dry-run", "~run"), ("evaluate", "~run")):
        done = run(*words)
        assert done.exit_code == 4, done.output
        assert "~run" in done.output
        assert "home folder" not in done.output


def parameters_of(command: click.Command, name: str) -> list[tuple[str, click.ParamType[object]]]:
    """The names and types of the parameters of a command and its subcommands."""
    subcommands = command.commands.items() if isinstance(command, click.Group) else ()
    own = [(f"{name} {parameter.name}", parameter.type) for parameter in command.params]
    return [*own, *(each for key, sub in subcommands for each in parameters_of(sub, f"{name} {key}"))]


def test_every_path_parameter_of_every_command_expands_a_tilde() -> None:
    with click.Context(cli) as context:
        commands = {name: cli.get_command(context, name) for name in COMMANDS}
    parameters = [each for name, command in commands.items() if command for each in parameters_of(command, name)]
    paths = [(name, kind) for name, kind in parameters if isinstance(kind, click.Path)]
    assert len(paths) > 10
    assert [name for name, kind in paths if not isinstance(kind, PathParam)] == []
