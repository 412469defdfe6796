"""Reports every error as one message and an exit code.

An exception with an integer `exit_code` is a user error. An error of the operating system is reported with its path and
a remedy. Any other error is a defect of ganctl or of the user's code, and keeps its traceback.
"""

import errno
import io
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import click

from ganctl import import_path
from ganctl.processes import is_later_rank
from ganctl.signals import stop_unwinding
from ganctl.streams import print_json


def report(error: BaseException) -> int:
    """Prints `error` on stderr (with --json also as the JSON object on stdout) and returns the exit code.

    The exit codes are listed in docs/reference.md.
    """
    stop_unwinding()
    if isinstance(error, SystemExit) and import_path.find_shadow(error) is None:
        if isinstance(error.code, str):
            click.echo(error.code, err=True)
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, BrokenPipeError) and error.filename == "stdout":
        return 1  # the reader has closed the pipe
    code, message = exit_code_and_message(error)
    with suppress(OSError):  # if one stream fails, write the other one
        if isinstance(error, click.ClickException):
            error.show()
        elif message:
            click.echo(f"Error: {message}", err=True)
    with suppress(OSError):
        # only rank 0 prints JSON, and not before a restart
        if "--json" in sys.argv and not is_later_rank() and not getattr(error, "will_restart", False):
            print_json({"error": message, "exit_code": code})
    return code


def exit_code_and_message(error: BaseException) -> tuple[int, str]:
    """Returns the exit code and the message of an error; prints the traceback of a defect on stderr."""
    if isinstance(error, click.ClickException):
        return error.exit_code, error.format_message()
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return 130, "interrupted"
    exit_code = getattr(error, "exit_code", None)
    if isinstance(exit_code, int):
        return exit_code, str(error)
    location = _user_code_location(error)
    if not (location and isinstance(error, OSError)) and (message := _system_message(error)) is not None:
        return 1, message
    if (message := import_path.find_shadow(error)) is not None:
        return 1, message
    missing = error.name or "" if isinstance(error, ModuleNotFoundError) else "ganctl"
    if missing == "ganctl.benchmarks" or missing.partition(".")[0] != "ganctl":  # container images lack benchmarks
        return 1, f"the package {missing} is missing. Install it, or reinstall ganctl."
    traceback.print_exception(error)
    summary = f"{type(error).__name__}: {error}"
    if location:
        return 1, f"{location}: {summary} (in your code, which ganctl called; see the traceback)"
    return 1, f"unexpected {summary} (a defect of ganctl; report it with the traceback)"


def _system_message(error: BaseException) -> str | None:
    """Returns a message for an error of the operating system (files, memory, threads); None for other errors."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and not isinstance(chain, io.UnsupportedOperation):
            return _os_message(chain)
        text = str(chain)
        if isinstance(chain, MemoryError) or any(sign in text for sign in _MEMORY_SIGNS):
            first = (text.strip() or "an allocation failed").splitlines()[0].rpartition("Allocator: ")[2]
            smaller = next((f", or make smaller: {_SMALLER[word]}" for word in sys.argv[1:] if word in _SMALLER), "")
            return f"out of memory ({first[:200].rstrip('.')}). Give the process more memory{smaller}."
        if isinstance(chain, ImportError) and any(sign in text for sign in _LIBRARY_SIGNS):
            return f"{text}: cannot be loaded. Give the process more memory, mount its folder with exec, or install it."
        if "can't start new thread" in text:
            return f"{text}. Raise the limit of processes and threads (ulimit -u, pids.max)."
        loop = isinstance(chain, RuntimeError) and text.startswith("Symlink loop")  # Path.resolve, before Python 3.13
        chain = chain.__context__ if loop else chain.__cause__
    return None


def _os_message(error: OSError) -> str:
    import tempfile

    reason = error.strerror or str(error) or type(error).__name__
    if "Original Traceback" in reason:  # raised in a data loading process
        reason = reason.strip().splitlines()[-1]
    hint = _OS_HINTS.get(error.errno or 0, "")
    where = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    if where is None:
        hint = "Set TMPDIR to a folder that can be written." if "No usable temporary directory" in reason else hint
        return f"{reason}. {hint}".rstrip()
    temporary = where == tempfile.tempdir or str(where).startswith(f"{tempfile.tempdir}/ganctl-")
    if temporary and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        hint = "Free some space there, or set TMPDIR to another folder."
    return f"{where}: {reason}. {hint or 'Check the path and its file system, or name another path.'}"


def _user_code_location(error: BaseException) -> str | None:
    """Returns file and line of the user's callback, network, loss or data set that raised `error`; None if none did."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(import_path.PACKAGE):
            return None  # ganctl's code raised it
        packaged = {"site-packages", "dist-packages"} & {*path.parts} or path.is_relative_to(Path(os.__file__).parent)
        if path.is_absolute() and path.exists() and not packaged:
            return f"{path}:{frame.lineno}"
    return None


_OS_HINTS = {
    errno.ENOSPC: "Free some space, or name another folder.",
    errno.EDQUOT: "The disk quota is used up: free some space, or name another folder.",
    errno.EROFS: "Name a folder that can be written.",
    errno.EACCES: "Name a folder or file that this user may use.",
    errno.EPERM: "Name a folder or file that this user may use.",
    errno.EFBIG: "Raise the file size limit (ulimit -f), or name another file system.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
    errno.EAGAIN: "Raise the limit of processes and threads (ulimit -u, pids.max of a container).",
    errno.ENOMEM: "Give the process more memory.",
}
_MEMORY_SIGNS = (
    "can't allocate memory", "not enough memory", "CUDA out of memory", "CUDA error: out of memory",
    "STATUS_ALLOC_FAILED", "Failed to allocate memory",
)  # fmt: skip
_LIBRARY_SIGNS = ("failed to map segment", "cannot open shared object file", "cannot allocate memory")
_SMALLER = {
    "train": "train.batch_size, model.base_channels or data.size, or give data.on_device=false",
    "sample": "the request (--count, --per-class or --frames)",
    "evaluate": "--num-images or --cas-images",
    "serve": "--workers",
}
