"""Reads the settings stored in a checkpoint, which another version of ganctl may have written.

Each command reads only the settings that it needs: `sample` those of the generator, `evaluate` also those of the data,
and only a resumed run all of them.
"""

import re
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from ganctl.training.checkpoint.format import LoadedCheckpoint
from ganctl.training.config.registry import REGISTRIES, suggest
from ganctl.training.config.schema import (
    DESCRIPTIONS,
    REPLACED_BY_SOURCE,
    Config,
    DataSettings,
    ModelSettings,
    Section,
    replaced_by_source,
)
from ganctl.training.errors import VersionError

_GENERATOR_KEYS = (
    "generator", "latent_dim", "base_channels", "generator_base_channels", "generator_depth", "conditional", "options",
)  # fmt: skip
_DISCRIMINATOR_KEY = re.compile(r"discriminator.*|conditioning|spectral_norm")
_IMAGE_KEYS = ("source", "size", "channels", "fit", "skip_corrupt", "license", "attribution")

# settings that a resumed run may change: they affect neither the weights nor the scores
_MAY_CHANGE = (
    "log.", "early_stopping.", "checkpoint.save_top_k", "checkpoint.save_last", "checkpoint.every",
    "checkpoint.filename", "train.duration", "train.init_from", "train.cuda_graph", "data.source", "data.license",
    "data.attribution", "data.num_workers", "data.on_device",
)  # fmt: skip


def changed_settings(previous: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Lists the changed settings that may affect the weights or the scores, as `section.key`."""
    names = (name for name in current if not name.startswith(_MAY_CHANGE))
    return [name for name in names if current[name] != previous.get(name)]


def generator_settings(checkpoint: LoadedCheckpoint) -> ModelSettings:
    """Reads the settings of the generator; those of the discriminator are the defaults.

    Raises:
        VersionError: this version does not know one of the settings, or its value.
    """
    section = _section(checkpoint, "model")
    stored = {key: value for key, value in section.items() if not _DISCRIMINATOR_KEY.fullmatch(key)}
    return _read_model_settings(checkpoint, stored, _GENERATOR_KEYS)


def model_settings(checkpoint: LoadedCheckpoint) -> ModelSettings:
    """Reads the settings of both networks.

    Raises:
        VersionError: this version does not know one of the settings, or its value.
    """
    return _read_model_settings(checkpoint, _section(checkpoint, "model"), ModelSettings.model_fields)


def _read_model_settings(
    checkpoint: LoadedCheckpoint, stored: Mapping[str, Any], known: Container[str]
) -> ModelSettings:
    values, errors = _valid_values(ModelSettings, "model", stored, known=known)
    if errors:
        raise VersionError(checkpoint.path, checkpoint.version, errors)
    return ModelSettings.model_validate(values)


def data_settings(checkpoint: LoadedCheckpoint) -> tuple[DataSettings, VersionError | None]:
    """Reads the settings that identify the training images; the error is not raised, as a command may not need them."""
    settings, errors = read_data_settings(_section(checkpoint, "data"))
    return settings, VersionError(checkpoint.path, checkpoint.version, errors) if errors else None


def read_data_settings(stored: Mapping[str, Any]) -> tuple[DataSettings, list[str]]:
    """Reads the settings that identify the images from the stored section `data`.

    Returns:
        The settings, with defaults for the invalid ones.
        The errors.
    """
    image_settings = {key: value for key, value in stored.items() if key in _IMAGE_KEYS}
    values, errors = _valid_values(DataSettings, "data", image_settings, known=_IMAGE_KEYS)
    if stored.get("source"):
        errors = [f"{error} Name the images by --set data.source=…." for error in errors]
    elif replaced := _replaced("data", stored):
        finding, replacement = replaced_by_source(replaced)
        errors = [f"{finding}. Give --set {replacement}."]
    else:
        errors = ["data.source is missing. Name the images by --set data.source=…."]
    return DataSettings.model_validate(values), errors


def resumed_settings(checkpoint: LoadedCheckpoint) -> tuple[dict[str, Any], list[str]]:
    """Reads all settings of a resumed run; returns the valid ones by section, and the errors of the others."""
    valid: dict[str, Any] = {"preset": str(_config(checkpoint).get("preset", Config().preset))}
    errors = []
    for section in _config(checkpoint).keys() - {"preset"}:
        stored = _section(checkpoint, section)
        if section in Config.model_fields:
            model: type[Section] = type(getattr(Config(), section))
            valid[section], section_errors = _valid_values(model, section, stored, known=model.model_fields)
            errors += section_errors
        else:
            errors += [_unknown(f"{section}.{key}", value) for key, value in stored.items()]
    return valid, sorted(errors)


def missing_settings(checkpoint: LoadedCheckpoint) -> list[str]:
    """The settings of this version that the checkpoint lacks."""
    sections = _config(checkpoint).keys() - {"preset"}
    stored = {f"{section}.{key}" for section in sections for key in _section(checkpoint, section)}
    return [name for name in DESCRIPTIONS if name not in stored]


@contextmanager
def version_errors(checkpoint: LoadedCheckpoint) -> Iterator[None]:
    """Converts lookup errors in a state of another structure to a VersionError."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise VersionError(checkpoint.path, checkpoint.version, [f"it has another structure ({error!r})."]) from error


def _valid_values(
    model: type[Section], section: str, stored: Mapping[str, Any], *, known: Container[str]
) -> tuple[dict[str, Any], list[str]]:
    """Returns the valid settings of a stored section, and the errors of the others."""
    replaced = _replaced(section, stored)
    unknown = {f"{section}.{key}": value for key, value in stored.items() if key not in known}
    errors = [_unknown(name, value) for name, value in unknown.items() if name not in replaced]
    if replaced:
        finding, replacement = replaced_by_source(replaced)
        errors.append(f"{finding}. Give {replacement}.")
    values = {key: value for key, value in stored.items() if key in known}
    for registry in REGISTRIES:
        key = registry.setting.removeprefix(f"{section}.")
        name = values.get(key)
        if isinstance(name, str) and not registry.accepts(name):
            hint = suggest(name, registry.names())
            expected = ", ".join(registry.names())
            errors.append(f"{section}.{key} = {name!r} is unknown in this version, expected one of {expected}.{hint}")
            del values[key]
    while True:
        try:
            model.model_validate(values)
            return values, errors
        except ValidationError as error:
            for key, message in {str(each["loc"][0]): each["msg"] for each in error.errors()}.items():
                errors.append(f"{section}.{key} = {values.pop(key)!r} is invalid in this version: {message}.")


def _replaced(section: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the stored values of the settings that `data.source` has replaced."""
    values = {f"{section}.{key}": value for key, value in stored.items()}
    return {name: values[name] for name in REPLACED_BY_SOURCE if name in values}


def _unknown(name: str, value: Any) -> str:
    return f"{name} = {value!r} is no setting of this version.{suggest(name, DESCRIPTIONS)}"


def _config(checkpoint: LoadedCheckpoint) -> Mapping[str, Any]:
    config = checkpoint.state.get("config")
    if not isinstance(config, Mapping):
        raise VersionError(checkpoint.path, checkpoint.version, ["it holds no settings."])
    return config


def _section(checkpoint: LoadedCheckpoint, name: str) -> Mapping[str, Any]:
    section = _config(checkpoint).get(name, {})
    return section if isinstance(section, Mapping) else {name: section}
