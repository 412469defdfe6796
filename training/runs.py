"""A run's folder: its number, its files, and how its checkpoints are found.

runs/00012-conv-mnist/
    config.toml  environment.json  stats.jsonl  log.txt  samples/*.png  timelapse.gif  events.out.tfevents.*
    checkpoints/  last, best, and step-N for each of the top k and the one before last
"""

import json
import os
import platform
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

from training.atomic_write import write_file
from training.checkpoint import SUFFIX, Saved, read_checkpoint
from training.config import Config
from training.errors import CheckpointError, TrainingError
from training.settings import config_toml

CHECKPOINTS = "checkpoints"
LOGS = ".ranks"  # where several ranks' output lies while they run


def next_run_folder(config: Config) -> Path:
    """The next numbered folder below `log.root`; `write_settings` makes it."""
    root = config.log.root or Path("runs")
    entries = root.iterdir() if root.is_dir() else ()
    numbers = [int(found[1]) for entry in entries if (found := re.match(r"(\d{5})-", entry.name))]
    name = config.log.name or f"{config.preset}-{config.data.name.replace(':', '.')}"
    return root / f"{max(numbers, default=-1) + 1:05d}-{name}"


class FolderInUse(TrainingError):
    """The folder already holds a run, and nobody asked to continue it."""

    exit_code = 2


def begin_folder(folder: Path, config: Config, ranks: int, *, fresh: bool, numbered: bool) -> Path:
    """Makes the run's folder, with its settings.

    Args:
        folder: where it is to be.
        config, ranks: what is written down.
        fresh: whether the run begins here, rather than goes on.
        numbered: whether another number will do where somebody has taken the folder meanwhile.

    Raises:
        FolderInUse: a fresh run finds the checkpoints of another one.
    """
    if fresh and numbered:
        while True:
            try:
                folder.mkdir(parents=True)
                break
            except FileExistsError:
                folder = next_run_folder(config)
    elif fresh and holds_checkpoints(folder):
        raise FolderInUse(f"{folder} already holds a run; continue it (Launch with resume='auto'), or name another")
    write_settings(folder, config, ranks)
    return folder


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
        "versions": {name: metadata.version(name) for name in packages},
    }
    write_file(folder / "environment.json", json.dumps(environment, indent=2) + "\n")


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
    return any((run_dir / CHECKPOINTS).glob(f"*{SUFFIX}"))


def newest_checkpoint(run_dir: Path, announce: Callable[[str], None]) -> Saved | None:
    """The newest sound checkpoint; damaged ones are told to `announce` and passed over. None where there is none.

    Raises:
        CheckpointError: there are checkpoints, all of them damaged.
    """
    folder = run_dir / CHECKPOINTS
    last = folder / f"last{SUFFIX}"
    sound: list[Saved] = []
    files = [path for path in (last, *sorted(set(folder.glob(f"*{SUFFIX}")) - {last})) if path.exists()]
    for path in files:
        try:
            sound.append(read_checkpoint(path))
        except CheckpointError as error:
            announce(f"passed over: {error}")
        if path == last and sound:  # nothing is newer, the others need not be read
            return sound[0]
    if files and not sound:
        raise CheckpointError(f"{folder}: all {len(files)} checkpoints are damaged; start in another --run-dir")
    return max(sound, key=lambda saved: saved.step, default=None)
