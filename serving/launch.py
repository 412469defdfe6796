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
import tempfile
from pathlib import Path

from .errors import ServerError
from .settings import JAVA_OPTIONS

_PR_SET_PDEATHSIG = 1
_PR_SET_TIMERSLACK = 29
_SOCKET_PATH = 107  # what a Unix socket's address holds

# What the front end starts for each worker.
_WORKER = f"""\
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from serving.worker.process import main
main()
"""


def private_folder() -> Path:
    """A new folder that only this user may enter. Raises ServerError where the workers' sockets would not fit in it."""
    folder = Path(tempfile.mkdtemp(prefix="ganctl-"))
    if len(os.fsencode(folder / "tmp" / ".ts.sock.9000")) > _SOCKET_PATH:
        folder.rmdir()
        raise ServerError(
            f"the temporary folder {tempfile.gettempdir()} has too long a path for the workers' sockets "
            f"({_SOCKET_PATH} bytes in all). Set TMPDIR to a shorter one, such as /tmp."
        )
    for name in ("store", "workflows", "logs", "metrics", "state", "tmp", "versions"):
        (folder / name).mkdir()
    return folder


def launch(java: Path, folder: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Runs Java with the settings in `folder`, as the leader of a session of its own, so that a Ctrl-C in the terminal
    reaches us alone. Raises ServerError where TorchServe is not installed."""
    package = importlib.util.find_spec("ts")
    if package is None or package.origin is None:
        raise ServerError("TorchServe is not installed: `pip install torchserve`.")
    torchserve = Path(package.origin).parent
    home = _home(folder, torchserve)
    command = [str(java), *JAVA_OPTIONS]
    command += [f"-Dmodel_server_home={home}", f"-Djava.io.tmpdir={folder / 'tmp'}"]
    command += [f"-Dlog4j.configurationFile=file://{folder / 'log4j2.xml'}", "-cp", f"{torchserve / 'frontend'}/*"]
    command += ["org.pytorch.serve.ModelServer", "--python", sys.executable]
    command += ["-f", str(folder / "config.properties"), "-s", str(folder / "store"), "-ncs"]
    parent = os.getpid()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def die_with_parent() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal: Java would end at once, we drain
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            libc.prctl(_PR_SET_TIMERSLACK, 1)  # ns: batches wait 1 ms for company, not the 50 us more of Linux's habit
            if os.getppid() != parent:
                os._exit(1)

    with (folder / "logs" / "java.log").open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )


def _home(folder: Path, torchserve: Path) -> Path:
    """Where the front end looks for the program of its workers: ours, in the place of TorchServe's (ADR 14)."""
    home = folder / "home"
    (home / "ts").mkdir(parents=True)
    (home / "ts" / "version.txt").symlink_to(torchserve / "version.txt")
    (home / "ts" / "model_service_worker.py").write_text(_WORKER, encoding="utf-8")
    return home
