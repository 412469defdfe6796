"""Starts trainings in other processes: alone, with `--nproc`, or under torchrun; finds the process of a rank."""

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests import held
from tests.conftest import SMALL
from tests.waiting import PATIENCE

SETTINGS = (*SMALL, "train.batch_size=32", "train.duration=40000 images", "evaluation.every=640 images")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

Process = subprocess.Popen[str]


def start(
    run_dir: Path,
    *words: str,
    torchrun: tuple[str, ...] = (),
    preset: str = "conv",
    python_path: Path | None = None,
    hold: held.Hold | None = None,
    ignored: signal.Signals | None = None,
    terminal: int | None = None,
    variables: Mapping[str, str] | None = None,
) -> Process:
    """Starts `ganctl train` for `run_dir`.

    Args:
        run_dir: the value of `--run-dir`.
        words: more arguments of `ganctl train`.
        torchrun: options of torchrun; if empty, the command runs without torchrun.
        preset: the value of `--preset`.
        python_path: a folder for PYTHONPATH.
        hold: holds the training; see tests/held.py.
        ignored: a signal that the process ignores from its start.
        terminal: file descriptor of a terminal, which becomes the controlling terminal and receives all output.
        variables: additional environment variables.
    """

    def prepare() -> None:
        if ignored is not None:
            signal.signal(ignored, signal.SIG_IGN)
        if terminal is not None:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    standalone = () if "--nnodes=2" in torchrun else ("--standalone",)
    launcher = ["-m", "torch.distributed.run", *standalone, *torchrun] if torchrun else []
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    command = [sys.executable, *launcher, "-m", "ganctl", "train", "--run-dir", str(run_dir), "--preset", preset]
    path = ":".join([held.ROOT, *([str(python_path)] if python_path else [])])
    return subprocess.Popen(
        [*command, *settings, *held.CALLBACK, *words, "--json"],
        env=ENVIRONMENT | (hold.environment if hold else {}) | {"PYTHONPATH": path} | dict(variables or {}),
        stdout=terminal or subprocess.PIPE,
        stderr=terminal or subprocess.PIPE,
        text=True,
        start_new_session=terminal is not None,
        preexec_fn=prepare,
    )


def finish(process: Process) -> tuple[str, str]:
    """Waits for the end of the process; returns its stdout and stderr."""
    return process.communicate(timeout=PATIENCE)


def check_interrupted(stderr: str, number: signal.Signals, step: int) -> None:
    """Checks that the message about a stopped training names the signal, the saved step and how to resume."""
    assert re.search(rf"\b{number.name}\b.*\bstep {step}\b.*--resume auto", stderr), stderr


def pid_of_rank(run_dir: Path, rank: int) -> int:
    """Returns the process id of a rank that trains in `run_dir`."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or belongs to another user
            continue
        if str(run_dir).encode() in words and f"RANK={rank}".encode() in variables:
            return int(folder.name)
    raise AssertionError(f"rank {rank} of {run_dir} has no process")


@contextmanager
def reserved_port() -> Iterator[int]:
    """Yields a port that a server can listen on, and that the system does not assign to other processes meanwhile."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the server sets it too
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        yield port
