"""Runs `train --nproc` as several ranks of this machine, under torchrun's elastic agent.

When a rank dies, the agent ends the others. A killed rank (out of memory, a lost node) restarts all ranks from the last
checkpoint of the run. A rank that exits with an error would fail again, so it ends the run.
"""

import logging
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ganctl.processes import available_cores
from ganctl.signals import REPEAT_WINDOW, termination_signals
from ganctl.training.errors import ConfigError, TrainingError

_RESTARTS = 3
_INTERRUPTED = 130  # exit code
_SHUTDOWN = "600"  # seconds for ranks to save after a signal; an evaluation in progress finishes first


@dataclass(frozen=True)
class RanksResult:
    """The exit code of the ranks, the stdout of rank 0, and the name of the signal that ended them, if any."""

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
        launch: replaces torchrun's agent, in tests: starts the ranks once; returns None if one was killed.

    Raises:
        TrainingError: ranks were killed at each of four starts.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the ranks report their own errors
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // ranks)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _SHUTDOWN)
    for attempt in range(_RESTARTS + 1):
        extra = ["--restarted"] if attempt else []
        with tempfile.TemporaryDirectory(prefix="ganctl-") as logs:
            result = (launch or _launch)([*command, *extra], ranks, Path(logs))
        if result is not None:
            return result
        if attempt < _RESTARTS:
            announce(f"a rank was killed: all {ranks} ranks restart from the last checkpoint in {run_dir}")
    found = f"{run_dir}: ranks were killed {_RESTARTS + 1} times (out of memory?); the last checkpoint is intact"
    raise TrainingError(f"{found}. Continue with --resume auto and a smaller --batch-size.")


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
        saved = stdout.strip() and not stdout.startswith('{"error"')  # the result is printed after everything is saved
        return RanksResult(_INTERRUPTED if saved else 128 + error.sigval, stdout, error.sigval.name)
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        if any(code < 0 and code != -signal.SIGTERM for code in codes):  # the agent ends the others by SIGTERM
            return None
        return RanksResult(max(1, *codes), _stdout(logs))
    return RanksResult(0, _stdout(logs))


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Raises torch's SignalException in the agent, which then ends the ranks with that signal.

    Signals that were ignored when this process started (nohup, `&` in a script) stay ignored. Repeats of a signal are
    ignored as well.
    """
    last_signal = -REPEAT_WINDOW

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal last_signal
        if time.monotonic() - last_signal >= REPEAT_WINDOW:
            last_signal = time.monotonic()
            raise SignalException(f"got {signal.Signals(number).name}", signal.Signals(number))

    previous = {number: signal.signal(number, stop) for number in termination_signals(signal.SIGQUIT)}
    try:
        yield
    except SignalException:
        previous = dict.fromkeys(previous, signal.SIG_IGN)  # the ranks have ended; their result must still be printed
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stdout(logs: Path) -> str:
    """Reads the stdout of rank 0; ranks write in the encoding of this process's stdout."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return "".join(path.read_text(encoding) for path in sorted(logs.glob("**/0/stdout.log")))
