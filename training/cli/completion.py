"""Completion of the values of `train`: presets, settings with their values, and callbacks; imports no torch."""

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from ganctl.options import PRETRAINED, complete_path, complete_source
from ganctl.training import config
from ganctl.training.config.outline import outline

# the names of the files, without the import of pydantic that reading one takes
PRESETS = ("auto", *sorted(path.stem for path in (Path(config.__file__).parent / "presets").glob("*.toml")))

NAMED_DATA = ("mnist", "fashion-mnist", "kmnist")  # as in the schema, without its import


def complete_resumed(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Completes `--resume`: auto, runs, and paths."""
    named = [CompletionItem("auto")] if "auto".startswith(incomplete) else []
    return named + [each for each in complete_source(ctx, param, incomplete) if each.value != PRETRAINED]


def complete_setting(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Completes `section.key=value`: first the key, after `=` the value, if it is one of a list, or a path."""
    key, equals, value = incomplete.partition("=")
    if equals and key == "data.source":
        paths = complete_path(*NAMED_DATA)(ctx, param, value)
        return [each if each.type == "file" else CompletionItem(f"{key}={each.value}") for each in paths]
    settings = outline()
    if equals:
        choices = settings[key].choices if key in settings else ()
        return [CompletionItem(f"{key}={choice}") for choice in choices if choice.startswith(value)]
    return [
        CompletionItem(f"{name}=", type="part", help=setting.description)
        for name, setting in settings.items()
        if name.startswith(key)
    ]


def complete_data_setting(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Completes `data.key=value`, for the commands that take only settings of the data."""
    items = complete_setting(ctx, param, incomplete)
    return [item for item in items if item.type == "file" or item.value.startswith("data.")]
