"""Settings from environment variables: `GANCTL_TRAIN__BATCH_SIZE` sets `train.batch_size`.

Other variables begin with GANCTL_ too: Kubernetes and Docker set `GANCTL_PORT` and the like for a service called
`ganctl`, other parts of ganctl have theirs, and people name their own. A variable is read, is told as a misspelt
setting, or is passed over.
"""

import difflib
import logging
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import ValidationError

from ganctl.training.config.schema import Config, setting_names, text_settings

PREFIX = "GANCTL_"
OWN = ("PRESET", "PAGE", "HEALTH_URL")  # variables of ganctl that are no settings

# What Kubernetes (service links) and Docker (links) set, whatever the service's or container's name is.
_PORT = r"PORT(_\d+_[A-Z]+(_(ADDR|PORT|PROTO|START|END))?)?"
_SERVICE = re.compile(rf"(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|{_PORT}|ENV_.+)")
_LINK_NAME = re.compile(r"/[^/]+/[^/]+")  # Docker's value of NAME
_CLOSE = 0.85  # difflib's ratio of a misspelt name; train_dir and train_device have 0.76
_CLOSE_SECTION = 0.75  # `__` says that a setting is meant; trian and train have 0.8

_log = logging.getLogger(__name__)


def read_environment(environment: Mapping[str, str], faults: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yields (variable, `section.key`, text) for each setting; the key may be unknown.

    Args:
        environment: all variables; an empty one sets nothing.
        faults: gets a message for each variable that is a misspelt setting.
    """
    passed_over = []
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX) or not text.strip():
            continue
        name = variable.removeprefix(PREFIX)
        if name in OWN:
            continue
        section, underscores, key = name.lower().partition("__")
        if _is_service_link(name, text):
            passed_over.append(variable)
        elif underscores and _means_a_setting(section, key):
            yield variable, f"{section}.{key}", text
        elif not underscores and (meant := _misspelt(name, text)):
            faults.append(f"{variable}: no setting has this name. Did you mean {' or '.join(meant)}?")
        else:
            passed_over.append(variable)
    _note(tuple(passed_over))


def of_section(section: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that set, or may be meant to set, the settings of one section."""
    chosen = {}
    for variable, text in environment.items():
        head, underscores, _ = variable.removeprefix(PREFIX).lower().partition("__")
        meant = _close_section(head) == [section] if underscores else head.startswith(section)
        if variable.startswith(PREFIX) and meant:
            chosen[variable] = text
    return chosen


def parse_value(name: str, text: str) -> Any:
    """The value of a setting given as text: TOML, the text itself where it is no TOML, None where it is empty."""
    if not text.strip():
        return None
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:  # bare words such as cosine or 120s are text
        return text.strip()
    return text.strip() if name in text_settings() and not isinstance(value, str) else value


def _is_service_link(name: str, text: str) -> bool:
    linked = name == "NAME" or name.endswith("_NAME")
    return _SERVICE.fullmatch(name) is not None or (linked and _LINK_NAME.fullmatch(text) is not None)


def _means_a_setting(section: str, key: str) -> bool:
    return bool(
        _close_section(section)
        or difflib.get_close_matches(f"{section}.{key}", _names(), n=1, cutoff=_CLOSE)
        or key in _keys_of_one_section()
    )


def _close_section(section: str) -> list[str]:
    return difflib.get_close_matches(section, {name.partition(".")[0] for name in _names()}, 1, _CLOSE_SECTION)


def _misspelt(name: str, text: str) -> Sequence[str]:
    """The variables that a name without `__` may have been meant for.

    A key alone is no uncommon word (GANCTL_SIZE, GANCTL_PROFILE): it counts where the setting could have this value.
    """
    word = name.lower().strip("_")
    single = {setting.replace(".", "_"): _variable(setting) for setting in _names()}
    single |= {own.lower(): f"{PREFIX}{own}" for own in OWN}
    if setting := _keys_of_one_section().get(word):  # GANCTL_SEED
        return [_variable(setting)] if _is_valid(setting, text) else []
    return [single[close] for close in difflib.get_close_matches(word, single, n=2, cutoff=_CLOSE)]


def _is_valid(setting: str, text: str) -> bool:
    section, key = setting.split(".")
    try:
        Config.model_validate({section: {key: parse_value(setting, text)}})
    except ValidationError:
        return False
    return True


@cache
def _names() -> tuple[str, ...]:
    return tuple(name for name, _ in setting_names())


@cache
def _keys_of_one_section() -> Mapping[str, str]:
    """key → `section.key`, for the keys that one section alone has."""
    keys = [name.partition(".")[2] for name in _names()]
    return {key: name for key, name in zip(keys, _names(), strict=True) if keys.count(key) == 1}


def _variable(setting: str) -> str:
    return PREFIX + setting.upper().replace(".", "__")


@cache
def _note(variables: tuple[str, ...]) -> None:
    """Logs the variables that are passed over, once."""
    if variables:
        _log.debug("passed over, as they are no settings: %s", ", ".join(variables))
