"""`--nproc`: the same command as several processes of this machine, under torchrun's elastic agent.

The agent watches the ranks: where one dies, it ends the others. A rank that was killed (out of memory, a lost node)
has all of them started again from the run's last checkpoint; one that ended with an error of its own would only do so
again, and ends the run.
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

from ganctl.training.checkpoint.run_dir import LOGS
from ganctl.training.errors import ConfigError, TrainingError

_RESTARTS = 3
_INTERRUPTED = 130
_SHUTDOWN = "600"  # seconds that ranks have to save after a signal: one may be in the middle of an evaluation
_SIGTERM = -15  # the agent's own way to end ranks: no failure by itself
_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")  # that the agent sends on to the ranks, as torchrun does
_ECHO = 2.0  # seconds in which a signal may come again without meaning more (see callbacks/stopping.py)


@dataclass(frozen=True)
class Ended:
    """How the ranks ended: the exit code, the first rank's stdout, and the signal that ended them, if any."""

    exit_code: int
    stdout: str
    signal: str = ""


def count_ranks(asked: str) -> int:
    """What `--nproc` means: a number, or with `auto` one rank for each visible GPU (without any, one on the CPU).

    Raises:
        ConfigError: it is no such thing.
    """
    if asked == "auto":
        return max(1, torch.cuda.device_count())
    if not (asked.isascii() and asked.isdigit()) or int(asked) < 1:
        raise ConfigError([f"--nproc {asked}: expected a number of ranks above 0, or auto."])
    return int(asked)


def run_ranks(command: Sequence[str], *, ranks: int, run_dir: Path, announce: Callable[[str], None]) -> Ended:
    """Runs a command as so many ranks and waits for their end.

    Args:
        command: `ganctl train` with its arguments; they must name `run_dir`, from which killed ranks go on.
        ranks: how many processes; without OMP_NUM_THREADS they share the cores equally.
        run_dir: the run's folder.
        announce: told of restarts.

    Raises:
        TrainingError: ranks were killed more often than it pays to start them again.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the ranks tell what there is to tell
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // ranks)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _SHUTDOWN)
    for attempt in range(_RESTARTS + 1):
        again = ["--restarted"] if attempt else []
        with _logs(run_dir) as logs:
            ended = _launch([*command, *again], ranks, logs)
        if ended is not None:
            return ended
        if attempt < _RESTARTS:
            announce(f"a rank was killed: all {ranks} start again from the last checkpoint in {run_dir}")
    raise TrainingError(
        f"{run_dir}: ranks were killed {_RESTARTS + 1} times (out of memory?); the last checkpoint is whole: continue"
        " with --resume auto, perhaps with a smaller --batch-size"
    )


def _launch(command: Sequence[str], ranks: int, logs: Path) -> Ended | None:
    """One start of all ranks to their end; None where one was killed."""
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
        signals_to_handle="",  # torch's handlers would end a run on what nohup ignores, and on each echo again
    )
    try:
        with _signals_as_exceptions():
            elastic_launch(config, command[0])(*command[1:])
    except SignalException as error:  # the agent has passed it on and waited for the ranks
        stdout = _stdout(logs)
        return Ended(_INTERRUPTED if _tells_result(stdout) else 128 + error.sigval, stdout, error.sigval.name)
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        if any(code < 0 and code != _SIGTERM for code in codes):
            return None
        return Ended(max(1, *codes), _stdout(logs))
    return Ended(0, _stdout(logs))


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Raises torch's SignalException in the agent, which then ends the ranks with that signal.

    Signals that this process was started to ignore (nohup, `&` in a script) stay ignored. After the first signal its
    echoes are: a closed terminal sends SIGHUP twice, a scheduler signals every process.
    """
    since = -_ECHO

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal since
        if time.monotonic() - since >= _ECHO:
            since = time.monotonic()
            raise SignalException(f"got {signal.Signals(number).name}", signal.Signals(number))

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    handled = [number for number in numbers if before[number] is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, stop)
    try:
        yield
    except SignalException:
        before = dict.fromkeys(handled, signal.SIG_IGN)  # the ranks have ended; their result must still be told
        raise
    finally:
        for number in handled:
            signal.signal(number, before[number])


@contextmanager
def _logs(run_dir: Path) -> Iterator[Path]:
    """A folder for the ranks' output in the run's own; afterwards it goes, with all that nothing was put in.

    It is locked, so that the next one may delete what a parent that was killed has left: only what is not locked.
    """
    root = run_dir / LOGS
    made = [folder for folder in root.parents if not folder.exists()]
    root.mkdir(parents=True, exist_ok=True)
    logs = root / uuid.uuid4().hex
    with ExitStack() as stack:
        with _locked(root, wait=True):
            for left in root.iterdir():
                with _locked(left) as free:
                    if free:
                        shutil.rmtree(left)
            logs.mkdir()
            stack.enter_context(_locked(logs))
        try:
            yield logs
        finally:
            shutil.rmtree(logs)
            for folder in (root, *made):
                with suppress(OSError):  # something is in it
                    folder.rmdir()


@contextmanager
def _locked(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """Locks a folder, as far as its file system can; gives whether it is locked by us."""
    file = os.open(folder, os.O_RDONLY)
    try:
        locked = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:  # by another process, or not possible here (NFS locks no folders)
            locked = False
        yield locked
    finally:
        os.close(file)


def _stdout(logs: Path) -> str:
    """Stdout of the first rank; ranks write in the encoding of this process's own stdout."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return "".join(path.read_text(encoding) for path in sorted(logs.glob("**/0/stdout.log")))


def _tells_result(stdout: str) -> bool:
    """Whether the first rank came to tell how the run ended, which it does once everything is saved."""
    return bool(stdout.strip()) and not stdout.startswith('{"error"')


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
