"""From a command's words to a trainer: settings resolved, folder chosen, state restored.

A resumed run starts from the settings in its checkpoint; what is given anew may only change how long it goes on and
what is written down, unless changes are allowed. With many ranks the first one decides and reads, and tells the others.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from ganctl import __version__
from ganctl.training import callbacks as shipped
from ganctl.training.callbacks import default_callbacks
from ganctl.training.callbacks.base import Callback
from ganctl.training.checkpoint.format import Saved, read_checkpoint
from ganctl.training.checkpoint.run_dir import (
    CHECKPOINTS,
    find_checkpoint,
    foreign_file,
    holds_checkpoints,
    make_numbered,
    newest_checkpoint,
    next_run_folder,
)  # fmt: skip
from ganctl.training.checkpoint.run_lock import RunLock
from ganctl.training.checkpoint.stored_config import lacking_settings, resumed_settings, understood
from ganctl.training.config.registry import load_object
from ganctl.training.config.resolve import resolve
from ganctl.training.config.schema import Config
from ganctl.training.distributed.ranks import Ranks
from ganctl.training.errors import CheckpointError, ConfigError, FolderInUse, VersionError
from ganctl.training.loop.trainer import Trainer
from ganctl.versions import written_by

# what may differ between a run and its continuation without making it another experiment
_MAY_CHANGE = (
    "log.", "early_stopping.", "checkpoint.save_top_k", "checkpoint.save_last", "checkpoint.every",
    "checkpoint.filename", "train.duration", "train.init_from", "train.cuda_graph", "data.root", "data.num_workers",
    "data.on_device",
)  # fmt: skip

_RESTART_PATIENCE = 60.0  # seconds in which the ranks before a restart have ended on every machine


class Session:
    """The settings and the folder of a run that is about to begin or to go on."""

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
        ranks: Ranks | None = None,
        dry: bool = False,
    ) -> None:
        """Resolves everything that can be resolved without building a network.

        Args:
            preset, config_file, assignments, flags: see `settings.resolve`.
            run_dir: the run's folder; None takes the next numbered one.
            resume: `auto` (what `run_dir` holds, if anything), a run, or a checkpoint file.
            allow_changes: whether a resumed run may have other settings than before.
            restarted: whether this is a run that was started before with the same words and has lost a rank.
            announce: told what a person may want to know.
            ranks: the processes that train together; None asks torchrun's variables.
            dry: whether nothing will be trained, so that another process may train in the folder.

        Raises:
            ConfigError: the settings are at fault, or differ from the run that is to be continued.
            CheckpointError: what is to be continued is absent or damaged.
            FolderInUse: `run_dir` holds another run or foreign files, or another process trains in it.
        """
        run_dir = Path(run_dir) if run_dir is not None else None
        self.ranks = ranks or Ranks.join()
        self._announce = announce if self.ranks.first else lambda text: None
        # each machine's torchrun counts its own restarts, and it may be another one's that this start is owed to
        restarted = bool(self.ranks.all_reduce_max([restarted or self.ranks.restarts > 0])[0])
        if restarted and run_dir is None:
            raise ConfigError(["--run-dir: ranks that torchrun starts again need it, to find what they had done."])

        self._lock = RunLock(patience=_RESTART_PATIENCE) if restarted else RunLock()

        def decide() -> tuple[Saved | None, Path | None, Config, dict[str, str]]:
            if not dry and (entered := run_dir or _home(resume)) is not None:
                self._lock.look(entered)
            saved, folder = _find_resumed(run_dir, resume, restarted, announce)
            stored = _stored_settings(saved, allow_changes, announce) if saved else None
            config, sources = resolve(
                preset=preset, config_file=config_file, assignments=assignments, flags=flags, stored=stored
            )
            if saved:
                then = Config.model_validate(stored)
                config = _keep_automatic(config, then)
                if not allow_changes:
                    _refuse_changes(then.flat(), config.flat())
            return saved, folder, config, sources

        self._saved, self._run_dir, self.config, self.sources = self.ranks.on_first(decide)
        self._allow_changes = allow_changes

    @property
    def run_dir(self) -> Path:
        """The folder of the run, as far as it is known: the next numbered one may be taken before we come to it."""
        return self._run_dir or next_run_folder(self.config)

    @contextmanager
    def reserved(self) -> Iterator[Path]:
        """The folder for ranks that are started here; a numbered one is made, so that no other process takes it."""
        if self._run_dir is not None:
            yield self._run_dir
            return
        above = [parent for parent in self.run_dir.parents if not parent.exists()]
        folder = make_numbered(self.run_dir, self.config)
        try:
            yield folder
        finally:
            for made in (folder, *above):
                with suppress(OSError):  # something is in it, such as what the ranks have put there
                    made.rmdir()

    def build(
        self,
        *,
        max_steps: int | None = None,
        max_seconds: float | None = None,
        callbacks: Sequence[str | Callback] = (),
    ) -> Trainer:
        """The trainer, restored where the run resumes. Nothing is written before its `fit`.

        Args:
            max_steps, max_seconds: limits that change no schedule.
            callbacks: one's own, beside the default ones: objects, or `module:Name` of classes.
        """
        own = [load_callback(callback) if isinstance(callback, str) else callback for callback in callbacks]
        trainer = Trainer(
            self.config,
            run_dir=self._run_dir,
            callbacks=[*default_callbacks(self.config, max_seconds=max_seconds), *own],
            max_steps=max_steps,
            ranks=self.ranks,
            lock=self._lock,
        )
        if self._saved is not None:
            with understood(self._saved):
                if not self._allow_changes:
                    _refuse_other_data(self._saved, trainer.parts.data)
                differences = _differences(self._saved, trainer)
            _restore(trainer.load_state_dict, self._saved)
            self._announce(f"continues {self._saved.path} from step {trainer.step}")
            for text in differences:
                self._announce(text)
        elif (source := self.config.train.init_from) is not None:
            saved = self.ranks.on_first(lambda: read_checkpoint(find_checkpoint(source)))
            _restore(trainer.load_networks, saved)
            self._announce(f"begins with the networks of {saved.path}")
        return trainer


def load_callback(name: str) -> Callback:
    """The callback that `module:Name` means: a class is called without arguments.

    Raises:
        ConfigError: there is no such thing, or it is no callback.
    """
    found = load_object(name, "--callback")
    if isinstance(found, type) and issubclass(found, Callback):
        try:
            return found()
        except TypeError as error:
            raise ConfigError([f"--callback {name}: it cannot be made without arguments ({error}); name a class that"
                               " can, or an object."]) from error  # fmt: skip
    if isinstance(found, Callback):
        return found
    raise ConfigError(
        [f"--callback {name}: found {found!r}, expected a class derived from ganctl.training.callbacks.base.Callback."]
    )


def _restore(load: Callable[[Mapping[str, Any]], None], saved: Saved) -> None:
    try:
        load(saved.state)
    except Exception as error:
        expected = (KeyError, RuntimeError, ValueError)  # as torch and we tell that shapes or names differ
        if not isinstance(error, expected) and saved.version == __version__:
            raise
        raise CheckpointError(
            f"{saved.path}:{written_by(saved.version)} it does not fit these settings: {error}"
        ) from error


def _refuse_other_data(saved: Saved, now: Mapping[str, Any]) -> None:
    then = saved.state["data"]
    if then != now:
        what = ", ".join(name for name in now if now[name] != then.get(name))
        raise ConfigError(
            [f"data: the training images are not those of {saved.path} ({what} differ);"
             " --allow-changes goes on all the same."]
        )  # fmt: skip


def _differences(saved: Saved, trainer: Trainer) -> list[str]:
    """What no setting shows, and what makes the run another one than it would have been."""
    told = []
    own = saved.state["callbacks"].keys() - {callback.key for callback in trainer.callbacks} - {*shipped.__all__}
    if own:
        told.append(f"the run had callbacks that are not here now: {', '.join(sorted(own))}; add them by --callback")
    if (device := trainer.device.type) != (before := saved.state["networks"]["device"]):
        told.append(f"on {device} instead of {before}: from here on other random numbers are drawn")
    now, then = torch.get_num_threads(), saved.state["networks"]["threads"]
    if now != then:
        told.append(f"{now} threads instead of {then}: sums round differently from here on")
    return told


def _find_resumed(
    run_dir: Path | None, resume: str | None, restarted: bool, announce: Callable[[str], None]
) -> tuple[Saved | None, Path | None]:
    """The checkpoint to go on from, if any, and the run's folder, if it is known."""
    if restarted and run_dir is not None and holds_checkpoints(run_dir):
        return newest_checkpoint(run_dir, announce), run_dir
    if resume is None:
        _refuse_used(run_dir)
        return None, run_dir
    if resume == "auto":
        if run_dir is None:
            raise ConfigError(["--resume auto: needs --run-dir, the folder of the run that is to be continued."])
        newest = newest_checkpoint(run_dir, announce)
        if newest is None:
            _refuse_used(run_dir)
        return newest, run_dir
    path = Path(resume)
    if (path / CHECKPOINTS).is_dir():
        newest = newest_checkpoint(path, announce)
        if newest is None:
            raise CheckpointError(f"--resume {path}: this run has no checkpoint yet")
    else:
        newest = read_checkpoint(path)
        if path.resolve().parent.name != CHECKPOINTS and run_dir is None:
            raise ConfigError([f"--resume {path}: it lies in no run's folder; name one for what follows: --run-dir."])
    home = _home(resume)
    if run_dir is not None and run_dir.resolve() != home:
        _refuse_used(run_dir)
    return newest, run_dir or home


def _home(resume: str | None) -> Path | None:
    """The folder of the run that `resume` names, if it names one."""
    if resume is None or resume == "auto":
        return None
    path = Path(resume)
    return path.resolve() if (path / CHECKPOINTS).is_dir() else path.resolve().parent.parent


def _refuse_used(run_dir: Path | None) -> None:
    """Refuses a folder that holds a run, or what no run without a checkpoint has left there."""
    if run_dir is None or not run_dir.exists():
        return
    if holds_checkpoints(run_dir):
        raise FolderInUse(
            f"--run-dir {run_dir}: it already holds a run; add --resume auto to continue it, or name another folder"
        )
    if (name := foreign_file(run_dir)) is not None:
        raise FolderInUse(f"--run-dir {run_dir}: it holds something else than a run ({name}); name another folder")


def _keep_automatic(config: Config, then: Config) -> Config:
    """A run goes on with what `auto` meant when it began, wherever it goes on."""
    kept = {
        name: getattr(then.train, name) for name in ("batch_size", "precision") if getattr(config.train, name) == "auto"
    }
    return config.model_copy(update={"train": config.train.model_copy(update=kept)})


def _stored_settings(saved: Saved, allow_changes: bool, announce: Callable[[str], None]) -> dict[str, Any]:
    """The settings of the run so far, as this version has them.

    Raises:
        VersionError: there are others than this version knows, and no changes are allowed.
    """
    stored, faults = resumed_settings(saved)
    if faults and not allow_changes:
        raise VersionError(saved.path, saved.version, faults, or_else="go on without these settings by --allow-changes")
    for fault in faults:
        announce(f"left out: {fault}")
    if saved.version != __version__ and (lacking := lacking_settings(saved)):
        told = f"{saved.path}:{written_by(saved.version)} settings that it lacks take their defaults"
        announce(f"{told}: {', '.join(lacking)}")
    return stored


def _refuse_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = [name for name in now if now[name] != then[name] and not name.startswith(_MAY_CHANGE)]
    if changed:
        raise ConfigError(
            [
                f"{name} = {now[name]!r}: the run has {then[name]!r} so far; --allow-changes goes on all the same."
                for name in changed
            ]
        )
