"""Errors of training, each with the exit code of the command line.

TrainingError (1)
├── RankLostError (1)    another rank ended
├── DivergenceError (1)  a loss or a weight became NaN or inf
├── FolderInUse (2)      a run folder that holds another run or other files, or in which another process trains
├── ConfigError (3)      a setting, a preset or a config file; one exception holds all errors of a configuration
├── DataError (4)        a data set that is absent, truncated, damaged or of another format
└── CheckpointError (4)  a checkpoint or run that is absent, damaged or of another experiment
    └── VersionError (4) a checkpoint of another ganctl version with unknown content
"""

import os
from collections.abc import Sequence
from pathlib import Path

from ganctl import __version__
from ganctl.versions import written_by


class TrainingError(Exception):
    """Error that ends training; the message gives the reason and the remedy."""

    exit_code = 1


class RankLostError(TrainingError):
    """Another rank ended; that rank reports the reason."""

    @property
    def will_restart(self) -> bool:
        """True if torchrun restarts all ranks after this error, so that the result is still to come."""
        restarts, limit = (os.environ.get(f"TORCHELASTIC_{name}", "0") for name in ("RESTART_COUNT", "MAX_RESTARTS"))
        return int(restarts) < int(limit)


class DivergenceError(TrainingError):
    """A loss or a weight became NaN or inf."""


class FolderInUse(TrainingError):
    """Run folder that holds another run or other files, or in which another process trains."""

    exit_code = 2


class ConfigError(TrainingError, ValueError):
    """One or more errors of a configuration; each names its setting and its source."""

    exit_code = 3

    def __init__(self, errors: Sequence[str]) -> None:
        self.errors = tuple(errors)
        head = "the settings have an error" if len(errors) == 1 else f"the settings have {len(errors)} errors"
        super().__init__(f"{head}:" + "".join(f"\n  - {error}" for error in errors))


class DataError(TrainingError, ValueError):
    """Data file that cannot be used; the message names the file, the finding and the expectation."""

    exit_code = 4


class CheckpointError(TrainingError, ValueError):
    """Checkpoint or run folder that cannot be used."""

    exit_code = 4


class VersionError(CheckpointError):
    """Checkpoint with content that this version of ganctl does not understand."""

    def __init__(
        self, path: Path, version: str | None, errors: Sequence[str], *, alternative: str = "train again"
    ) -> None:
        """Builds the message.

        Args:
            path: the checkpoint.
            version: the ganctl version that wrote it; None if the file names no version.
            errors: the parts that are not understood.
            alternative: a remedy besides the other version.
        """
        listed = f" {errors[0]} " if len(errors) == 1 else "".join(f"\n  - {error}" for error in errors) + "\n"
        writer = "the ganctl that wrote it" if version is None else f"ganctl {version}"
        choice = f"Use {writer}" if version != __version__ else "Use another checkpoint"
        super().__init__(f"{path}:{written_by(version)}{listed}{choice}, or {alternative}.")


def divergence_error(finding: str, step: int) -> DivergenceError:
    """Returns the error of a run in which a number became NaN or inf."""
    remedy = "Lower optimizer.lr, or raise loss.r1 and loss.r2"
    return DivergenceError(f"{finding} at step {step}. The checkpoint before stays the last one. {remedy}.")
