"""Where settings come from: defaults < preset < --config < environment < flags, with every fault told at once.

`resolve` gives the configuration and, for each setting, the name of the source that set it.
"""

import difflib
import importlib.resources
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ganctl import __version__
from ganctl.files import read_file
from ganctl.training.config.environment import PREFIX, parse_value, read_environment
from ganctl.training.config.registry import REGISTRIES
from ganctl.training.config.schema import Config, setting_names
from ganctl.training.config.toml_text import UNSET, decode_text, parse_toml, settings_toml
from ganctl.training.errors import ConfigError
from ganctl.versions import written_by

Values = dict[str, Any]
_WRITER = "# Written by ganctl "  # the first line of a file of settings, before the version


def preset_names() -> list[str]:
    """The presets that come with the package."""
    folder = importlib.resources.files("ganctl.training.config") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def preset_text(name: str) -> str:
    """The TOML of a preset, for a user to copy and own."""
    return (importlib.resources.files("ganctl.training.config") / "presets" / f"{name}.toml").read_text("utf-8")


def resolve(
    *,
    preset: str | None = None,
    config_file: Path | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, tuple[str, Any]] | None = None,
    environment: Mapping[str, str] | None = None,
    stored: Mapping[str, Any] | None = None,
) -> tuple[Config, dict[str, str]]:
    """Puts the settings together.

    Args:
        preset: name of a preset; None leaves the choice to the config file's `preset`, else `conv`.
        config_file: a TOML file with tables as in a preset.
        assignments: `section.key=value` as given to --set; values are TOML, or text where they are not.
        flags: `section.key` → (flag as typed, value) for the flags that were given.
        environment: variables to read instead of the process's own.
        stored: the settings of the run that is continued; they take the place of the default preset.

    Returns:
        The configuration, and for each `section.key` where its value came from.

    Raises:
        ConfigError: with every fault of every source.
    """
    faults: list[str] = []
    layers: list[tuple[str, Values]] = []
    from_file, writer = _read_file(config_file, faults) if config_file else ({}, "")
    variables = os.environ if environment is None else environment
    chosen, chooser = "conv", "default"
    for source, name in (
        ("the run's checkpoint", stored["preset"] if stored else None),
        (str(config_file), from_file.pop("preset", None)),
        (f"{PREFIX}PRESET", variables.get(f"{PREFIX}PRESET")),
        ("--preset", preset),
    ):
        if isinstance(name, str) and name:
            chosen, chooser = name, source
        elif name:
            faults.append(f"{source}: preset = {name!r}: expected the name of a preset.")
    if stored and chosen == stored["preset"]:
        layers.append(("the run's checkpoint", _flatten({k: v for k, v in stored.items() if k != "preset"})))
    else:
        layers.append((f"preset {chosen}", _read_preset(chosen, chooser, faults)))
    if config_file:
        layers.append((str(config_file), from_file))
    layers += [
        (variable, {name: parse_value(name, text)}) for variable, name, text in read_environment(variables, faults)
    ]
    layers += [_read_assignment(assignment, faults) for assignment in assignments]
    layers += [(flag, {name: value}) for name, (flag, value) in (flags or {}).items()]

    known = [name for name, _ in setting_names()]
    values: Values = {}
    sources = {"preset": chooser} | dict.fromkeys(known, "default")
    for source, layer in layers:
        for name, value in layer.items():
            if name in known:
                values[name], sources[name] = None if value == UNSET else value, source
            else:
                faults.append(f"{source}: unknown setting '{name}'.{suggest(name, known)}")
    config = _validate(chosen, values, sources, faults)
    faults += _unknown_names(values, sources)
    if faults or config is None:
        raise ConfigError([fault.replace(f"{config_file}: ", f"{config_file}:{writer} ", 1) for fault in faults])
    return config, sources


def suggest(word: str, choices: Sequence[str]) -> str:
    """A hint that names the closest choices, empty where nothing comes close."""
    key = word.rsplit(".", 1)[-1]  # it alone may be right, the section wrong or absent
    close = [choice for choice in choices if "." in choice and choice.rsplit(".", 1)[-1] == key][:2]
    close = close or difflib.get_close_matches(word, choices, n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def _validate(preset: str, values: Values, sources: dict[str, str], faults: list[str]) -> Config | None:
    tree: dict[str, Any] = {"preset": preset}
    for name, value in values.items():
        section, key = name.split(".")
        tree.setdefault(section, {})[key] = value
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        details: dict[str, list[Any]] = {}
        for detail in error.errors():  # a union reports each of its branches
            details.setdefault(".".join(str(part) for part in detail["loc"][:2]), []).append(detail)
        for name, branches in details.items():
            messages = [branch["msg"].removeprefix("Value error, ") for branch in branches]
            expected = ", ".join(branch.get("ctx", {}).get("expected", "") for branch in branches)
            found = branches[0]["input"]
            hint = suggest(str(found), [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")])
            message = "; or ".join(dict.fromkeys(messages))
            faults.append(f"{sources.get(name, 'default')}: {name} = {found!r}: {message}.{hint}")
        return None


def _unknown_names(values: Values, sources: Mapping[str, str]) -> list[str]:
    """What a setting names and nobody has registered."""
    faults = []
    for registry in REGISTRIES:
        name = values.get(registry.setting)
        if isinstance(name, str):  # anything else is a fault that has been told
            try:
                registry.get(name)
            except ConfigError as error:
                faults += [f"{sources[registry.setting]}: {fault}" for fault in error.faults]
    return faults


def _read_preset(name: str, source: str, faults: list[str]) -> Values:
    names = preset_names()
    if name not in names:
        faults.append(f"{source}: unknown preset '{name}'; there are {', '.join(names)}.{suggest(name, names)}")
        return {}
    return _flatten(tomllib.loads(preset_text(name)))


def _read_file(path: Path, faults: list[str]) -> tuple[Values, str]:
    """The values of a config file; and, for messages, the versions where another version of ganctl wrote it."""
    try:
        text = decode_text(read_file(path))
        first = text.partition("\n")[0]
        writer = written_by(first.removeprefix(_WRITER).strip()) if first.startswith(_WRITER) else ""
        return _flatten(parse_toml(text)), writer
    except OSError as error:
        faults.append(f"--config {path}: {error.strerror}; expected a TOML file such as a preset.")
    except ValueError as error:
        faults.append(f"--config {path}: {error}.")
    return {}, ""


def _flatten(tree: Mapping[str, Any]) -> Values:
    values: Values = {}
    for section, content in tree.items():
        if isinstance(content, Mapping):
            values |= {f"{section}.{key}": value for key, value in content.items()}
        else:
            values[section] = content
    return values


def _read_assignment(assignment: str, faults: list[str]) -> tuple[str, Values]:
    name, equals, text = assignment.partition("=")
    if not equals or not name.strip():
        faults.append(f"--set {assignment}: expected section.key=value, such as train.seed=1.")
        return "--set", {}
    return "--set", {name.strip(): parse_value(name.strip(), text)}


def config_toml(config: Config, sources: Mapping[str, str] | None = None) -> str:
    """The settings as a TOML file for `--config`; with `sources` each has its source and meaning as a comment."""
    known = config.preset in preset_names()  # not where another version made the run
    base = resolve(preset=config.preset, environment={})[0] if known else Config()
    values = {"preset": config.preset, **config.flat()}
    meanings = {"preset": "the preset that the settings start from", **dict(setting_names())}
    return f"{_WRITER}{__version__}\n" + settings_toml(values, base.flat(), sources, meanings if sources else None)


def configure(preset: str | None = None, settings: Mapping[str, Any] | None = None) -> Config:
    """The settings of a preset with some changed, for Python: `configure("conv", {"train.duration": "1 epochs"})`.

    Raises:
        ConfigError: with every fault.
    """
    config, _ = resolve(preset=preset, flags={name: ("configure", value) for name, value in (settings or {}).items()})
    return config
