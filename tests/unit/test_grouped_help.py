"""The help of a long command lists each option once, below the heading of its group."""

import re

import click
import pytest
from click.testing import CliRunner

from ganctl.grouped_command import GroupedCommand
from ganctl.main import cli


@pytest.mark.parametrize("name", ["train", "serve"])
def test_help_lists_each_option_once_below_a_heading(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert isinstance(command, GroupedCommand)
    text = CliRunner().invoke(command, ["--help"], prog_name=f"ganctl {name}").output
    sections = dict(re.findall(r"^(\w[\w ]+):\n((?:  .*\n|\n)+)", text, re.MULTILINE))
    assert [heading for heading in sections if heading != "Usage"] == [*command.groups, "Options"]
    listed = {heading: re.findall(r"^  (?:-\w, )?(--[\w-]+)", body, re.MULTILINE) for heading, body in sections.items()}
    assert listed.pop("Options") == ["--help"], "a new option needs a group"
    assert listed == {heading: list(flags) for heading, flags in command.groups.items()}
    shown = [option.opts[0] for option in command.params if isinstance(option, click.Option) and not option.hidden]
    assert sorted(flag for flags in listed.values() for flag in flags) == sorted(shown)


def test_a_group_of_an_unknown_option_is_an_error() -> None:
    with pytest.raises(ValueError, match="found --sped, expected flags of the command, each once"):
        GroupedCommand("walk", params=[click.Option(["--speed"])], groups={"Motion": ["--sped"]})


def test_a_group_whose_options_are_all_hidden_has_no_heading() -> None:
    command = GroupedCommand("walk", params=[click.Option(["--speed"], hidden=True)], groups={"Motion": ["--speed"]})
    done = CliRunner().invoke(command, ["--help"])
    assert (done.exit_code, "Motion" in done.output) == (0, False)
