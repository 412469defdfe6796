"""The settings of runs with their sources, and those that differ between runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from ganctl.training.config.resolve import STORED, preset_names, preset_values
from ganctl.training.config.schema import DESCRIPTIONS, Config
from ganctl.training.config.toml_text import UNSET
from ganctl.training.report.run import RunRecord


def setting_names(runs: Sequence[RunRecord]) -> list[str]:
    """Returns the names of all settings of the runs: those of this version in their order, then unknown ones."""
    known = ["preset", *DESCRIPTIONS]
    present = dict.fromkeys(name for run in runs for name in run.settings)
    return [name for name in known if present] + [name for name in present if name not in known]


def setting_value(run: RunRecord, name: str) -> str:
    """Returns the value of a setting as text; an en dash if the run does not have it."""
    value = run.settings.get(name)
    if value is None:
        return UNSET if run.settings and _defaults().get(name, "") is None else "–"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if value != {} else "none"


def setting_source(run: RunRecord, name: str) -> str:
    """Returns the source of a setting: the recorded one, else the one that follows from its value."""
    recorded: Any = run.environment.get("setting_sources")
    if isinstance(recorded, Mapping):
        source = str(recorded.get(name, "default"))
        if source != STORED:
            return source
    if name not in run.settings:
        return ""
    value, preset = run.settings[name], str(run.settings.get("preset", ""))
    values = preset_values(preset) if preset in preset_names() else {}
    if name in values:
        return f"preset {preset}" if _equal(values[name], value) else "set (source not recorded)"
    return "default" if name in _defaults() and _equal(_defaults()[name], value) else "set (source not recorded)"


def differing_settings(runs: Sequence[RunRecord]) -> list[str]:
    """Returns the names of the settings whose values differ between the runs."""
    return [name for name in setting_names(runs) if len({setting_value(run, name) for run in runs}) > 1]


def _defaults() -> Mapping[str, Any]:
    return Config().flat()


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other or (other == UNSET and one is None))
