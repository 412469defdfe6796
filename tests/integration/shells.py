"""Interactive shells on a pseudo-terminal: a line is typed, Tab is pressed, and the shell prints its words."""

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.waiting import PATIENCE

_START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
_SETUP = {
    "bash": "source <(ganctl completion bash); words() { printf '@%s' '<'; printf '%s|' \"$@\"; printf '>@\\n'; }",
    "zsh": "autoload -U compinit; compinit -D; source <(ganctl completion zsh);"
    " words() { printf '@%s' '<'; printf '%s|' \"$@\"; printf '>@\\n'; }",
    "fish": "ganctl completion fish | source;"
    " function words; printf '@%s' '<'; printf '%s|' $argv; printf '>@\\n'; end",
}
SHELLS = tuple(_START)


class InteractiveShell:
    """A shell that has loaded the completion of ganctl."""

    def __init__(self, name: str, folder: Path) -> None:
        """Starts the shell in a folder; skips the test if the shell is not installed."""
        if shutil.which(name) is None:
            pytest.skip(f"needs {name}: apt-get install {name}")
        self.name, self.home = name, str(folder)
        master, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 300, 0, 0))  # lines do not wrap
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "TERM": "xterm", "HOME": str(folder), "HISTFILE": "/dev/null"}
        self._process = subprocess.Popen(
            _START[name],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            cwd=folder,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # job control needs a controlling terminal
        )
        os.close(terminal)
        self._master = master
        self._type(_SETUP[name] + "\r")
        self._type("words ready\r")
        assert self._read_words() == ["ready"]

    def complete(self, line: str, then: str = "") -> list[str]:
        """Types a line, presses Tab, types `then`, and returns the words of the line."""
        self._type(f"{line}\t{then}\x01words \r")  # control-A goes to the start of the line
        return self._read_words()

    def list_completions(self, line: str) -> list[str]:
        """Returns all completions at the end of a line, as bash and fish give them to a script."""
        bash = (
            f"COMP_LINE='{line}' COMP_POINT={len(line)}; _ganctl_completion ganctl '' 2>&-; words \"${{COMPREPLY[@]}}\""
        )
        self._type((bash if self.name == "bash" else f"words (complete -C '{line}' | string split -f 1 \\t)") + "\r")
        return self._read_words()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def _type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def _read_words(self) -> list[str]:
        output, end = b"", time.monotonic() + PATIENCE
        while (match := re.search(rb"@<(.*?)\|?>@", output, re.DOTALL)) is None:
            assert time.monotonic() < end, output.decode(errors="replace")
            if select.select([self._master], [], [], 0.1)[0]:
                output += os.read(self._master, 65536)
        return match[1].decode().split("|")
