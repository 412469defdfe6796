"""Run folders: their numbers, their files, and the search for their checkpoints.

runs/00012-auto-mnist/
    .lock  config.toml  environment.json  stats.jsonl  result.json  log.txt  first.png  samples/*.png  timelapse.gif
    events.out.tfevents.*
    checkpoints/  last, best, and step-N for each of the top k and the one before `last`
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from ganctl.files import is_temporary, write_file
from ganctl.training.checkpoint import run_lock
from ganctl.training.checkpoint.environment_file import ENVIRONMENT, describe_environment, read_environment
from ganctl.training.checkpoint.format import SUFFIX, LoadedCheckpoint, read_checkpoint
from ganctl.training.checkpoint.run_lock import RunLock
from ganctl.training.config.resolve import STORED, config_toml
from ganctl.training.config.schema import Config
from ganctl.training.errors import CheckpointError, FolderInUse, VersionError
from ganctl.training.readers.system_files import system_name

CHECKPOINTS = "checkpoints"
_OLD_LOG = "log.old.txt"
# files that a run may find in its folder: when it starts, and after an earlier start that failed
_BEFORE_START = re.compile(rf"{re.escape(run_lock.NAME)}|\.nfs[0-9a-f]+")
_AFTER_START = re.compile(
    rf"{_BEFORE_START.pattern}|{CHECKPOINTS}|samples|profile|config\.toml|environment\.json|stats\.jsonl"
    r"|result\.json|log(\.old)?\.txt|first\.png|timelapse\.gif|events\.out\.tfevents\..*"
)
_STATISTICS = (
    "stats.jsonl", "result.json", "events.out.tfevents.*", "first.png", "timelapse.gif",
    "samples/" + "[0-9]" * 8 + ".png", "profile/*.pt.trace.json*",
)  # fmt: skip
_log = logging.getLogger(__name__)


def next_run_dir(config: Config) -> Path:
    """Returns the next numbered folder below `log.root`, without creating it."""
    root = config.log.root or Path("runs")
    entries = root.iterdir() if root.is_dir() else ()
    numbers = [int(match[1]) for entry in entries if (match := re.match(r"(\d{5})-", entry.name))]
    name = config.log.name or f"{config.preset}-{config.data.name}"
    return root / f"{max(numbers, default=-1) + 1:05d}-{name}"


def create_run_dir(folder: Path, config: Config) -> Path:
    """Creates a numbered run folder; takes the next number if another process has created it in the meantime."""
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            folder = next_run_dir(config)


def prepare_run_dir(folder: Path, lock: RunLock, *, fresh: bool) -> None:
    """Creates the run folder if it is absent, and locks it.

    Args:
        folder: the run folder.
        lock: the lock to acquire.
        fresh: True if the run starts, False if it resumes. A start deletes the files of an earlier start that failed.

    Raises:
        FolderInUse: another process trains in the folder, or a fresh run finds checkpoints in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock.acquire(folder)
    if fresh and has_checkpoints(folder):
        raise FolderInUse(f"{folder}: it already holds a run. Resume it (resume='auto'), or name another folder.")
    if fresh and foreign_file(folder) is None:
        _delete_failed_start(folder)


def foreign_file(folder: Path) -> str | None:
    """Returns the name of a file in `folder` that no run writes; None if there is none.

    After a run has started in the folder, its callbacks may write any file: no file is foreign then.
    """
    if not folder.is_dir():
        return folder.name
    names = sorted(path.name for path in folder.iterdir())
    if {CHECKPOINTS, ENVIRONMENT, "config.toml"} <= {*names}:
        return None
    allowed = _BEFORE_START if {CHECKPOINTS, ENVIRONMENT}.isdisjoint(names) else _AFTER_START
    return next(
        (name for name in names if not (allowed.fullmatch(name) or is_temporary(name) or system_name(name))), None
    )


def _delete_failed_start(folder: Path) -> None:
    """Deletes the statistics and pictures of a start that left no checkpoint; renames its log."""
    leftovers = [path for pattern in _STATISTICS for path in folder.glob(pattern)]
    for path in leftovers:
        path.unlink()
    if (log := folder / "log.txt").exists():
        log.replace(folder / _OLD_LOG)
        leftovers.append(log)
    if leftovers:
        _log.warning("%s: an earlier start left no checkpoint. Deleted its files, kept its log %s", folder, _OLD_LOG)


def write_settings(folder: Path, config: Config, ranks: int, sources: Mapping[str, str] | None = None) -> None:
    """Writes `config.toml` (`train --config` repeats the run from it) and `environment.json` into the run folder.

    Args:
        folder: the run folder.
        config: the settings.
        ranks: number of training processes.
        sources: `section.key` → source, as `resolve` returns them. A resumed run keeps the sources of its start.
    """
    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    write_file(folder / "config.toml", config_toml(config))
    environment = describe_environment(ranks)
    if sources is not None:
        if isinstance(before := read_environment(folder).get("setting_sources"), dict):
            sources = {
                name: before.get(name, "default") if source == STORED else source for name, source in sources.items()
            }
        environment["setting_sources"] = {name: source for name, source in sources.items() if source != "default"}
    write_file(folder / ENVIRONMENT, json.dumps(environment, indent=2) + "\n")


def find_checkpoint(source: Path) -> Path:
    """Returns the checkpoint file of `source`: the file itself, or the best checkpoint of a run folder.

    Raises:
        CheckpointError: `source` is absent or no run folder, or the run has no best checkpoint yet.
    """
    if source.is_file():
        return source
    if not source.exists():
        raise CheckpointError(f"{source}: no such file or folder, expected a run or a checkpoint. Check the path")
    folder = source / CHECKPOINTS
    best = folder / f"best{SUFFIX}"
    if best.exists():
        return best
    if folder.is_dir():
        raise CheckpointError(f"{source}: this run has no best checkpoint yet. Resume it, or name a file in {folder}")
    raise CheckpointError(f"{source}: found a folder without {CHECKPOINTS}/, expected a run or a checkpoint file")


def has_checkpoints(run_dir: Path) -> bool:
    """True if the folder holds a run that can be resumed."""
    return bool(_checkpoints(run_dir))


def _checkpoints(run_dir: Path) -> set[Path]:
    """The checkpoint files, without the temporary files of killed processes."""
    return {path for path in (run_dir / CHECKPOINTS).glob(f"*{SUFFIX}") if not is_temporary(path.name)}


def newest_checkpoint(run_dir: Path, announce: Callable[[str], None]) -> LoadedCheckpoint | None:
    """Reads the newest intact checkpoint of a run folder; None if there are no checkpoints.

    Args:
        run_dir: the run folder.
        announce: receives a message about each damaged checkpoint.

    Raises:
        CheckpointError: all checkpoints are damaged.
        VersionError: another version wrote a checkpoint.
    """
    folder = run_dir / CHECKPOINTS
    last = folder / f"last{SUFFIX}"
    intact: list[LoadedCheckpoint] = []
    files = [path for path in (last, *sorted(_checkpoints(run_dir) - {last})) if path.exists()]
    for path in files:
        try:
            intact.append(read_checkpoint(path))
        except VersionError:
            raise  # not damaged: resuming from an older checkpoint would discard training steps
        except CheckpointError as error:
            announce(f"skipped: {error}")
        if path == last and intact:  # `last` is the newest
            return intact[0]
    if files and not intact:
        raise CheckpointError(f"{folder}: all {len(files)} checkpoints are damaged. Start in another --run-dir")
    return max(intact, key=lambda checkpoint: checkpoint.step, default=None)
