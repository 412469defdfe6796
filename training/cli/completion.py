"""Completion of the values of `train`: presets, settings with their values, and callbacks; imports no torch."""

from pathlib import Path
from typing import Any, get_args

import click
from click.shell_completion import CompletionItem

from ganctl.options import PRETRAINED, complete_path, complete_source
from ganctl.training import config

# the names of the files, without the import of pydantic that reading one takes
PRESETS = ("auto", *sorted(path.stem for path in (Path(config.__file__).parent / "presets").glob("*.toml")))

NAMED_DATA = ("mnist", "fashion-mnist", "kmnist")  # as in the schema, without its import


def complete_resumed(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Completes `--resume`: auto, runs, and paths."""
    named = [CompletionItem("auto")] if "auto".startswith(incomplete) else []
    return named + [each for each in complete_source(ctx, param, incomplete) if each.value != PRETRAINED]


def complete_setting(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Completes `section.key=value`: first the key, after `=` the value, if it is one of a list, or a path."""
    from ganctl.training.config.schema import DESCRIPTIONS

    only_data = "data." in (param.metavar or "") if isinstance(param, click.Option) else False
    key, equals, value = incomplete.partition("=")
    if not equals:
        found = {name: text for name, text in DESCRIPTIONS.items() if name.startswith(key)}
        return [
            CompletionItem(f"{name}=", type="part", help=text)
            for name, text in found.items()
            if not only_data or name.startswith("data.")
        ]
    if key == "data.source":
        paths = complete_path(*NAMED_DATA)(ctx, param, value)
        return [each if each.type == "file" else CompletionItem(f"{key}={each.value}") for each in paths]
    return [CompletionItem(f"{key}={choice}") for choice in _choices(key) if choice.startswith(value)]


def _choices(key: str) -> list[str]:
    """Returns the values of a setting, if they are a list: those of a Literal, true and false."""
    from ganctl.training.config.schema import Config

    section, _, name = key.partition(".")
    annotation = Config.model_fields[section].annotation if section in Config.model_fields else None
    fields: dict[str, Any] = getattr(annotation, "model_fields", {})
    return list(dict.fromkeys(_literals(fields[name].annotation))) if name in fields else []


def _literals(annotation: Any) -> list[str]:
    if annotation is bool:
        return ["true", "false"]
    if str(annotation).startswith("typing.Literal"):
        return [str(value) for value in get_args(annotation)]
    return [each for part in get_args(annotation) if not isinstance(annotation, str) for each in _literals(part)]
