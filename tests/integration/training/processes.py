"""Training in processes of its own: alone, as ranks by `--nproc`, or under torchrun; and how to find and hurt one."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import SMALL

SETTINGS = (*SMALL, "train.batch_size=32", "train.horizon=40000 images", "evaluation.every=640 images")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

Process = subprocess.Popen[str]


def start(
    run_dir: Path,
    *words: str,
    torchrun: tuple[str, ...] = (),
    preset: str = "conv",
    python_path: Path | None = None,
) -> Process:
    """`ganctl train` for `run_dir`; with `torchrun` options by that program."""
    alone = () if "--nnodes=2" in torchrun else ("--standalone",)
    launcher = ["-m", "torch.distributed.run", *alone, *torchrun] if torchrun else []
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    command = [sys.executable, *launcher, "-m", "ganctl", "train", "--run-dir", str(run_dir), "--preset", preset]
    return subprocess.Popen(
        [*command, *settings, *words, "--json"],
        env=ENVIRONMENT | ({"PYTHONPATH": f"{Path.cwd()}:{python_path}"} if python_path else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_rows(run_dir: Path, rows: int, process: Process) -> None:
    """Returns once the run has written so many rows of statistics."""
    log = run_dir / "stats.jsonl"
    deadline = time.monotonic() + 120
    while not log.exists() or log.read_text().count("\n") < rows:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {rows} rows within two minutes"
        time.sleep(0.01)


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


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
