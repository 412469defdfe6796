"""Recognizes run folders and names them, without torch, so that `ganctl board` starts fast."""

from collections.abc import Sequence
from pathlib import Path

STATISTICS, SETTINGS = "stats.jsonl", "config.toml"
_MARKS = (STATISTICS, "environment.json", "checkpoints")  # each run has at least one of them


def is_run(path: Path) -> bool:
    """Returns whether a folder is a run's: it has statistics, an environment or checkpoints."""
    return path.is_dir() and any((path / name).exists() for name in _MARKS)


def unique_names(folders: Sequence[Path]) -> list[str]:
    """Returns a short name for each of different absolute paths: its last parts, as many as tell it from the others."""
    names = []
    for folder in folders:
        parts = folder.parts[1:] or (folder.anchor,)
        length = next(
            (n for n in range(1, len(parts)) if sum(other.parts[-n:] == parts[-n:] for other in folders) == 1),
            len(parts),
        )
        names.append("/".join(parts[-length:]))
    return names
