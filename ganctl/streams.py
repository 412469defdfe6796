"""Standard streams that take every text, whatever their encoding; and the one JSON object of `--json`."""

import codecs
import errno
import io
import json
import os
import sys
from collections.abc import Mapping
from typing import Any


class _Output(io.FileIO):
    """The file of stdout or stderr. What stderr does not take is dropped; of a `lasting` stdout, what a closed terminal
    or pipe does not take (EIO, EPIPE).

    Any other error names the stream. After it the null device takes its place, so that the interpreter does not fail
    once more when it flushes the stream at the end.
    """

    def __init__(self, name: str, *, lasting: bool) -> None:
        super().__init__({"stdout": 1, "stderr": 2}[name], "w", closefd=False)
        self._name, self._lasting = name, lasting

    def write(self, data: Any) -> Any:
        try:
            written: int | None = super().write(data)  # None: it would block
            return len(data) if written is None and self._name == "stderr" else written
        except OSError as error:
            if self._name == "stderr" or (self._lasting and error.errno in (errno.EIO, errno.EPIPE)):
                return len(data)
            error.filename = self._name
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            raise


class _Text(io.TextIOWrapper):
    """A standard stream without the attribute by which click finds out how to write UTF-8 to an ASCII one."""

    buffer = None  # type: ignore[assignment]  # typeshed declares a property; None hides the base class's buffer


def replace_stream(name: str, *, lasting: bool = False) -> None:
    """Has `sys.stdout` or `sys.stderr` take every text, whatever its encoding; `lasting`, it outlives its reader.

    A closed stream is opened to the null device, or the next file to be opened would be taken for it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    stream: Any = getattr(sys, name)
    buffer = getattr(stream, "buffer", None)
    if stream is not None and not isinstance(buffer, io.BufferedWriter | io.FileIO):  # a test's
        return
    codecs.register_error("ganctl", _escape)
    lines = name == "stderr" or isinstance(buffer, io.FileIO) or getattr(stream, "line_buffering", False)
    file = io.BufferedWriter(_Output(name, lasting=lasting))
    setattr(sys, name, _Text(file, getattr(stream, "encoding", None), "ganctl", line_buffering=lines))


def _escape(error: UnicodeError) -> tuple[str, int]:
    """A codec's error handler: escapes such as \\u65e5 for what an encoding lacks."""
    assert isinstance(error, UnicodeEncodeError), "streams are only written"
    return _readable(error.object[error.start : error.end]).encode("ascii", "backslashreplace").decode(), error.end


def _readable(text: str) -> str:
    """Text whose file names may come from a locale that is not UTF-8: as UTF-8, where they are that."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def emit(record: Mapping[str, Any]) -> None:
    """Writes the one JSON object of `--json`: one line on stdout, flushed; in ASCII where stdout is not UTF-8."""
    text = _readable(json.dumps(record, ensure_ascii=False, allow_nan=False, default=str))
    if codecs.lookup(sys.stdout.encoding or "utf-8").name != "utf-8":
        text = json.dumps(json.loads(text))
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode() + "\n")  # \udcff is JSON for a byte of a name
    sys.stdout.flush()
