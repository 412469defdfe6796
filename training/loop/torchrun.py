"""Runs `train --nproc` as several ranks of this machine, under torchrun's elastic agent.

When a rank dies, the agent ends the others. A killed rank (out of memory, a lost node) restarts all ranks from the last
checkpoint of the run. A rank that exits with an error would fail again, so it ends the run.
"""

import fcntl
import logging
import os
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ganctl.processes import available_cores
from ganctl.training.checkpoint.run_dir import LOGS
from ganctl.training.errors import ConfigError, TrainingError

_RESTARTS = 3
_INTERRUPTED = 130
_SHUTDOWN = "600"  # seconds for ranks to save after a signal; an evaluation in progress finishes first
_SIGTERM = -15  # sent by the agent to end ranks; not a failure
_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")  # forwarded to the ranks, as by torchrun
_REPEAT_WINDOW = 2.0  # seconds in which a repeated signal counts as the same one (see callbacks/stopping.py)


@dataclass(frozen=True)
class RanksResult:
    """The exit code of the ranks, the first rank's stdout, and the name of the signal that ended them, if any."""

    exit_code: int
    stdout: str
    signal: str = ""


def count_ranks(nproc: str) -> int:
    """Parses `--nproc`: a number, or `auto` for one rank per visible GPU (one rank without GPUs).

    Raises:
        ConfigError: the value is neither.
    """
    if nproc == "auto":
        return max(1, torch.cuda.device_count())
    if not (nproc.isascii() and nproc.isdigit()) or int(nproc) < 1:
        raise ConfigError([f"--nproc {nproc}: expected a number of ranks above 0, or auto."])
    return int(nproc)


def run_ranks(
    command: Sequence[str],
    *,
    ranks: int,
    run_dir: Path,
    announce: Callable[[str], None],
    launch: "Callable[[Sequence[str], int, Path], RanksResult | None] | None" = None,
) -> RanksResult:
    """Runs a command as several ranks and waits until they end.

    Args:
        command: `ganctl train` with its arguments, which must name `run_dir`.
        ranks: the number of processes; without OMP_NUM_THREADS they share the cores equally.
        run_dir: the run folder, whose last checkpoint killed ranks resume from.
        announce: called with a message at each restart.
        launch: starts the ranks once and returns None if one was killed; by default with torchrun's agent.

    Raises:
        TrainingError: ranks were killed at every one of four starts.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the ranks report their own errors
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // ranks)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _SHUTDOWN)
    for attempt in range(_RESTARTS + 1):
        extra = ["--restarted"] if attempt else []
        with _logs(run_dir) as logs:
            result = (launch or _launch)([*command, *extra], ranks, logs)
        if result is not None:
            return result
        if attempt < _RESTARTS:
            announce(f"a rank was killed: all {ranks} ranks restart from the last checkpoint in {run_dir}")
    raise TrainingError(
        f"{run_dir}: ranks were killed {_RESTARTS + 1} times (out of memory?); the last checkpoint is intact. Continue"
        " with --resume auto and a smaller --batch-size."
    )


def _launch(command: Sequence[str], ranks: int, logs: Path) -> RanksResult | None:
    """Starts all ranks once and waits until they end; returns None if one was killed."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # a free port: several runs may live on one machine
        max_restarts=0,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=Std.OUT),
        signals_to_handle="",  # torch's handlers would end a run under nohup, and again on each repeated signal
    )
    try:
        with _signals_as_exceptions():
            elastic_launch(config, command[0])(*command[1:])
    except SignalException as error:  # the agent has forwarded it and waited for the ranks
        stdout = _stdout(logs)
        return RanksResult(_INTERRUPTED if _has_result(stdout) else 128 + error.sigval, stdout, error.sigval.name)
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        if any(code < 0 and code != _SIGTERM for code in codes):
            return None
        return RanksResult(max(1, *codes), _stdout(logs))
    return RanksResult(0, _stdout(logs))


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Raises torch's SignalException in the agent, which then ends the ranks with that signal.

    Signals that were ignored when this process started (nohup, `&` in a script) stay ignored. Repeats of the first
    signal are ignored as well: a closed terminal sends SIGHUP twice, a scheduler signals every process.
    """
    first_signal = -_REPEAT_WINDOW

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal first_signal
        if time.monotonic() - first_signal >= _REPEAT_WINDOW:
            first_signal = time.monotonic()
            raise SignalException(f"got {signal.Signals(number).name}", signal.Signals(number))

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    previous = {number: signal.getsignal(number) for number in numbers}
    handled = [number for number in numbers if previous[number] is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, stop)
    try:
        yield
    except SignalException:
        previous = dict.fromkeys(handled, signal.SIG_IGN)  # the ranks have ended; their result must still be printed
        raise
    finally:
        for number in handled:
            signal.signal(number, previous[number])


@contextmanager
def _logs(run_dir: Path) -> Iterator[Path]:
    """Yields a folder for the ranks' output inside the run folder; deletes it, and empty parents it made, at the end.

    The folder is locked. The next start deletes unlocked ones, which a killed parent process left.
    """
    root = run_dir / LOGS
    created = [folder for folder in root.parents if not folder.exists()]
    root.mkdir(parents=True, exist_ok=True)
    logs = root / uuid.uuid4().hex
    with ExitStack() as stack:
        with _locked(root, wait=True):
            for leftover in root.iterdir():
                with _locked(leftover) as unused:
                    if unused:
                        shutil.rmtree(leftover)
            logs.mkdir()
            stack.enter_context(_locked(logs))
        try:
            yield logs
        finally:
            shutil.rmtree(logs)
            for folder in (root, *created):
                with suppress(OSError):  # not empty
                    folder.rmdir()


@contextmanager
def _locked(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """Locks a folder where its file system can, and yields whether this process holds the lock."""
    file = os.open(folder, os.O_RDONLY)
    try:
        locked = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:  # locked by another process, or unsupported (NFS locks no folders)
            locked = False
        yield locked
    finally:
        os.close(file)


def _stdout(logs: Path) -> str:
    """Reads the first rank's stdout; ranks write in the encoding of this process's stdout."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return "".join(path.read_text(encoding) for path in sorted(logs.glob("**/0/stdout.log")))


def _has_result(stdout: str) -> bool:
    """Returns whether the first rank printed its result, which it does after everything is saved."""
    return bool(stdout.strip()) and not stdout.startswith('{"error"')
