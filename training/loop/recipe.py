"""Finds the facts that the preset `auto` depends on, and the settings that follow.

It reads the training images. So resolving settings reads data only if `auto` decides: not for another preset, and not
for a resumed run.
"""

import logging
from collections.abc import Mapping
from typing import Any

from ganctl.training.checkpoint.format import read_checkpoint
from ganctl.training.checkpoint.run_dir import find_checkpoint
from ganctl.training.checkpoint.stored_config import resumed_settings
from ganctl.training.config.auto import Facts, Recommendation, recommend
from ganctl.training.config.resolve import Values, resolve
from ganctl.training.config.schema import Config
from ganctl.training.data.datasets import load_split
from ganctl.training.distributed.ranks import Ranks, choose_device

_log = logging.getLogger(__name__)


class AutoPreset:
    """Gives `resolve` the values of the preset `auto`, and keeps their reasons."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._recommendation: Recommendation | None = None  # None: `auto` has not decided

    def __call__(self, config: Config, sources: Mapping[str, str]) -> Values:
        """Returns the values of the preset.

        Args:
            config: the settings without it.
            sources: `section.key` → source of each of them.

        Raises:
            DataError, ConfigError, CheckpointError: the images, the device or the run of --init-from cannot be used.
        """
        data = load_split(config.data, "train")
        channels, *sides = data.shape
        facts = Facts(
            images=len(data),
            size=max(sides),
            channels=channels,
            classes=len(data.class_names),
            device="cuda" if choose_device(config.train.device, self._ranks).type == "cuda" else "cpu",
            duration=config.train.duration if sources["train.duration"] != "default" else None,
            networks=_stored_networks(config),
        )
        self._recommendation = recommend(facts)
        return self._recommendation.values

    def reasons(self, sources: Mapping[str, str]) -> tuple[str, ...]:
        """Returns a line for each decision that no other source of settings has overridden."""
        reasons = self._recommendation.reasons_in_use(sources) if self._recommendation else ()
        return tuple(f"auto: {reason}" for reason in reasons)


def _stored_networks(config: Config) -> Mapping[str, Any]:
    """Returns the settings `model.…` of the run whose networks `train.init_from` takes; empty without one."""
    if config.train.init_from is None:
        return {}
    stored, _ = resumed_settings(read_checkpoint(find_checkpoint(config.train.init_from)))
    networks: Mapping[str, Any] = stored.get("model", {})
    return networks


def configure(preset: str | None = None, settings: Mapping[str, Any] | None = None) -> Config:
    """Returns a preset with changed settings: `configure("conv", {"train.duration": "1 epochs"})`.

    Without a preset it is `auto`, as on the command line: it reads the data set and logs its decisions (INFO).

    Raises:
        ConfigError: lists all errors.
        DataError: the preset is `auto`, and the data set cannot be read.
    """
    flags = {name: ("configure", value) for name, value in (settings or {}).items()}
    auto = AutoPreset(Ranks())
    config, sources = resolve(preset=preset, flags=flags, auto=auto)
    for reason in auto.reasons(sources):
        _log.info("%s", reason)
    return config
