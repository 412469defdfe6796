"""Settings from environment variables: `GANCTL_TRAIN__BATCH_SIZE` sets `train.batch_size`.

Not every variable that begins with GANCTL_ is a setting. Kubernetes and Docker set `GANCTL_PORT` and similar ones for a
service called `ganctl`, other parts of ganctl read their own, and users define theirs. Each variable is read as a
setting, reported as a misspelled setting, or ignored.
"""

import difflib
import logging
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import ValidationError

from ganctl.training.config.schema import Config, setting_descriptions, text_settings

PREFIX = "GANCTL_"
_NOT_SETTINGS = ("PRESET", "PAGE", "HEALTH_URL")  # other variables of ganctl

# Kubernetes (service links) and Docker (links) set these for a service or container of any name.
_PORT = r"PORT(_\d+_[A-Z]+(_(ADDR|PORT|PROTO|START|END))?)?"
_SERVICE = re.compile(rf"(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|{_PORT}|ENV_.+)")
_LINK_NAME = re.compile(r"/[^/]+/[^/]+")  # Docker's value of NAME
_MIN_RATIO = 0.85  # difflib's ratio of a misspelled name; train_dir and train_device have 0.76
_MIN_SECTION_RATIO = 0.75  # lower, because `__` marks a setting; trian and train have 0.8

_log = logging.getLogger(__name__)


def read_environment(environment: Mapping[str, str], faults: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yields (variable, `section.key`, text) for each setting; the key may be unknown.

    Args:
        environment: all variables; an empty one sets nothing.
        faults: receives a message for each variable that is a misspelled setting.
    """
    ignored = []
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX) or not text.strip():
            continue
        name = variable.removeprefix(PREFIX)
        if name in _NOT_SETTINGS:
            continue
        section, underscores, key = name.lower().partition("__")
        if _is_service_link(name, text):
            ignored.append(variable)
        elif underscores and _resembles_setting(section, key):
            yield variable, f"{section}.{key}", text
        elif not underscores and (suggestions := _suggest_variables(name, text)):
            faults.append(f"{variable}: no setting has this name. Did you mean {' or '.join(suggestions)}?")
        else:
            ignored.append(variable)
    _log_ignored(tuple(ignored))


def section_variables(section: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that set a setting of one section, misspelled ones included."""
    variables = {}
    for variable, text in environment.items():
        head, underscores, _ = variable.removeprefix(PREFIX).lower().partition("__")
        matches = _close_section(head) == [section] if underscores else head.startswith(section)
        if variable.startswith(PREFIX) and matches:
            variables[variable] = text
    return variables


def parse_value(name: str, text: str) -> Any:
    """Parses the text of a setting as TOML; returns the text itself if it is not TOML, None if it is empty."""
    if not text.strip():
        return None
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:  # bare words such as cosine or 120s are text
        return text.strip()
    return text.strip() if name in text_settings() and not isinstance(value, str) else value


def _is_service_link(name: str, text: str) -> bool:
    is_name = name == "NAME" or name.endswith("_NAME")
    return _SERVICE.fullmatch(name) is not None or (is_name and _LINK_NAME.fullmatch(text) is not None)


def _resembles_setting(section: str, key: str) -> bool:
    return bool(
        _close_section(section)
        or difflib.get_close_matches(f"{section}.{key}", _setting_names(), n=1, cutoff=_MIN_RATIO)
        or key in _unique_keys()
    )


def _close_section(section: str) -> list[str]:
    sections = {name.partition(".")[0] for name in _setting_names()}
    return difflib.get_close_matches(section, sections, 1, _MIN_SECTION_RATIO)


def _suggest_variables(name: str, text: str) -> Sequence[str]:
    """Returns the variables that resemble a name without `__`.

    A key without its section may be a common word (GANCTL_SIZE, GANCTL_PROFILE). It counts as misspelled only if the
    setting accepts the value.
    """
    lower = name.lower().strip("_")
    variables = {setting.replace(".", "_"): _variable(setting) for setting in _setting_names()}
    variables |= {other.lower(): f"{PREFIX}{other}" for other in _NOT_SETTINGS}
    if setting := _unique_keys().get(lower):  # GANCTL_SEED
        return [_variable(setting)] if _is_valid(setting, text) else []
    return [variables[close] for close in difflib.get_close_matches(lower, variables, n=2, cutoff=_MIN_RATIO)]


def _is_valid(setting: str, text: str) -> bool:
    section, key = setting.split(".")
    try:
        Config.model_validate({section: {key: parse_value(setting, text)}})
    except ValidationError:
        return False
    return True


@cache
def _setting_names() -> tuple[str, ...]:
    return tuple(name for name, _ in setting_descriptions())


@cache
def _unique_keys() -> Mapping[str, str]:
    """Maps key → `section.key` for the keys that occur in one section only."""
    keys = [name.partition(".")[2] for name in _setting_names()]
    return {key: name for key, name in zip(keys, _setting_names(), strict=True) if keys.count(key) == 1}


def _variable(setting: str) -> str:
    return PREFIX + setting.upper().replace(".", "__")


@cache
def _log_ignored(variables: tuple[str, ...]) -> None:
    """Logs the ignored variables; the cache suppresses repetitions."""
    if variables:
        _log.debug("ignored, because they are no settings: %s", ", ".join(variables))
