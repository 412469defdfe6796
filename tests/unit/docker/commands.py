"""Parses the `ganctl` commands of images and manifests."""

from typing import Any

import click

from ganctl.main import cli


def parsed(arguments: list[str]) -> dict[str, Any]:
    """The parameters of a `ganctl` command, which is parsed and not run."""
    name, *rest = arguments
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command.make_context(name, rest).params
