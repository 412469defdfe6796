"""A run's folder: its number, its files, and which of its checkpoints stay.

runs/00012-conv-mnist/
    config.toml  environment.json  stats.jsonl  log.txt  samples/*.png  timelapse.gif  events.out.tfevents.*
    checkpoints/  last, best, and step-N for each of the top k and the one before last
"""

import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import tomli_w
import torch

from training.checkpoint import SUFFIX, Checkpoint, read_checkpoint, write_checkpoint
from training.config import CheckpointSettings, Config, sign_of
from training.errors import CheckpointError

CHECKPOINTS = "checkpoints"
_NUMBERED = f"step-{'[0-9]' * 8}{SUFFIX}"


def next_run_folder(config: Config, root: Path = Path("runs")) -> Path:
    """The next numbered folder below `root`; `write_settings` makes it."""
    entries = root.iterdir() if root.is_dir() else ()
    numbers = [int(found[1]) for entry in entries if (found := re.match(r"(\d{5})-", entry.name))]
    return root / f"{max(numbers, default=-1) + 1:05d}-{config.preset}-{config.data.name}"


def write_settings(folder: Path, config: Config) -> None:
    """Writes `config.toml`, from which `train --config` repeats the run, and `environment.json`."""
    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)), "utf-8")
    packages = ("torch", "torchvision", "numpy", "safetensors", "tensorboard")
    environment = {
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cuda_devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "versions": {name: metadata.version(name) for name in packages},
    }
    (folder / "environment.json").write_text(json.dumps(environment, indent=2) + "\n", "utf-8")


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


class CheckpointStore:
    """The `checkpoints` folder of a run: `last`, `best`, the top k by score, and the one before last.

    `ranking` (best first) and `recent` belong to the training state: a resumed run keeps and drops the same files.
    Names that mean the same checkpoint are hard links to one file where the file system has them.
    """

    def __init__(self, run_dir: Path, settings: CheckpointSettings) -> None:
        self.folder = run_dir / CHECKPOINTS
        self._settings = settings
        self._sign = sign_of(settings.monitor, settings.mode)
        self.ranking: list[tuple[float, int]] = []
        self.recent: list[int] = []

    @property
    def last(self) -> Path:
        return self.folder / f"last{SUFFIX}"

    @property
    def best(self) -> Path:
        return self.folder / f"best{SUFFIX}"

    def state_dict(self) -> dict[str, Any]:
        return {"ranking": self.ranking, "recent": self.recent}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up the lists, and makes the folder what they say (a stop may have added a file of its own).

        Checkpoints that are not in this folder (the run goes on in another one) are no longer ranked.
        """
        self.ranking = [(score, step) for score, step in state["ranking"] if self._file(step).exists()]
        self.recent = [step for step in state["recent"] if self._file(step).exists()]
        if self.ranking:
            self._link(self._file(self.ranking[0][1]), self.best)

    def rank(self, step: int, score: float) -> None:
        """Takes the checkpoint of `step`, about to be saved, into the ranking."""
        ranked = sorted([*self.ranking, (score, step)], key=lambda entry: (self._sign * entry[0], entry[1]))
        self.ranking = ranked[: self._settings.save_top_k]

    def keep_recent(self, step: int) -> None:
        """Keeps the checkpoint of `step`, about to be saved, and the one before it."""
        self.recent = [*self.recent[-1:], step]

    def is_best(self, score: float | None) -> bool:
        """Whether a checkpoint with this score, ranked or not, beats all that are ranked."""
        if score is None:
            return False
        return not self.ranking or self._sign * score < self._sign * self.ranking[0][0]

    def save(self, state: Mapping[str, Any], step: int, *, best: bool) -> Path:
        """Writes a checkpoint, points `last` (and `best`) to it, and deletes what the lists no longer name."""
        path = self._file(step)
        write_checkpoint(path, state)
        self._link(path, self.last)
        if best:
            self._link(path, self.best)
        keep = {step for _, step in self.ranking} | set(self.recent)
        for numbered in self.folder.glob(_NUMBERED):
            if int(numbered.stem.removeprefix("step-")) not in keep:
                numbered.unlink()  # `last` and `best` are links of their own
        return self.last

    @staticmethod
    def holds_checkpoints(run_dir: Path) -> bool:
        """Whether the folder holds a run that could be continued."""
        return any((run_dir / CHECKPOINTS).glob(f"*{SUFFIX}"))

    @staticmethod
    def newest(run_dir: Path, announce: Callable[[str], None]) -> Checkpoint | None:
        """The newest sound checkpoint; damaged ones are told to `announce` and passed over. None where there is none.

        Raises:
            CheckpointError: there are checkpoints, all of them damaged.
        """
        folder = run_dir / CHECKPOINTS
        numbered = sorted(folder.glob(_NUMBERED), reverse=True)
        candidates = [path for path in (folder / f"last{SUFFIX}", *numbered, folder / f"best{SUFFIX}") if path.exists()]
        for path in candidates:
            try:
                return read_checkpoint(path)
            except CheckpointError as error:
                announce(f"passed over: {error}")
        if candidates:
            raise CheckpointError(
                f"{folder}: all {len(candidates)} checkpoints are damaged; start in another --run-dir"
            )
        return None

    def _file(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}{SUFFIX}"

    def _link(self, target: Path, name: Path) -> None:
        temporary = name.with_name(f".{name.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        try:
            os.link(target, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(target, temporary)
        try:
            temporary.replace(name)
        finally:
            temporary.unlink(missing_ok=True)  # a rename between two links to one file does nothing
