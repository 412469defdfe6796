"""Runs `ganctl` in a process forked from one that has imported torch: a new process without the seconds of an import.

A test about the start of Python itself (import path, locale, limits) starts `python -m ganctl` instead.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

PRELOADED = (
    "torch", "torch.fx.experimental.symbolic_shapes", "torch.utils.tensorboard", "onnx",
    "ganctl.training.cli.train", "ganctl.training.cli.evaluate", "ganctl.training.cli.sample", "ganctl.exports.cli",
)  # fmt: skip


class ForkServer:
    """Forks one command at a time from a process that the first command starts."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def run(
        self, words: Sequence[str], cwd: Path, env: Mapping[str, str], timeout: float
    ) -> "subprocess.CompletedProcess[str]":
        """Runs `ganctl WORDS…` as `subprocess.run` does with its streams captured."""
        if self._server is None:
            # -P keeps the folder of this file, with its http.py, out of the import path
            command = [sys.executable, "-P", __file__]
            self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        requests, replies = self._server.stdin, self._server.stdout
        assert requests is not None
        assert replies is not None
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            streams = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (stdout, stderr)]
            print(json.dumps([words, str(cwd), dict(env), streams]), file=requests, flush=True)
            pid = int(replies.readline())
            ended, _, _ = select.select([replies], [], [], timeout)
            if not ended:
                os.kill(pid, signal.SIGKILL)
            code = int(replies.readline())
            if not ended:
                raise subprocess.TimeoutExpired(["ganctl", *words], timeout)
            return subprocess.CompletedProcess(["ganctl", *words], code, stdout.read(), stderr.read())

    def close(self) -> None:
        """Ends the process."""
        if self._server is not None:
            self._server.communicate()


def _serve() -> None:
    """Forks a command for each line of stdin; prints its process id and, after its end, its exit code."""
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # or each command would collect the modules at its exit, in half a second
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become_ganctl(*json.loads(line))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become_ganctl(words: list[str], cwd: str, env: dict[str, str], streams: list[str]) -> None:
    """Ends this process with the exit code of `ganctl WORDS…`, by SystemExit."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY), descriptor)
    sys.argv = ["ganctl", *words]
    runpy.run_module("ganctl", run_name="__main__")


if __name__ == "__main__":
    _serve()
