"""The errors that training tells its users, each with the exit code that the command line gives for it.

TrainingError (1)
├── RankLostError (1)    another process of those that train together has gone
├── FolderInUse (2)      a run's folder that holds another run or foreign files, or in which another process trains
├── ConfigError (3)      a setting, a preset or a config file; all faults of a configuration in one error
├── DataError (4)        a data set that is absent, truncated, foreign or damaged
└── CheckpointError (4)  a checkpoint or run that is absent, damaged or of another experiment
    └── VersionError (4) one that another version of ganctl has written in a way unknown here
"""

import os
from collections.abc import Sequence
from pathlib import Path

from ganctl import __version__
from ganctl.versions import written_by


class TrainingError(Exception):
    """Training cannot go on; the message says why and what to do."""

    exit_code = 1


class RankLostError(TrainingError):
    """Another rank has gone, for a reason of its own that it tells itself."""

    @property
    def told_later(self) -> bool:
        """Whether torchrun starts all ranks again after this, so that the result is still to come."""
        restarts, limit = (os.environ.get(f"TORCHELASTIC_{name}", "0") for name in ("RESTART_COUNT", "MAX_RESTARTS"))
        return int(restarts) < int(limit)


class FolderInUse(TrainingError):
    """The run's folder holds another run or foreign files, or another process trains in it."""

    exit_code = 2


class ConfigError(TrainingError, ValueError):
    """One or more faults of a configuration, each naming its setting and where it was given."""

    exit_code = 3

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        head = "the settings have a fault" if len(faults) == 1 else f"the settings have {len(faults)} faults"
        super().__init__(f"{head}:" + "".join(f"\n  - {fault}" for fault in faults))


class DataError(TrainingError, ValueError):
    """A data file that cannot be used; names the file, what was found and what was expected."""

    exit_code = 4


class CheckpointError(TrainingError, ValueError):
    """A checkpoint or a run's folder that cannot be used."""

    exit_code = 4


class VersionError(CheckpointError):
    """A checkpoint whose contents this version of ganctl does not understand."""

    def __init__(self, path: Path, version: str | None, faults: Sequence[str], *, or_else: str = "train again") -> None:
        """`version` wrote the file, None where the file does not say; `faults` are what is not understood."""
        listed = f" {faults[0]} " if len(faults) == 1 else "".join(f"\n  - {fault}" for fault in faults) + "\n"
        writer = "the ganctl that wrote it" if version is None else f"ganctl {version}"
        choice = f"Use {writer}" if version != __version__ else "Use another checkpoint"
        super().__init__(f"{path}:{written_by(version)}{listed}{choice}, or {or_else}.")
