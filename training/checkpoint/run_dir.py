"""A run's folder: its number, its files, and how its checkpoints are found.

runs/00012-conv-mnist/
    .lock  config.toml  environment.json  stats.jsonl  log.txt  samples/*.png  timelapse.gif  events.out.tfevents.*
    checkpoints/  last, best, and step-N for each of the top k and the one before last
"""

import json
import logging
import os
import platform
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

from ganctl import __version__
from ganctl.files import is_temporary, write_file
from ganctl.training.checkpoint import run_lock
from ganctl.training.checkpoint.format import SUFFIX, Saved, read_checkpoint
from ganctl.training.checkpoint.run_lock import RunLock
from ganctl.training.config.resolve import config_toml
from ganctl.training.config.schema import Config
from ganctl.training.data.system_files import system_name
from ganctl.training.errors import CheckpointError, FolderInUse, VersionError

CHECKPOINTS = "checkpoints"
LOGS = ".ranks"  # where several ranks' output lies while they run
_ENVIRONMENT, _OLD_LOG = "environment.json", "log.old.txt"
# names in a run's folder: of any folder, and of one in which a run has begun
_ANYWHERE = re.compile(rf"{re.escape(LOGS)}|{re.escape(run_lock.NAME)}|\.nfs[0-9a-f]+")
_OF_A_START = re.compile(
    rf"{_ANYWHERE.pattern}|{CHECKPOINTS}|samples|profile|config\.toml|environment\.json|stats\.jsonl|log(\.old)?\.txt"
    r"|timelapse\.gif|events\.out\.tfevents\..*"
)
_STATISTICS = (
    "stats.jsonl", "events.out.tfevents.*", "timelapse.gif", "samples/" + "[0-9]" * 8 + ".png",
    "profile/*.pt.trace.json*",
)  # fmt: skip
_log = logging.getLogger(__name__)


def next_run_folder(config: Config) -> Path:
    """The next numbered folder below `log.root`; `write_settings` makes it."""
    root = config.log.root or Path("runs")
    entries = root.iterdir() if root.is_dir() else ()
    numbers = [int(found[1]) for entry in entries if (found := re.match(r"(\d{5})-", entry.name))]
    name = config.log.name or f"{config.preset}-{config.data.name.replace(':', '.')}"
    return root / f"{max(numbers, default=-1) + 1:05d}-{name}"


def make_numbered(folder: Path, config: Config) -> Path:
    """Makes the folder of a fresh run; the next number is taken where another process has made it meanwhile."""
    while True:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            folder = next_run_folder(config)
        else:
            return folder


def begin_folder(folder: Path, lock: RunLock, *, fresh: bool) -> None:
    """Makes the run's folder, where it is absent, and locks it.

    Args:
        folder: where it is to be.
        lock: to be taken.
        fresh: whether the run begins here, rather than goes on. What an earlier start has left is then cleared away.

    Raises:
        FolderInUse: another process trains in it, or a fresh run finds the checkpoints of another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock.take(folder)
    if fresh and holds_checkpoints(folder):
        raise FolderInUse(f"{folder} already holds a run; continue it (Session with resume='auto'), or name another")
    if fresh and foreign_file(folder) is None:
        _clear_start(folder)


def foreign_file(folder: Path) -> str | None:
    """The name of a file that says that `folder` is not one of a run without a checkpoint; None where there is none.

    Where a run has begun, any other file is one of its callbacks', or was put there since.
    """
    if not folder.is_dir():
        return folder.name
    names = sorted(path.name for path in folder.iterdir())
    if {CHECKPOINTS, _ENVIRONMENT, "config.toml"} <= {*names}:
        return None
    ours = _ANYWHERE if {CHECKPOINTS, _ENVIRONMENT}.isdisjoint(names) else _OF_A_START
    return next((name for name in names if not (ours.fullmatch(name) or is_temporary(name) or system_name(name))), None)


def _clear_start(folder: Path) -> None:
    """Deletes the statistics and pictures of a start that has left no checkpoint; renames its log."""
    left = [path for pattern in _STATISTICS for path in folder.glob(pattern)]
    for path in left:
        path.unlink()
    if (log := folder / "log.txt").exists():
        log.replace(folder / _OLD_LOG)
        left.append(log)
    if left:
        _log.warning(
            "%s: an earlier start has left no checkpoint, so the run begins anew: its statistics and pictures are"
            " deleted, its log is now %s", folder, _OLD_LOG,
        )  # fmt: skip


def write_settings(folder: Path, config: Config, ranks: int = 1) -> None:
    """Writes `config.toml`, from which `train --config` repeats the run, and `environment.json`."""
    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    write_file(folder / "config.toml", config_toml(config))
    packages = ("torch", "torchvision", "numpy", "safetensors", "tensorboard")
    environment = {
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "ranks": ranks,
        "torch_threads": torch.get_num_threads(),
        "cuda_devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "versions": {"ganctl": __version__} | {name: metadata.version(name) for name in packages},
    }
    write_file(folder / _ENVIRONMENT, json.dumps(environment, indent=2) + "\n")


def find_checkpoint(source: Path) -> Path:
    """The checkpoint that `source` means: itself, or the best one of a run's folder.

    Raises:
        CheckpointError: there is nothing, or a run that has no best checkpoint yet.
    """
    if source.is_file():
        return source
    if not source.exists():
        raise CheckpointError(f"{source}: there is no such run or checkpoint")
    folder = source / CHECKPOINTS
    best = folder / f"best{SUFFIX}"
    if best.exists():
        return best
    if folder.is_dir():
        raise CheckpointError(
            f"{source}: this run has no best checkpoint yet (it was not evaluated); continue it with"
            f" 'ganctl train --run-dir {source} --resume auto', or name a file in {folder}"
        )
    raise CheckpointError(f"{source}: no run's folder (it has no {CHECKPOINTS}/), expected a run or a checkpoint file")


def holds_checkpoints(run_dir: Path) -> bool:
    """Whether the folder holds a run that could be continued."""
    return bool(_checkpoints(run_dir))


def _checkpoints(run_dir: Path) -> set[Path]:
    """The files of its checkpoints, without what a process has left that was killed in a save."""
    return {path for path in (run_dir / CHECKPOINTS).glob(f"*{SUFFIX}") if not is_temporary(path.name)}


def newest_checkpoint(run_dir: Path, announce: Callable[[str], None]) -> Saved | None:
    """The newest sound checkpoint; damaged ones are told to `announce` and passed over. None where there is none.

    Raises:
        CheckpointError: there are checkpoints, all of them damaged.
    """
    folder = run_dir / CHECKPOINTS
    last = folder / f"last{SUFFIX}"
    sound: list[Saved] = []
    files = [path for path in (last, *sorted(_checkpoints(run_dir) - {last})) if path.exists()]
    for path in files:
        try:
            sound.append(read_checkpoint(path))
        except VersionError:
            raise  # not damaged: what is older would be trained anew
        except CheckpointError as error:
            announce(f"passed over: {error}")
        if path == last and sound:  # nothing is newer, the others need not be read
            return sound[0]
    if files and not sound:
        raise CheckpointError(f"{folder}: all {len(files)} checkpoints are damaged; start in another --run-dir")
    return max(sound, key=lambda saved: saved.step, default=None)
