"""Training in processes of its own: alone, as ranks by `--nproc`, or under torchrun; and how to find and hurt one."""

import fcntl
import os
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
    """`ganctl train` for `run_dir`; with `torchrun` options by that program. It waits where `hold` says.

    Args:
        ignored: a signal that the process is started to ignore.
        terminal: the file descriptor of a terminal that becomes the process's own, for all that it writes.
        variables: of its environment, beside ours.
    """

    def prepare() -> None:
        if ignored is not None:
            signal.signal(ignored, signal.SIG_IGN)
        if terminal is not None:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    alone = () if "--nnodes=2" in torchrun else ("--standalone",)
    launcher = ["-m", "torch.distributed.run", *alone, *torchrun] if torchrun else []
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
    """What it has written to stdout and stderr when it ends."""
    return process.communicate(timeout=PATIENCE)


def pid_of_rank(run_dir: Path, rank: int) -> int:
    """The process that trains as this rank into `run_dir`."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile, or is somebody else's
            continue
        if str(run_dir).encode() in words and f"RANK={rank}".encode() in variables:
            return int(folder.name)
    raise AssertionError(f"no process is rank {rank} of {run_dir}")


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port that the system gives to nobody who asks for any port, and that a server may listen on."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        yield port
