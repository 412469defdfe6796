"""Standard streams that accept any text in any encoding; messages, and the JSON object of `--json`."""

import codecs
import errno
import io
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import click


class _OutputFile(io.FileIO):
    """The file of stdout or stderr.

    Drops data that stderr does not accept. With `ignore_closed`, drops data for a closed terminal or pipe (EIO, EPIPE)
    as well. Any other error names the stream; the null device then replaces the file, so that the interpreter's last
    flush does not fail again.
    """

    def __init__(self, name: str, *, ignore_closed: bool) -> None:
        super().__init__({"stdout": 1, "stderr": 2}[name], "w", closefd=False)
        self._name, self._ignore_closed = name, ignore_closed

    def write(self, data: Any) -> Any:
        try:
            written: int | None = super().write(data)  # None: the write would block
            return len(data) if written is None and self._name == "stderr" else written
        except OSError as error:
            if self._name == "stderr" or (self._ignore_closed and error.errno in (errno.EIO, errno.EPIPE)):
                return len(data)
            error.filename = self._name
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            raise


class _TextStream(io.TextIOWrapper):
    """A standard stream without the attribute `buffer`, which click uses to write UTF-8 to an ASCII stream."""

    buffer = None  # type: ignore[assignment]  # typeshed declares a property; None hides the base class's buffer


def replace_stream(name: str, *, ignore_closed: bool = False) -> None:
    """Makes `sys.stdout` or `sys.stderr` accept any text: characters that its encoding lacks are escaped.

    A closed stream is connected to the null device; otherwise the next opened file would get its descriptor.

    Args:
        name: `stdout` or `stderr`.
        ignore_closed: whether to ignore a closed terminal or pipe.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor
    stream: Any = getattr(sys, name)
    buffer = getattr(stream, "buffer", None)
    if stream is not None and not isinstance(buffer, io.BufferedWriter | io.FileIO):  # replaced by a test
        return
    codecs.register_error("ganctl", _escape)
    lines = name == "stderr" or isinstance(buffer, io.FileIO) or getattr(stream, "line_buffering", False)
    file = io.BufferedWriter(_OutputFile(name, ignore_closed=ignore_closed))
    setattr(sys, name, _TextStream(file, getattr(stream, "encoding", None), "ganctl", line_buffering=lines))


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Error handler of a codec: escapes characters that the encoding lacks, such as \\u65e5."""
    assert isinstance(error, UnicodeEncodeError), "streams are only written"
    return _readable(error.object[error.start : error.end]).encode("ascii", "backslashreplace").decode(), error.end


def _readable(text: str) -> str:
    """Returns text with file names of another locale decoded as UTF-8 where possible."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def note(text: str) -> None:
    """Prints a message for the user on stderr."""
    click.echo(text, err=True)


def print_json(record: Mapping[str, Any]) -> None:
    """Writes the JSON object of `--json`: one line on stdout, flushed; ASCII if stdout is not UTF-8."""
    text = _readable(json.dumps(record, ensure_ascii=False, allow_nan=False, default=str))
    if codecs.lookup(sys.stdout.encoding or "utf-8").name != "utf-8":
        text = json.dumps(json.loads(text))
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode() + "\n")  # \udcff: a byte of a file name
    sys.stdout.flush()
