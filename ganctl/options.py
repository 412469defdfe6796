"""Option types and options that several commands share."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

PRETRAINED = "pretrained"  # the SOURCE name of the generator that ganctl contains


def expand_home(text: str) -> str:
    """Replaces `~` or `~user` at the start of a path by the home folder, unless a file has that name.

    A shell leaves `~` in `--out=~/x`, and a service manager starts commands without a shell.

    Raises:
        click.BadParameter: the home folder is unknown.
    """
    if not text.startswith("~") or os.path.lexists(text):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError as error:
        raise click.BadParameter(
            f"{text}: the home folder of {Path(text).parts[0]} is unknown. Give the whole path, from /."
        ) from error


# the address of a server, also with one slash or without the scheme
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+):(?://|/(?=[^/]))(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_HOST_AND_PORT = re.compile(r"(?P<scheme>)(?P<rest>(?:\[[0-9a-f:.]+\]|[\w.-]+):\d{1,5}(?:/.*)?)$", re.IGNORECASE)


class PathParam(click.Path):
    """A file or folder; `~` and `~user` at the start are home folders."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(expand_home(os.fspath(value)), param, ctx)


_RUNS_SHOWN = 50  # among the completions of a shell


def complete_path(*names: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]:
    """Returns a function for `shell_complete` that completes paths and the given names."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        named = [CompletionItem[str](name) for name in names if name.startswith(incomplete)]
        return [*named, CompletionItem(incomplete, type="file")]

    return complete


def complete_names(*names: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Returns a function for `shell_complete` that completes the given names."""
    return lambda ctx, param, incomplete: [name for name in names if name.startswith(incomplete)]


def complete_source(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Completes a SOURCE: `pretrained`, paths, and for an empty word the runs below `runs/`, the newest first."""
    folders: list[str] = []
    if not incomplete:  # `runs/` and what follows are completed as any path
        found = [str(path.parent) for path in Path("runs").glob("*/checkpoints")]
        folders = sorted(found, reverse=True)[:_RUNS_SHOWN]
    return complete_path(*folders, PRETRAINED)(ctx, param, incomplete)


def complete_named_source(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Completes SOURCE and NAME=SOURCE."""
    name, equals, source = incomplete.rpartition("=")
    items = complete_source(ctx, param, source)
    return [item if item.type == "file" else CompletionItem(name + equals + item.value) for item in items]


class SourceParam(click.ParamType[str]):
    """The path of a run, an export or the like, or `pretrained` if no file has that name.

    Args:
        servers: whether the URL of a server is accepted.
    """

    name = "path"

    def __init__(self, *, servers: bool = False) -> None:
        self._servers = servers

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if (url := _URL.match(value) or _HOST_AND_PORT.match(value)) is not None and not Path(value).exists():
            scheme = (url["scheme"] or "http").lower()
            url_text = f"{scheme}://{url['rest']}"
            if scheme not in ("http", "https"):
                self.fail(f"{value}: found the scheme {scheme}, expected a path or a URL of http or https.", param, ctx)
            if not self._servers:
                hint = f"`ganctl sample {url_text} --out images.npz` samples from a server"
                self.fail(f"{value}: found the address of a server, expected a path; {hint}.", param, ctx)
            if url_text.lower() != value.lower():
                self.fail(f"{value}: found no file of this name. Write a server's URL as {url_text}.", param, ctx)
            return url_text
        if value == PRETRAINED and not Path(value).exists():
            return str(Path(__file__).parent / "exports" / PRETRAINED)
        return expand_home(str(value))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        return complete_source(ctx, param, incomplete)


json_option = click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object on stdout.")
