"""Reads the files of a run folder for a report, also those of an unfinished run or of another version."""

import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganctl.files import read_file
from ganctl.training.callbacks.base import FINISHED
from ganctl.training.callbacks.logs import RESULT
from ganctl.training.checkpoint.environment_file import ENVIRONMENT, read_environment
from ganctl.training.checkpoint.run_dir import CHECKPOINTS
from ganctl.training.checkpoint.run_lock import RunLock
from ganctl.training.errors import CheckpointError, FolderInUse
from ganctl.training.report.folders import SETTINGS, STATISTICS, is_run, unique_names

_STATES = {
    "completed": "completed",
    "early-stopping": "completed: early stopping",
    "goal": "completed: the goal was reached",
    "diverged": "diverged",
    "failed": "failed",
    "max-steps": "stopped at the step limit, before its end",
    "max-time": "stopped at the time limit, before its end",
}
_LOG_EVENT = re.compile(r"^[-\d]+ [:.\d]+ (?:begins at step \d+|ends at step \d+: (?P<reason>\S+))$")


@dataclass(frozen=True)
class RunRecord:
    """The content of a run folder, without its checkpoints.

    Attributes:
        path: the folder, absolute.
        name: unique among the runs of a report.
        settings: `preset` and `section.key` → value; empty if config.toml is absent or damaged.
        environment: of environment.json; empty if that is absent or damaged.
        rows: the objects of stats.jsonl, in order.
        end: how the run ended: stop_reason, scores, perhaps error; empty if it trains, or was killed.
        running: whether a process trains in the folder.
        faults: messages about files that cannot be read.
    """

    path: Path
    name: str
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    end: Mapping[str, Any]
    running: bool
    faults: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """True if the run has reached its duration or its goal."""
        return self.end.get("stop_reason") in FINISHED

    @property
    def state(self) -> str:
        """The state in words."""
        if self.running:
            return "running"
        reason = self.end.get("stop_reason")
        if reason is None:
            return "interrupted: the process ended without a final save"
        return _STATES.get(str(reason), f"interrupted: stopped by {reason}")

    @property
    def troubled(self) -> bool:
        """True if the run failed, or was interrupted."""
        limits = ("max-steps", "max-time")
        return not (self.running or self.finished or self.end.get("stop_reason") in limits)

    @property
    def evaluations(self) -> list[Mapping[str, Any]]:
        """The scores of each evaluation, with `step` and `images`."""
        rows = (row for row in self.rows if isinstance(row.get("evaluation"), Mapping))
        return [{"step": row.get("step"), "images": row.get("images"), **row["evaluation"]} for row in rows]

    @property
    def position(self) -> tuple[int, int]:
        """The last known step, and the number of images trained on."""
        last = self.end if number(self.end.get("step")) is not None else self.rows[-1] if self.rows else {}
        return tuple(int(number(last.get(name)) or 0) for name in ("step", "images"))  # type: ignore[return-value]  # two

    @property
    def seconds(self) -> float:
        """Seconds of training, over all starts: each one counts from 0."""
        total = previous = 0.0
        start = None  # rows of earlier versions have none
        for row in self.rows:
            seconds = number(row.get("seconds")) or 0.0
            same = seconds >= previous and row.get("start") == start
            total += seconds - previous if same else seconds
            previous, start = seconds, row.get("start")
        return total

    @property
    def sample_grids(self) -> list[Path]:
        """The pictures of fixed latents, in the order of their steps."""
        return sorted((self.path / "samples").glob("[0-9]" * 8 + ".png"))

    def curve(self, name: str) -> list[tuple[float, float]]:
        """The finite values of a statistic, as (images trained on, value)."""
        return list(_points(self.rows, name))

    def score_curve(self, name: str) -> list[tuple[float, float]]:
        """The finite values of a score, as (images trained on, value)."""
        return list(_points(self.evaluations, name))

    @property
    def statistics(self) -> list[str]:
        """The names of the statistics of the log intervals, in the order of their first occurrence."""
        rows = (row for row in self.rows if "evaluation" not in row)
        names = dict.fromkeys(name for row in rows for name, value in row.items() if number(value) is not None)
        return [name for name in names if name not in ("step", "images", "seconds", "start")]


def number(value: Any) -> float | None:
    """Returns a finite number as a float; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        real = float(value)
    except OverflowError:  # an integer beyond the range of floats
        return None
    return real if math.isfinite(real) else None


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> Iterator[tuple[float, float]]:
    for row in rows:
        images, value = number(row.get("images")), number(row.get(name))
        if images is not None and value is not None:
            yield images, value


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Reads run folders.

    Raises:
        CheckpointError: a path is no run folder.
        OSError: a file exists and cannot be read.
    """
    for path in paths:
        if not is_run(path):
            found = "a folder" if path.is_dir() else "a file" if path.exists() else "nothing"
            expected = f"the folder of a run, with {STATISTICS} or {CHECKPOINTS}/"
            raise CheckpointError(
                f"{path}: found {found}, expected {expected}. Name a folder such as runs/00000-auto-mnist"
            )
    folders = list(dict.fromkeys(path.resolve() for path in paths))
    return [_read_run(path, name) for path, name in zip(folders, unique_names(folders), strict=True)]


def _read_run(path: Path, name: str) -> RunRecord:
    faults: list[str] = []
    rows, settings = _read_rows(path / STATISTICS, faults), _read_settings(path / SETTINGS, faults)
    environment = read_environment(path)
    if not environment:
        faults.append(f"{ENVIRONMENT} is absent or damaged")
    running = _is_running(path)
    end = {} if running else _read_end(path)
    return RunRecord(path, name, settings, environment, rows, end, running, tuple(faults))


def _is_running(path: Path) -> bool:
    try:
        RunLock(timeout=0).check(path)
    except FolderInUse:
        return True
    return False


def _read_end(path: Path) -> Mapping[str, Any]:
    """Reads how a run has ended; the stop reason alone from the log of an earlier version."""
    try:
        result = json.loads((path / RESULT).read_bytes())
        return result if isinstance(result, dict) else {}
    except FileNotFoundError:
        pass
    except (ValueError, RecursionError, IsADirectoryError):  # damaged
        return {}
    log = path / "log.txt"
    lines = read_file(log).decode("utf-8", "replace").splitlines() if log.exists() else []
    events = [event for line in lines if (event := _LOG_EVENT.search(line))]
    return {"stop_reason": events[-1]["reason"]} if events and events[-1]["reason"] else {}


def _read_rows(path: Path, faults: list[str]) -> Sequence[Mapping[str, Any]]:
    """Reads JSON lines. A torn last line is one that is being written, or that a killed process left."""
    if not path.exists():
        return []
    rows, lines = [], read_file(path).split(b"\n")
    for index, line in enumerate(lines):
        try:
            row = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError):  # also of bytes that are not UTF-8
            row = None
        if isinstance(row, dict):
            rows += [row] if row else []
        elif index < len(lines) - 1:
            faults.append(f"{path.name}, line {index + 1}: found no JSON object")
    return rows


def _read_settings(path: Path, faults: list[str]) -> dict[str, Any]:
    if not path.exists():
        faults.append(f"{path.name} is absent")
        return {}
    try:
        tree = tomllib.loads(read_file(path).decode("utf-8"))
    except ValueError as error:
        faults.append(f"{path.name} cannot be read: {error}")
        return {}
    settings: dict[str, Any] = {}
    for section, content in tree.items():
        if isinstance(content, Mapping):
            settings |= {f"{section}.{key}": value for key, value in content.items()}
        else:
            settings[section] = content
    return settings
