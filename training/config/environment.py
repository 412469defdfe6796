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

from ganctl.training.config.schema import DESCRIPTIONS, Config

PREFIX = "GANCTL_"
_NOT_SETTINGS = ("PRESET", "PAGE", "HEALTH_URL", "TURNS")  # other variables of ganctl

# Kubernetes (service links) and Docker (links) set these for a service or container of any name.
_PORT = r"PORT(_\d+_[A-Z]+(_(ADDR|PORT|PROTO|START|END))?)?"
_SERVICE = re.compile(rf"(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|{_PORT}|ENV_.+)")
_LINK_NAME = re.compile(r"/[^/]+/[^/]+")  # Docker's value of NAME
_COMMON_WORDS = ("root", "source", "license")  # keys with any text as value: alone, they may be of another program
_MIN_RATIO = 0.85  # difflib's ratio of a misspelled name; train_dir and train_device have 0.76
_MIN_SECTION_RATIO = 0.7  # lower, because `__` marks a setting; dataset and data have 0.73

_log = logging.getLogger(__name__)


def read_environment(environment: Mapping[str, str], errors: list[str]) -> Iterator[tuple[str, str, Any]]:
    """Yields (variable, `section.key`, value) for each setting; the key may be unknown.

    Args:
        environment: all variables; an empty one sets nothing.
        errors: receives a message for each variable that is a misspelled setting.
    """
    ignored = []
    for variable, text in sorted(environment.items()):
        name = variable.removeprefix(PREFIX)
        if name == variable or name in _NOT_SETTINGS or not text.strip():
            continue
        section, underscores, key = name.lower().partition("__")
        if _is_service_link(name, text):
            ignored.append(variable)
        elif underscores and (_similar_section(section) or key in _unique_keys()):
            yield variable, f"{section}.{key}", parse_value(f"{section}.{key}", text)
        elif not underscores and (suggestions := _suggest_variables(name, text)):
            errors.append(f"{variable}: no setting has this name. Did you mean {' or '.join(suggestions)}?")
        else:
            ignored.append(variable)
    _log_ignored(tuple(ignored))


def section_variables(section: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that set a setting of one section, misspelled ones included."""

    def sets_section(variable: str) -> bool:
        head, underscores, _ = variable.removeprefix(PREFIX).lower().partition("__")
        return _similar_section(head) == section if underscores else head.startswith(section)

    return {name: text for name, text in environment.items() if name.startswith(PREFIX) and sets_section(name)}


def parse_value(name: str, text: str) -> Any:
    """Parses the text of a setting as TOML; returns the text itself if it is not TOML, None if it is empty.

    A TOML value that only the text makes valid stays text, such as 2024 for `log.name`.
    """
    text = text.strip()
    try:
        value = tomllib.loads(f"value = {text}")["value"] if text else None
    except tomllib.TOMLDecodeError:  # bare words such as cosine or 120s are text
        return text
    if isinstance(value, str | None) or _accepts(name, value) or not _accepts(name, text):
        return value
    return text


def _is_service_link(name: str, text: str) -> bool:
    is_name = name == "NAME" or name.endswith("_NAME")
    return _SERVICE.fullmatch(name) is not None or (is_name and _LINK_NAME.fullmatch(text) is not None)


def _similar_section(name: str) -> str | None:
    sections = {setting.partition(".")[0] for setting in DESCRIPTIONS}
    return next(iter(difflib.get_close_matches(name, sections, 1, _MIN_SECTION_RATIO)), None)


def _suggest_variables(name: str, text: str) -> Sequence[str]:
    """Returns the variables that resemble a name without `__`.

    A key without its section may be a common word (GANCTL_SIZE, GANCTL_PROFILE). It counts as misspelled only if the
    setting accepts the value.
    """
    lower = name.lower().strip("_")
    variables = {setting.replace(".", "_"): _variable(setting) for setting in DESCRIPTIONS}
    variables |= {other.lower(): f"{PREFIX}{other}" for other in _NOT_SETTINGS}
    if setting := _unique_keys().get(lower):  # GANCTL_SEED
        return [_variable(setting)] if _accepts(setting, parse_value(setting, text)) else []
    return [variables[close] for close in difflib.get_close_matches(lower, variables, n=2, cutoff=_MIN_RATIO)]


def _accepts(setting: str, value: object) -> bool:
    section, _, key = setting.partition(".")
    try:
        Config.model_validate({section: {key: value}})
    except ValidationError:
        return False
    return True


@cache
def _unique_keys() -> Mapping[str, str]:
    """Maps key → `section.key` for the keys that occur in one section only and are no common words."""
    keys = [name.partition(".")[2] for name in DESCRIPTIONS]
    unique = {key: name for key, name in zip(keys, DESCRIPTIONS, strict=True) if keys.count(key) == 1}
    return {key: name for key, name in unique.items() if key not in _COMMON_WORDS}


def _variable(setting: str) -> str:
    return PREFIX + setting.upper().replace(".", "__")


@cache
def _log_ignored(variables: tuple[str, ...]) -> None:
    """Logs the ignored variables; the cache suppresses repetitions."""
    if variables:
        _log.debug("ignored, because they are no settings: %s", ", ".join(variables))
