"""`~` and `~user` in any path: the home folder, or a message that names the flag, setting or variable."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from ganctl.main import COMMANDS, cli
from ganctl.options import PathParam

UNKNOWN = "~nosuchuser/x"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of that name must not be made in the project."""
    monkeypatch.chdir(tmp_path)


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, words)


@pytest.mark.parametrize(
    ("words", "names", "code"),
    [
        (("train", "--run-dir", UNKNOWN), "--run-dir", 2),
        (("train", "--config", UNKNOWN), "--config", 2),
        (("train", "--resume", UNKNOWN), "--resume", 2),
        (("train", "--init-from", UNKNOWN), "--init-from", 3),
        (("train", "--set", f"log.root={UNKNOWN}"), "log.root", 3),
        (("train", "--set", f"data.root={UNKNOWN}"), "data.root", 3),
        (("train", "--set", f"train.init_from={UNKNOWN}"), "train.init_from", 3),
        (("evaluate", UNKNOWN), "SOURCE", 2),
        (("evaluate", "pretrained", "--features", f"inception={UNKNOWN}"), "--features", 2),
        (("evaluate", "pretrained", "--set", f"data.root={UNKNOWN}"), "data.root", 3),
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
def test_an_unknown_home_is_told_with_the_name_of_what_gave_it(words: tuple[str, ...], names: str, code: int) -> None:
    done = run(*words, *(["--dry-run"] if words[0] == "train" else []))
    assert done.exit_code == code, done.output
    assert "the home folder of ~nosuchuser is unknown" in done.output
    assert names in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("variable", "code"),
    [("PATH_DATASETS", 3), ("GANCTL_DATA__ROOT", 3), ("GANCTL_LOG__ROOT", 3), ("GANCTL_TRAIN__INIT_FROM", 3)],
)
def test_a_variable_is_named_too(variable: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, UNKNOWN)
    done = run("train", "--dry-run")
    assert done.exit_code == code
    assert variable in done.output
    assert "the home folder of ~nosuchuser is unknown" in done.output


def test_the_home_folder_is_meant_where_the_shell_has_left_its_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert run("sample", "pretrained", "--out=~/digits.png").exit_code == 0
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["digits.png"]


def test_a_file_of_that_very_name_is_meant_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "~run").mkdir()
    done = run("inspect", "~run")
    assert done.exit_code == 4
    assert "~run: found neither checkpoints/ nor manifest.json" in done.output


def path_parameters(command: click.Command, name: str) -> list[tuple[str, click.ParamType[object]]]:
    inner = command.commands.items() if isinstance(command, click.Group) else ()
    found = [(f"{name} {parameter.name}", parameter.type) for parameter in command.params]
    return [*found, *(each for key, sub in inner for each in path_parameters(sub, f"{name} {key}"))]


def test_every_parameter_that_is_a_path_reads_the_sign() -> None:
    with click.Context(cli) as context:
        commands = {name: cli.get_command(context, name) for name in COMMANDS}
    parameters = [each for name, command in commands.items() if command for each in path_parameters(command, name)]
    paths = [(name, kind) for name, kind in parameters if isinstance(kind, click.Path)]
    assert len(paths) > 10
    assert [name for name, kind in paths if not isinstance(kind, PathParam)] == []
