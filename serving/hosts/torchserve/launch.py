"""Starts TorchServe's front end in a private folder, which holds every file that it reads or writes.

Java is started directly. The `torchserve` script has one pid file for the whole machine, starts Java in the background,
and forwards no signals.
"""

import ctypes
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

from ganctl.serving.errors import ServerError
from ganctl.serving.hosts.torchserve.config import JAVA_OPTIONS
from ganctl.serving.hosts.torchserve.private_folder import PrivateFolder

_PR_SET_PDEATHSIG = 1
_PR_SET_TIMERSLACK = 29

_NETTY_PACKAGES = ("io.netty", "io.grpc.netty.shaded.io.netty")  # TorchServe's copy of netty, and gRPC's

# The script that the front end starts for each worker.
_WORKER = f"""\
import sys
sys.path.insert(0, {str(Path(__file__).parents[4])!a})
from ganctl.serving.hosts.torchserve.worker.process import main
main()
"""


def launch(java: Path, folder: PrivateFolder, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Starts Java with the settings in `folder`, in a session of its own: a Ctrl-C in the terminal reaches only us.

    Raises:
        ServerError: TorchServe is not installed.
    """
    package = importlib.util.find_spec("ts")
    if package is None or package.origin is None:
        raise ServerError("TorchServe is not installed. Run `pip install torchserve`.")
    torchserve = Path(package.origin).parent
    _write_home(folder.path / "home", torchserve)
    alias = folder.alias
    command = [str(java), *JAVA_OPTIONS, f"-Djdk.net.hosts.file={alias / 'hosts'}"]
    command += [f"-Dmodel_server_home={alias / 'home'}", f"-Djava.io.tmpdir={alias / 'tmp'}"]
    command += [f"-D{netty}.native.workdir={folder.native_libraries}" for netty in _NETTY_PACKAGES]
    command += [f"-Dlog4j.configurationFile=file://{alias / 'log4j2.xml'}", "-cp", f"{alias / 'home' / 'frontend'}/*"]
    command += ["org.pytorch.serve.ModelServer", "--python", sys.executable]
    command += ["-f", str(alias / "config.properties"), "-s", str(alias / "store"), "-ncs"]
    parent = os.getpid()
    libc = ctypes.CDLL(None)

    def die_with_parent() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # when the terminal closes, we drain; Java would exit at once
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.prctl(_PR_SET_TIMERSLACK, 1)  # ns: a batch waits 1 ms for requests; Linux's default would add 50 µs
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
    """Writes TorchServe's home folder: links to its classes, and our worker script instead of its own (ADR 14)."""
    (home / "ts").mkdir(parents=True)
    (home / "frontend").symlink_to(torchserve / "frontend")
    (home / "ts" / "version.txt").symlink_to(torchserve / "version.txt")
    (home / "ts" / "model_service_worker.py").write_text(_WORKER, encoding="ascii")
