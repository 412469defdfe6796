"""Resolution of settings: defaults < preset < config file < environment < flags.

Most presets are TOML files. The values of the preset `auto` follow from facts about the data and the machine: a
callable gives them when the other sources have been read. `resolve` returns the configuration and the source of each
setting. One ConfigError reports all errors of all sources.
"""

import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ganctl import __version__
from ganctl.files import read_file
from ganctl.training.config.environment import PREFIX, parse_value, read_environment
from ganctl.training.config.registry import DATASETS, REGISTRIES, suggest
from ganctl.training.config.schema import (
    DESCRIPTIONS,
    REPLACED_BY_SOURCE,
    Config,
    absolute_source,
    replaced_by_source,
)
from ganctl.training.config.toml_text import UNSET, decode_text, parse_toml, settings_toml
from ganctl.training.errors import ConfigError
from ganctl.versions import written_by

Values = dict[str, Any]
AUTO = "auto"  # the preset without a file
STORED = "the run's checkpoint"  # the source of the settings of a resumed run
_PRESETS = Path(__file__).with_name("presets")
_HEADER = "# Written by ganctl "  # first line of a written file; the version follows
_SOURCE_WIDTH = 22  # characters before a description


def preset_names() -> list[str]:
    """Returns the names of the presets that are files, sorted: all but `auto`."""
    return sorted(path.stem for path in _PRESETS.glob("*.toml"))


def preset_text(name: str) -> str:
    """Returns the TOML text of a preset."""
    return (_PRESETS / f"{name}.toml").read_text("utf-8")


def preset_values(name: str) -> Values:
    """Returns `section.key` → value of a preset that is a file."""
    return _flatten(tomllib.loads(preset_text(name)))


def resolve(
    *,
    preset: str | None = None,
    config_file: Path | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, tuple[str, Any]] | None = None,
    environment: Mapping[str, str] | None = None,
    stored: Mapping[str, Any] | None = None,
    auto: Callable[[Config, Mapping[str, str]], Values] | None = None,
) -> tuple[Config, dict[str, str]]:
    """Merges the settings of all sources; a later source overrides an earlier one.

    Args:
        preset: name of a preset; None: the environment's, the config file's or the stored one, else `auto` if `auto`
            is given and `conv` if not.
        config_file: TOML file with the tables of a preset.
        assignments: `section.key=value` as given to --set; a value that is not TOML is text.
        flags: `section.key` → (flag as typed, value) for the given flags.
        environment: variables to read instead of those of the process.
        stored: settings of the run to continue; they replace its preset.
        auto: gives the values of the preset `auto` from the configuration without them and its sources. None: `auto`
            sets nothing, for commands that read only the settings of the data.

    Returns:
        The configuration, and `section.key` → source.

    Raises:
        ConfigError: lists the errors of all sources.
    """
    errors: list[str] = []
    file_values, file_version = _read_file(config_file, errors) if config_file else ({}, "")
    variables = os.environ if environment is None else environment
    presets = (
        ("--preset", preset),
        (f"{PREFIX}PRESET", variables.get(f"{PREFIX}PRESET")),
        (str(config_file), file_values.pop("preset", None)),
        (STORED, stored["preset"] if stored else None),
        ("default", "conv" if auto is None else AUTO),
    )
    preset_source, preset_name = next((source, str(name)) for source, name in presets if name)
    if stored and preset_name == stored["preset"]:
        preset_layer = (STORED, _flatten({k: v for k, v in stored.items() if k != "preset"}))
        auto = None  # it has decided when the run started
    else:
        preset_layer = (f"preset {preset_name}", _read_preset(preset_name, preset_source, errors))
    layers: list[tuple[str, Values]] = [(str(config_file), file_values)]
    layers += [(variable, {name: value}) for variable, name, value in read_environment(variables, errors)]
    layers += [_read_assignment(assignment, errors) for assignment in assignments]
    layers += [(flag, {name: value}) for name, (flag, value) in (flags or {}).items()]

    try:
        config, sources = _merge(preset_name, preset_source, [preset_layer, *layers], errors)
        if preset_name == AUTO and auto is not None:
            preset_layer = (preset_layer[0], auto(config, sources))
            config, sources = _merge(preset_name, preset_source, [preset_layer, *layers], errors)
    except ConfigError as error:
        noted = f"{config_file}:{file_version} "
        raise ConfigError([each.replace(f"{config_file}: ", noted, 1) for each in error.errors]) from error
    return config, sources


def mark_resolved(sources: Mapping[str, str], given: Config, resolved: Config) -> dict[str, str]:
    """Adds a note to the source of each setting that the data or the machine decided at the start, such as `auto`."""
    before = given.flat()
    changed = {name for name, value in resolved.flat().items() if value != before[name]}
    return {name: f"{text}; resolved at the start" if name in changed else text for name, text in sources.items()}


def _merge(
    preset: str, preset_source: str, layers: Sequence[tuple[str, Values]], errors: Sequence[str]
) -> tuple[Config, dict[str, str]]:
    """Merges layers of (source, values); a later one overrides an earlier one.

    Raises:
        ConfigError: lists `errors` and those of the layers.
    """
    errors = [*errors]
    values: Values = {}
    replaced: dict[str, tuple[str, Any]] = {}
    sources = {"preset": preset_source} | dict.fromkeys(DESCRIPTIONS, "default")
    for source, layer in layers:
        for name, value in layer.items():
            if name in DESCRIPTIONS:
                values[name], sources[name] = None if value == UNSET else value, source
            elif name in REPLACED_BY_SOURCE:
                replaced[name] = (source, value)
            else:
                errors.append(f"{source}: unknown setting '{name}'.{suggest(name, DESCRIPTIONS)}")
    if replaced:
        finding, replacement = replaced_by_source({name: value for name, (_, value) in replaced.items()})
        given_by = ", ".join(dict.fromkeys(source for source, _ in replaced.values()))
        errors.append(f"{given_by}: {finding}. Give {replacement} instead.")
    config = _validate(preset, values, sources, errors)
    errors += _unknown_names(values, sources)
    if errors or config is None:
        raise ConfigError(errors)
    return config, sources


def _validate(preset: str, values: Values, sources: dict[str, str], errors: list[str]) -> Config | None:
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
            errors.append(f"{sources.get(name, 'default')}: {name} = {found!r}: {message}.{hint}")
        return None


def _unknown_names(values: Values, sources: Mapping[str, str]) -> list[str]:
    """Reports settings that name an unregistered entry."""
    errors = []
    for registry in REGISTRIES:
        name = values.get(registry.setting)
        if not isinstance(name, str) or (registry is DATASETS and _is_path(name)):
            continue  # _validate reports other types; a path is opened later
        try:
            registry.get(name)
        except ConfigError as error:
            errors += [f"{sources[registry.setting]}: {message}" for message in error.errors]
    return errors


def _is_path(source: str) -> bool:
    """Returns whether a data source is a path, perhaps one that `_validate` reports as invalid."""
    try:
        return Path(absolute_source(source)).is_absolute()
    except ValueError:
        return True


def _read_preset(name: str, source: str, errors: list[str]) -> Values:
    if name == AUTO:
        return {}
    names = [AUTO, *preset_names()]
    if name not in names:
        expected = f"expected the name of a preset: {', '.join(names)}"
        errors.append(f"{source}: unknown preset '{name}', {expected}.{suggest(name, names)}")
        return {}
    return preset_values(name)


def _read_file(path: Path, errors: list[str]) -> tuple[Values, str]:
    """Reads a config file; returns its values, and a note for messages if another ganctl version wrote it."""
    try:
        text = decode_text(read_file(path))
        header = text.partition("\n")[0]
        version = written_by(header.removeprefix(_HEADER).strip()) if header.startswith(_HEADER) else ""
        return _flatten(parse_toml(text)), version
    except OSError as error:
        errors.append(f"--config {path}: {error.strerror}; expected a TOML file such as a preset.")
    except ValueError as error:
        errors.append(f"--config {path}: {error}.")
    return {}, ""


def _flatten(tree: Mapping[str, Any]) -> Values:
    values: Values = {}
    for section, content in tree.items():
        if isinstance(content, Mapping):
            values |= {f"{section}.{key}": value for key, value in content.items()}
        else:
            values[section] = content
    return values


def _read_assignment(assignment: str, errors: list[str]) -> tuple[str, Values]:
    name, equals, text = assignment.partition("=")
    if not equals or not name.strip():
        errors.append(f"--set {assignment}: expected section.key=value, such as train.seed=1.")
        return "--set", {}
    return "--set", {name.strip(): parse_value(name.strip(), text)}


def config_toml(config: Config, sources: Mapping[str, str] | None = None) -> str:
    """Formats settings as TOML for `--config`; `sources` adds each source and description as a comment."""
    base = Config().flat()  # of an unknown preset of another version, too
    if config.preset == AUTO:
        for name in preset_names():  # auto may set what any of them sets: no such setting is left out of the file
            base |= preset_values(name)
    elif config.preset in preset_names():
        base |= preset_values(config.preset)
    descriptions = {"preset": "preset that the settings are based on", **DESCRIPTIONS}
    comments = {name: f"{source:{_SOURCE_WIDTH}} {descriptions[name]}" for name, source in (sources or {}).items()}
    values = {"preset": config.preset, **config.flat()}
    return f"{_HEADER}{__version__}\n{settings_toml(values, base, comments)}"
