"""From a command's words to a trainer: settings resolved, folder chosen, state restored.

A resumed run starts from the settings in its checkpoint; what is given anew may only change how long it goes on and
what is written down, unless changes are allowed.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.callbacks import default_callbacks
from training.checkpoint import Checkpoint, read_checkpoint
from training.errors import CheckpointError, ConfigError, TrainingError
from training.runs import CHECKPOINTS, CheckpointStore, next_run_folder, write_settings
from training.settings import resolve
from training.trainer import Trainer

# what may differ between a run and its continuation without making it another experiment
_MAY_CHANGE = ("log.", "early_stopping.", "checkpoint.save_top_k", "train.horizon", "data.root")


# what a run that ended before its first checkpoint may have left
_OWN_FILES = (CHECKPOINTS, "config.toml", "environment.json", "stats.jsonl", "log.txt", "samples", "events.out.")


class FolderInUse(TrainingError):
    """The folder already holds a run, and nobody asked to continue it."""

    exit_code = 2


class Launch:
    """The settings and the folder of a run that is about to begin or to go on."""

    def __init__(
        self,
        *,
        preset: str | None = None,
        config_file: Path | None = None,
        assignments: Sequence[str] = (),
        flags: Mapping[str, tuple[str, Any]] | None = None,
        run_dir: Path | None = None,
        resume: str | None = None,
        allow_changes: bool = False,
        announce: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Resolves everything that can be resolved without building a network.

        Raises:
            ConfigError: the settings are at fault, or differ from the run that is to be continued.
            CheckpointError: what is to be continued is absent or damaged.
        """
        self._announce = announce
        self._checkpoint, self._run_dir = _find_resumed(run_dir, resume, announce)
        self.config, self.sources = resolve(
            preset=preset,
            config_file=config_file,
            assignments=assignments,
            flags=flags,
            stored=self._checkpoint.state["config"] if self._checkpoint else None,
        )
        if self._checkpoint and not allow_changes:
            _refuse_changes(self._checkpoint, self.config.flat())

    def build(self, *, max_steps: int | None = None, max_seconds: float | None = None, keep: bool = True) -> Trainer:
        """The trainer, restored where the run resumes. With `keep` the folder is made and the settings written."""
        trainer = Trainer(
            self.config,
            run_dir=self._run_dir or (next_run_folder(self.config) if keep else Path("runs")),
            callbacks=default_callbacks(self.config, max_seconds=max_seconds),
            max_steps=max_steps,
        )
        if self._checkpoint is not None:
            trainer.restore(self._checkpoint)
            self._announce(f"continues {self._checkpoint.path} from step {trainer.step}")
        if keep:  # only now: what cannot be built leaves no folder
            write_settings(trainer.run_dir, self.config)
        return trainer


def _find_resumed(
    run_dir: Path | None, resume: str | None, announce: Callable[[str], None]
) -> tuple[Checkpoint | None, Path | None]:
    """The checkpoint to go on from, if any, and the run's folder, if it is known."""
    if resume is None:
        _refuse_used(run_dir)
        return None, run_dir
    if resume == "auto":
        if run_dir is None:
            raise ConfigError(["--resume auto: needs --run-dir, the folder of the run that is to be continued."])
        newest = CheckpointStore.newest(run_dir, announce)
        if newest is None:
            _refuse_used(run_dir, but=_OWN_FILES)
        return newest, run_dir
    path = Path(resume)
    if (path / CHECKPOINTS).is_dir():
        newest = CheckpointStore.newest(path, announce)
        if newest is None:
            raise CheckpointError(f"--resume {path}: this run has no checkpoint yet")
        home = path.resolve()
    else:
        newest = read_checkpoint(path)
        home = path.resolve().parent.parent
        if path.resolve().parent.name != CHECKPOINTS and run_dir is None:
            raise ConfigError([f"--resume {path}: it lies in no run's folder; name one for what follows: --run-dir."])
    if run_dir is not None and run_dir.resolve() != home:
        _refuse_used(run_dir)
    return newest, run_dir or home


def _refuse_used(run_dir: Path | None, *, but: tuple[str, ...] = ()) -> None:
    """Refuses a folder that holds anything, save what begins as one of `but`."""
    if run_dir is None or not run_dir.exists():
        return
    if CheckpointStore.holds_checkpoints(run_dir):
        raise FolderInUse(
            f"--run-dir {run_dir}: it already holds a run; add --resume auto to continue it, or name another folder"
        )
    if not run_dir.is_dir() or any(not path.name.startswith(but or "/") for path in run_dir.iterdir()):
        raise FolderInUse(f"--run-dir {run_dir}: it holds something else than a run; name another folder")


def _refuse_changes(checkpoint: Checkpoint, now: Mapping[str, Any]) -> None:
    from training.config import Config

    then = Config.model_validate(checkpoint.state["config"]).flat()
    changed = [name for name in now if now[name] != then[name] and not name.startswith(_MAY_CHANGE)]
    if changed:
        raise ConfigError(
            [
                f"{name} = {now[name]!r}: the run has {then[name]!r} so far; --allow-changes goes on all the same."
                for name in changed
            ]
        )
