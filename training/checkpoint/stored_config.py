"""The settings in a checkpoint, which another version of ganctl may have written: read as far as they are needed.

Drawing needs the settings of the generator, an evaluation those of the data as well, and only a resumed run needs all.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import ValidationError

from ganctl.training.checkpoint.format import Saved
from ganctl.training.config.registry import REGISTRIES
from ganctl.training.config.resolve import suggest
from ganctl.training.config.schema import Config, DataSettings, ModelSettings, Section, setting_names
from ganctl.training.errors import VersionError

_OF_GENERATOR = ("generator", "latent_dim", "base_channels", "generator_base_channels", "conditional", "options")
_OF_DISCRIMINATOR = ("conditioning", "spectral_norm")  # and whatever begins with its name
_OF_IMAGES = ("name", "root", "size", "channels", "skip_corrupt")

S = TypeVar("S", bound=Section)


def generator_settings(saved: Saved) -> ModelSettings:
    """The settings that the generator is built from; those of the discriminator are the defaults.

    Raises:
        VersionError: one of them is unknown here, or has a value that is.
    """
    stored = {
        key: value
        for key, value in _section(saved, "model").items()
        if not key.startswith("discriminator") and key not in _OF_DISCRIMINATOR
    }
    settings, faults = _read(ModelSettings, "model", stored, known=_OF_GENERATOR)
    if faults:
        raise VersionError(saved.path, saved.version, faults)
    return settings


def data_settings(saved: Saved) -> tuple[DataSettings, VersionError | None]:
    """The settings that say which images a run was trained on, and what is wrong with them, if anything is."""
    settings, faults = read_data_settings(_section(saved, "data"))
    return settings, VersionError(saved.path, saved.version, faults) if faults else None


def read_data_settings(stored: Mapping[str, Any]) -> tuple[DataSettings, list[str]]:
    """The settings in a table of them that say which images these are, and what is wrong with them."""
    settings, faults = _read(
        DataSettings, "data", {key: value for key, value in stored.items() if key in _OF_IMAGES}, known=_OF_IMAGES
    )
    if not stored.get("name"):
        faults = ["data.name is not there, so that the images are unknown."]
    return settings, [f"{fault} Name the images by --set data.name=…." for fault in faults]


def resumed_settings(saved: Saved) -> tuple[dict[str, Any], list[str]]:
    """The settings of a run that is to go on, without those that this version does not know, and these as faults."""
    everything: dict[str, Any] = {"preset": str(_config(saved).get("preset", Config().preset))}
    faults = []
    for section in _config(saved).keys() - {"preset"}:
        field = Config.model_fields.get(section)
        stored = _section(saved, section)
        if field is None:
            faults += [_unknown(f"{section}.{key}", value) for key, value in stored.items()]
            continue
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, Section)
        _, wrong = _read(field.annotation, section, stored, known=field.annotation.model_fields, keep=everything)
        faults += wrong
    return everything, sorted(faults)


def lacking_settings(saved: Saved) -> list[str]:
    """The settings of this version that the checkpoint does not have."""
    stored = {f"{section}.{key}" for section in _config(saved).keys() - {"preset"} for key in _section(saved, section)}
    return [name for name, _ in setting_names() if name not in stored]


@contextmanager
def understood(saved: Saved) -> Iterator[None]:
    """Turns the errors of a state that has another structure than here into a VersionError."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise VersionError(saved.path, saved.version, [f"it has another structure ({error!r})."]) from error


def _read(
    kind: type[S], section: str, stored: Mapping[str, Any], *, known: Iterable[str], keep: dict[str, Any] | None = None
) -> tuple[S, list[str]]:
    """A section's settings with the default in the place of each that is at fault, and the faults.

    `keep` gets the sound ones by the section's name.
    """
    faults = [_unknown(f"{section}.{key}", value) for key, value in stored.items() if key not in set(known)]
    values = {key: value for key, value in stored.items() if key in set(known)}
    for registry in REGISTRIES:
        key = registry.setting.partition(".")[2]
        name = values.get(key) if registry.setting == f"{section}.{key}" else None
        if isinstance(name, str) and not registry.accepts(name):
            hint = suggest(name, registry.names())
            faults.append(f"{section}.{key} = {name!r} is unknown here; there are {', '.join(registry.names())}.{hint}")
            del values[key]
    while True:
        try:
            settings = kind.model_validate(values)
        except ValidationError as error:
            for key, message in {str(each["loc"][0]): each["msg"] for each in error.errors()}.items():
                faults.append(f"{section}.{key} = {values.pop(key)!r} is no value for it here: {message}.")
        else:
            if keep is not None:
                keep[section] = values
            return settings, faults


def _unknown(name: str, value: Any) -> str:
    return f"{name} = {value!r} is no setting here.{suggest(name, [known for known, _ in setting_names()])}"


def _config(saved: Saved) -> Mapping[str, Any]:
    config = saved.state.get("config")
    if not isinstance(config, Mapping):
        raise VersionError(saved.path, saved.version, ["it holds no settings."])
    return config


def _section(saved: Saved, name: str) -> Mapping[str, Any]:
    section = _config(saved).get(name, {})
    return section if isinstance(section, Mapping) else {name: section}
