"""Starts TorchServe's front end in a private folder of its own, which holds all that it reads and writes.

Java is launched directly, not through the `torchserve` script: that keeps one pid file for the whole machine, starts in
the background, and passes no signal on.
"""

import ctypes
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ganctl.serving.errors import ServerError
from ganctl.serving.hosts.torchserve.config import JAVA_OPTIONS
from ganctl.serving.hosts.torchserve.private_folder import PrivateFolder

_PR_SET_PDEATHSIG = 1
_PR_SET_TIMERSLACK = 29

_NETTIES = ("io.netty", "io.grpc.netty.shaded.io.netty")  # TorchServe's own copy, and that of gRPC

# What the front end starts for each worker.
_WORKER = f"""\
import sys
sys.path.insert(0, {str(Path(__file__).parents[4])!a})
from ganctl.serving.hosts.torchserve.worker.process import main
main()
"""


def launch(
    java: Path, folder: PrivateFolder, environment: dict[str, str], options: Sequence[str] = JAVA_OPTIONS
) -> "subprocess.Popen[bytes]":
    """Runs Java with the settings in `folder`, as the leader of a session of its own, so that a Ctrl-C in the terminal
    reaches us alone. Raises ServerError where TorchServe is not installed."""
    package = importlib.util.find_spec("ts")
    if package is None or package.origin is None:
        raise ServerError("TorchServe is not installed: `pip install torchserve`.")
    torchserve = Path(package.origin).parent
    _write_home(folder.path / "home", torchserve)
    alias = folder.alias
    command = [str(java), *options]
    command += [f"-Dmodel_server_home={alias / 'home'}", f"-Djava.io.tmpdir={alias / 'tmp'}"]
    command += [f"-D{netty}.native.workdir={folder.natives}" for netty in _NETTIES]
    command += [f"-Dlog4j.configurationFile=file://{alias / 'log4j2.xml'}", "-cp", f"{alias / 'home' / 'frontend'}/*"]
    command += ["org.pytorch.serve.ModelServer", "--python", sys.executable]
    command += ["-f", str(alias / "config.properties"), "-s", str(alias / "store"), "-ncs"]
    parent = os.getpid()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def die_with_parent() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal: Java would end at once, we drain
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            libc.prctl(_PR_SET_TIMERSLACK, 1)  # ns: batches wait 1 ms for company, not the 50 us more of Linux's habit
            if os.getppid() != parent:
                os._exit(1)

    with (folder.path / "logs" / "java.log").open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=folder.path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )


def _write_home(home: Path, torchserve: Path) -> None:
    """Writes TorchServe's home: its classes, and as the program of its workers ours (ADR 14)."""
    (home / "ts").mkdir(parents=True)
    (home / "frontend").symlink_to(torchserve / "frontend")
    (home / "ts" / "version.txt").symlink_to(torchserve / "version.txt")
    (home / "ts" / "model_service_worker.py").write_text(_WORKER, encoding="ascii")
