"""Turns the options of `train` into a trainer: resolves settings, chooses the folder, restores the state.

A resumed run starts from the settings in its checkpoint. Unless changes are allowed, new values may change only its
duration and its output. With several ranks, rank 0 does this and broadcasts the result.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ganctl import __version__
from ganctl.common.text import nfc
from ganctl.training import callbacks as builtin
from ganctl.training.callbacks import default_callbacks
from ganctl.training.callbacks.base import Callback
from ganctl.training.checkpoint.format import LoadedCheckpoint, read_checkpoint
from ganctl.training.checkpoint.run_dir import (
    CHECKPOINTS,
    create_run_dir,
    find_checkpoint,
    foreign_file,
    has_checkpoints,
    newest_checkpoint,
    next_run_dir,
)  # fmt: skip
from ganctl.training.checkpoint.run_lock import RunLock
from ganctl.training.checkpoint.stored_config import (
    changed_settings,
    missing_settings,
    resumed_settings,
    version_errors,
)
from ganctl.training.config.registry import CALLBACKS, load_object, suggest
from ganctl.training.config.resolve import mark_resolved, resolve
from ganctl.training.config.schema import Config
from ganctl.training.distributed.ranks import Ranks
from ganctl.training.errors import CheckpointError, ConfigError, FolderInUse, VersionError
from ganctl.training.loop.recipe import AutoPreset
from ganctl.training.loop.trainer import Trainer
from ganctl.training.models.base import ImageShape
from ganctl.training.models.image_axes import ImageDomain
from ganctl.training.models.transfer import TransferReport, transfer
from ganctl.versions import written_by

T = TypeVar("T")

_MIN_SHARE = 0.25  # of the weights that --init-from must find; fewer are those of other networks
_RESTART_PATIENCE = 60.0  # seconds until the ranks of the failed start have ended on every machine


class Session:
    """The settings and the folder of a run that will start or resume."""

    def __init__(
        self,
        *,
        preset: str | None = None,
        config_file: Path | None = None,
        assignments: Sequence[str] = (),
        flags: Mapping[str, tuple[str, Any]] | None = None,
        run_dir: Path | str | None = None,
        resume: str | None = None,
        allow_changes: bool = False,
        restarted: bool = False,
        announce: Callable[[str], None] = lambda text: None,
        dry_run: bool = False,
    ) -> None:
        """Joins the other ranks, finds the checkpoint to resume, and resolves the settings.

        Args:
            preset, config_file, assignments, flags: see `config.resolve.resolve`.
            run_dir: the run folder; None takes the next numbered one.
            resume: `auto` (the newest checkpoint of `run_dir`, if any), a run folder, or a checkpoint file.
            allow_changes: whether a resumed run may change any setting.
            restarted: whether torchrun or `--nproc` restarted this command after it lost a rank.
            announce: called with each message for the user, on rank 0 only.
            dry_run: whether nothing will be trained; another process may then train in the folder.

        Raises:
            ConfigError: a setting is invalid, or differs from the resumed run.
            DataError: the preset is `auto`, and the training images cannot be read.
            CheckpointError: the resumed checkpoint is missing or damaged.
            FolderInUse: `run_dir` holds another run or foreign files, or another process trains in it.
        """
        run_dir = Path(run_dir) if run_dir is not None else None
        self.ranks = Ranks.join()
        self._announce = announce if self.ranks.is_main else lambda text: None
        # torchrun counts restarts per machine: another machine's restart restarts this rank as well
        restarted = any(self.ranks.all_gather_object(restarted or self.ranks.restarts > 0))
        if restarted and run_dir is None:
            raise ConfigError(["--run-dir: found none, expected the folder of the restarted run. Give --run-dir."])
        self._lock = RunLock(timeout=_RESTART_PATIENCE) if restarted else RunLock()

        def resolve_start() -> tuple[LoadedCheckpoint | None, Path | None, Config, dict[str, str], tuple[str, ...]]:
            if not dry_run and (used_folder := run_dir or _resumed_run(resume)) is not None:
                self._lock.check(used_folder)
            saved, folder = _find_resumed(run_dir, resume, restarted, announce)
            stored = _stored_settings(saved, allow_changes, announce) if saved else None
            auto = AutoPreset(self.ranks)
            config, sources = resolve(
                preset=preset, config_file=config_file, assignments=assignments, flags=flags, stored=stored, auto=auto
            )
            if saved:
                previous = Config.model_validate(stored)
                config = _keep_resolved_auto(config, previous)
                if not allow_changes:
                    _check_no_changes(previous.flat(), config.flat())
            return saved, folder, config, sources, auto.reasons(sources)

        start = self.ranks.run_on_main(resolve_start)
        self._saved, self._run_dir, self.config, self.sources, self.reasons = start
        self._allow_changes = allow_changes

    @property
    def run_dir(self) -> Path:
        """The run folder. A numbered one does not exist yet, and another process may create it first."""
        return self._run_dir or next_run_dir(self.config)

    @contextmanager
    def reserve_run_dir(self) -> Iterator[Path]:
        """Yields the run folder; creates a numbered one, and deletes it at the end if it is empty."""
        if self._run_dir is not None:
            yield self._run_dir
            return
        new_parents = [parent for parent in self.run_dir.parents if not parent.exists()]
        folder = create_run_dir(self.run_dir, self.config)
        try:
            yield folder
        finally:
            for created in (folder, *new_parents):
                with suppress(OSError):  # not empty
                    created.rmdir()

    def build(
        self,
        *,
        max_steps: int | None = None,
        max_seconds: float | None = None,
        callbacks: Sequence[str | Callback] = (),
    ) -> Trainer:
        """Builds the trainer, and restores its state if the run resumes. Nothing is written before `fit`.

        Args:
            max_steps, max_seconds: limits that change no schedule.
            callbacks: callbacks added to the default ones: objects, short names, or `module:Name` of classes.
        """
        custom = [load_callback(callback) if isinstance(callback, str) else callback for callback in callbacks]
        for text in self.reasons:
            self._announce(text)
        trainer = Trainer(
            self.config,
            run_dir=self._run_dir,
            callbacks=[*default_callbacks(self.config, max_seconds=max_seconds), *custom],
            max_steps=max_steps,
            ranks=self.ranks,
            lock=self._lock,
        )
        trainer.notes, trainer.setting_sources = self.reasons, mark_resolved(self.sources, self.config, trainer.config)
        if self._saved is not None:
            with version_errors(self._saved):
                if not self._allow_changes:
                    _check_same_data(self._saved, trainer.parts.data_identity)
                differences = _differences(self._saved, trainer)
            _restore(trainer.load_state_dict, self._saved)
            for text in (f"resumes {self._saved.path} from step {trainer.step}", *differences):
                self._announce(text)
        elif (source := self.config.train.init_from) is not None:
            self._load_networks(trainer, source)
        return trainer

    def _load_networks(self, trainer: Trainer, source: Path) -> None:
        """Starts with the networks of the run or checkpoint `source`, fitted to the images of this run."""
        step = trainer.parts.step
        networks = {"generator": step.generator, "discriminator": step.discriminator, "ema": step.ema}

        def fit() -> tuple[dict[str, dict[str, Tensor]], TransferReport, Path]:
            saved = read_checkpoint(find_checkpoint(source))
            states, report = _restore(lambda state: _fit_networks(networks, state, trainer.parts.data_identity), saved)
            if report.share < _MIN_SHARE:
                raise _too_different(source, saved, report, trainer.config)
            return states, report, saved.path

        states, report, path = self.ranks.run_on_main(fit)  # not on every rank, as machines may round differently
        step.load_networks(states)
        trainer.init_report = report
        lines = (f"starts with the networks of {path}", *report.lines())
        trainer.notes += lines
        for text in lines:
            self._announce(text)


def load_callback(name: str) -> Callback:
    """Loads the callback `module:Name`, or the one with a short name. A class is called without arguments.

    Raises:
        ConfigError: the name does not exist, it is not a callback, or its package is not installed.
    """
    if ":" not in name and name not in CALLBACKS:
        known = f"{', '.join(CALLBACKS)} or module:Name"
        raise ConfigError([f"--callback {name}: unknown callback, expected {known}.{suggest(name, CALLBACKS)}"])
    loaded = load_object(CALLBACKS.get(name, name), "--callback")
    if isinstance(loaded, type) and issubclass(loaded, Callback):
        try:
            loaded = loaded()
        except TypeError as error:
            raise ConfigError([f"--callback {name}: the class needs arguments ({error}), expected none. Give its"
                               " arguments defaults, or name an object."]) from error  # fmt: skip
    if not isinstance(loaded, Callback):
        raise ConfigError([f"--callback {name}: found {loaded!r}, expected a class derived from ganctl.Callback."])
    return loaded


def _restore(load: Callable[[Mapping[str, Any]], T], saved: LoadedCheckpoint) -> T:
    try:
        return load(saved.state)
    except Exception as error:
        expected = (KeyError, RuntimeError, ValueError)  # raised by torch and ganctl where shapes or names differ
        if not isinstance(error, expected) and saved.version == __version__:
            raise
        fault = f"it does not fit these settings: {error}"
        raise CheckpointError(f"{saved.path}:{written_by(saved.version)} {fault}") from error


def _fit_networks(
    networks: Mapping[str, nn.Module], state: Mapping[str, Any], data: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Tensor]], TransferReport]:
    """Fits the networks in the state of a checkpoint to those of this run, which are not changed.

    Returns:
        The new state dicts.
        A report on the generator and the discriminator; the EMA is like the generator.
    """
    old, new = (
        ImageDomain(ImageShape(*each["shape"]), tuple(map(nfc, each["class_names"]))) for each in (state["data"], data)
    )
    fitted = {name: transfer(network, state["networks"][name], old, new) for name, network in networks.items()}
    reported = {name: fitted[name] for name in ("generator", "discriminator")}
    return {name: each.state for name, each in fitted.items()}, TransferReport(reported, old, new)


def _too_different(source: Path, saved: LoadedCheckpoint, report: TransferReport, config: Config) -> ConfigError:
    """Returns the error of a run whose networks hardly fit; it names the settings that differ."""
    stored, current = saved.state.get("config", {}).get("model", {}), config.model.model_dump(mode="json")
    names = [name for name in current if name in stored and stored[name] != current[name]]
    differences = ", ".join(f"model.{name} = {stored[name]!r} there and {current[name]!r} here" for name in names)
    found = f"{report.share:.0%} of the weights fit" + (f" ({differences})" if names else "")
    remedy = "Set model.… as in that run, or leave --init-from out."
    return ConfigError(
        [f"--init-from {source}: found networks of which {found}, expected {_MIN_SHARE:.0%} or more. {remedy}"]
    )


def _check_same_data(saved: LoadedCheckpoint, current: Mapping[str, Any]) -> None:
    previous = saved.state["data"]
    if previous != current:
        changed = ", ".join(name for name in current if current[name] != previous.get(name))
        fault = f"data: the training images are not those of {saved.path} (changed: {changed})"
        raise ConfigError([f"{fault}. Set data.source to those images, or give --allow-changes."])


def _differences(saved: LoadedCheckpoint, trainer: Trainer) -> list[str]:
    """Lists the differences from an uninterrupted run that the settings do not show."""
    messages = []
    missing = saved.state["callbacks"].keys() - {callback.key for callback in trainer.callbacks} - {*builtin.__all__}
    if missing:
        messages.append(f"missing callbacks of the run: {', '.join(sorted(missing))}; add them with --callback")
    if (device := trainer.device.type) != (previous := saved.state["networks"]["device"]):
        messages.append(f"{device} instead of {previous}: the random numbers differ from here on")
    threads, previous_threads = torch.get_num_threads(), saved.state["networks"]["threads"]
    if threads != previous_threads:
        messages.append(f"{threads} threads instead of {previous_threads}: sums round differently from here on")
    return messages


def _find_resumed(
    run_dir: Path | None, resume: str | None, restarted: bool, announce: Callable[[str], None]
) -> tuple[LoadedCheckpoint | None, Path | None]:
    """Returns the checkpoint to resume, if any, and the run folder, if it is already known."""
    saved: LoadedCheckpoint | None = None
    original = _resumed_run(resume)
    if resume == "auto" or (restarted and run_dir is not None and has_checkpoints(run_dir)):
        if run_dir is None:
            raise ConfigError(["--resume auto: found no --run-dir. Give --run-dir, the folder of the run to resume."])
        saved, original = newest_checkpoint(run_dir, announce), run_dir.resolve()
    elif resume is not None and (Path(resume) / CHECKPOINTS).is_dir():
        saved = newest_checkpoint(Path(resume), announce)
        if saved is None:
            raise CheckpointError(f"--resume {resume}: this run has no checkpoint yet. Start it without --resume.")
    elif resume is not None:
        saved = read_checkpoint(Path(resume))
        if run_dir is None and original is None:
            raise ConfigError([f"--resume {resume}: this checkpoint is in no run folder. Give --run-dir."])
    if run_dir is not None and (saved is None or run_dir.resolve() != original):
        _check_unused(run_dir)
    return saved, run_dir or original


def _resumed_run(resume: str | None) -> Path | None:
    """Returns the run folder of a `--resume` path; None for `auto`, without `--resume`, and for other folders."""
    if resume is None or resume == "auto":
        return None
    path = Path(resume).resolve()
    if (path / CHECKPOINTS).is_dir():
        return path
    return path.parent.parent if path.parent.name == CHECKPOINTS else None


def _check_unused(run_dir: Path) -> None:
    """Checks that a folder holds no run with checkpoints and no foreign file.

    Raises:
        FolderInUse: it does.
    """
    if not run_dir.exists():
        return
    if has_checkpoints(run_dir):
        raise FolderInUse(f"--run-dir {run_dir}: it already holds a run. Add --resume auto, or name another folder.")
    if (name := foreign_file(run_dir)) is not None:
        raise FolderInUse(f"--run-dir {run_dir}: found {name}, expected an empty folder or a run. Name another folder.")


def _keep_resolved_auto(config: Config, previous: Config) -> Config:
    """Replaces each `auto` by the value that was chosen when the run started, perhaps on another machine."""
    auto = [name for name in ("batch_size", "precision") if getattr(config.train, name) == "auto"]
    kept = {name: getattr(previous.train, name) for name in auto}
    return config.model_copy(update={"train": config.train.model_copy(update=kept)})


def _stored_settings(saved: LoadedCheckpoint, allow_changes: bool, announce: Callable[[str], None]) -> dict[str, Any]:
    """Returns the stored settings of the run, converted to this version.

    Raises:
        VersionError: this version lacks some of them, and no changes are allowed.
    """
    stored, errors = resumed_settings(saved)
    if errors and not allow_changes:
        alternative = "give --allow-changes to resume without these settings"
        raise VersionError(saved.path, saved.version, errors, alternative=alternative)
    for error in errors:
        announce(f"left out: {error}")
    if saved.version != __version__ and (missing := missing_settings(saved)):
        message = f"{saved.path}:{written_by(saved.version)} missing settings take their defaults"
        announce(f"{message}: {', '.join(missing)}")
    return stored


def _check_no_changes(previous: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    errors = [
        f"{name} = {current[name]!r}: the run has {previous[name]!r}. Leave it out, or give --allow-changes."
        for name in changed_settings(previous, current)
    ]
    if errors:
        raise ConfigError(errors)
