"""Runs `ganctl` in a process that is forked from one that has imported torch, which saves seconds of imports.

A test about the start of Python (import path, locale, limits) runs `python -m ganctl` instead.
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
    """Runs one command at a time, forked from a server process; the first command starts that process."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def run(
        self, words: Sequence[str], cwd: Path, env: Mapping[str, str], timeout: float
    ) -> "subprocess.CompletedProcess[str]":
        """Runs `ganctl WORDS…`, like `subprocess.run` with `capture_output=True`."""
        if self._server is None:
            # -P: tests/http.py must not shadow the standard library's http
            command = [sys.executable, "-P", __file__]
            self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        requests, replies = self._server.stdin, self._server.stdout
        assert requests is not None
        assert replies is not None
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            streams = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (stdout, stderr)]
            print(json.dumps([words, str(cwd), dict(env), streams]), file=requests, flush=True)
            pid = int(replies.readline())
            readable, _, _ = select.select([replies], [], [], timeout)
            if not readable:
                os.kill(pid, signal.SIGKILL)
            code = int(replies.readline())
            if not readable:
                raise subprocess.TimeoutExpired(["ganctl", *words], timeout)
            return subprocess.CompletedProcess(["ganctl", *words], code, stdout.read(), stderr.read())

    def close(self) -> None:
        """Ends the server process."""
        if self._server is not None:
            self._server.communicate()


def _serve() -> None:
    """Forks a command for each line of stdin; prints its process id and, when it ends, its exit code."""
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # without it, each command spends half a second at exit on collecting the modules
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _run_ganctl(*json.loads(line))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run_ganctl(words: list[str], cwd: str, env: dict[str, str], streams: list[str]) -> None:
    """Runs `ganctl WORDS…` in this process, which then ends by SystemExit with its exit code."""
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
