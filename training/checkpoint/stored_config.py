"""Reads the settings stored in a checkpoint, which another version of ganctl may have written.

Each command reads only the settings that it needs: `sample` those of the generator, `evaluate` also those of the data,
and only a resumed run all of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import ValidationError

from ganctl.training.checkpoint.format import LoadedCheckpoint
from ganctl.training.config.registry import REGISTRIES
from ganctl.training.config.resolve import suggest
from ganctl.training.config.schema import Config, DataSettings, ModelSettings, Section, setting_descriptions
from ganctl.training.errors import VersionError

_GENERATOR_KEYS = ("generator", "latent_dim", "base_channels", "generator_base_channels", "conditional", "options")
_DISCRIMINATOR_KEYS = ("conditioning", "spectral_norm")  # in addition to all that start with "discriminator"
_IMAGE_KEYS = ("name", "root", "size", "channels", "skip_corrupt")

S = TypeVar("S", bound=Section)


def generator_settings(checkpoint: LoadedCheckpoint) -> ModelSettings:
    """Reads the settings of the generator; those of the discriminator are the defaults.

    Raises:
        VersionError: this version does not know one of the settings, or its value.
    """
    stored = {
        key: value
        for key, value in _section(checkpoint, "model").items()
        if not key.startswith("discriminator") and key not in _DISCRIMINATOR_KEYS
    }
    settings, faults = _read(ModelSettings, "model", stored, known=_GENERATOR_KEYS)
    if faults:
        raise VersionError(checkpoint.path, checkpoint.version, faults)
    return settings


def data_settings(checkpoint: LoadedCheckpoint) -> tuple[DataSettings, VersionError | None]:
    """Reads the settings that identify the training images; the error is not raised, as a command may not need them."""
    settings, faults = read_data_settings(_section(checkpoint, "data"))
    return settings, VersionError(checkpoint.path, checkpoint.version, faults) if faults else None


def read_data_settings(stored: Mapping[str, Any]) -> tuple[DataSettings, list[str]]:
    """Reads the settings that identify the images from the stored section `data`; returns them and all faults."""
    settings, faults = _read(
        DataSettings, "data", {key: value for key, value in stored.items() if key in _IMAGE_KEYS}, known=_IMAGE_KEYS
    )
    if not stored.get("name"):
        faults = ["data.name is missing."]
    return settings, [f"{fault} Name the images by --set data.name=…." for fault in faults]


def resumed_settings(checkpoint: LoadedCheckpoint) -> tuple[dict[str, Any], list[str]]:
    """Reads all settings of a resumed run; returns the valid ones by section, and the faults of the others."""
    valid: dict[str, Any] = {"preset": str(_config(checkpoint).get("preset", Config().preset))}
    faults = []
    for section in _config(checkpoint).keys() - {"preset"}:
        field = Config.model_fields.get(section)
        stored = _section(checkpoint, section)
        if field is None:
            faults += [_unknown(f"{section}.{key}", value) for key, value in stored.items()]
            continue
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, Section)
        _, section_faults = _read(field.annotation, section, stored, known=field.annotation.model_fields, valid=valid)
        faults += section_faults
    return valid, sorted(faults)


def missing_settings(checkpoint: LoadedCheckpoint) -> list[str]:
    """The settings of this version that the checkpoint lacks."""
    sections = _config(checkpoint).keys() - {"preset"}
    stored = {f"{section}.{key}" for section in sections for key in _section(checkpoint, section)}
    return [name for name, _ in setting_descriptions() if name not in stored]


@contextmanager
def version_errors(checkpoint: LoadedCheckpoint) -> Iterator[None]:
    """Converts lookup errors in a state of another structure to a VersionError."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise VersionError(checkpoint.path, checkpoint.version, [f"it has another structure ({error!r})."]) from error


def _read(
    kind: type[S], section: str, stored: Mapping[str, Any], *, known: Iterable[str], valid: dict[str, Any] | None = None
) -> tuple[S, list[str]]:
    """Reads the settings of a section; returns them, with defaults for the faulty ones, and the faults.

    The valid settings are also stored in `valid[section]`.
    """
    faults = [_unknown(f"{section}.{key}", value) for key, value in stored.items() if key not in set(known)]
    values = {key: value for key, value in stored.items() if key in set(known)}
    for registry in REGISTRIES:
        key = registry.setting.partition(".")[2]
        name = values.get(key) if registry.setting == f"{section}.{key}" else None
        if isinstance(name, str) and not registry.accepts(name):
            hint = suggest(name, registry.names())
            expected = ", ".join(registry.names())
            faults.append(f"{section}.{key} = {name!r} is unknown in this version, expected one of {expected}.{hint}")
            del values[key]
    while True:
        try:
            settings = kind.model_validate(values)
        except ValidationError as error:
            for key, message in {str(each["loc"][0]): each["msg"] for each in error.errors()}.items():
                faults.append(f"{section}.{key} = {values.pop(key)!r} is invalid in this version: {message}.")
        else:
            if valid is not None:
                valid[section] = values
            return settings, faults


def _unknown(name: str, value: Any) -> str:
    known = [setting for setting, _ in setting_descriptions()]
    return f"{name} = {value!r} is no setting of this version.{suggest(name, known)}"


def _config(checkpoint: LoadedCheckpoint) -> Mapping[str, Any]:
    config = checkpoint.state.get("config")
    if not isinstance(config, Mapping):
        raise VersionError(checkpoint.path, checkpoint.version, ["it holds no settings."])
    return config


def _section(checkpoint: LoadedCheckpoint, name: str) -> Mapping[str, Any]:
    section = _config(checkpoint).get(name, {})
    return section if isinstance(section, Mapping) else {name: section}
