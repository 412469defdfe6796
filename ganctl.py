"""The front door: `ganctl COMMAND`. A lazy click group; importing this module imports click and nothing else.

Every command lives in a `cli` module of its package and is imported when it is named. Errors of all layers end here:
an exception that carries an integer `exit_code` is for the user and is told in one message; anything else is a defect
of ours and keeps its traceback.
"""

import sys

import ganctl_path

if __name__ == "__main__":  # `python -m ganctl` or a start file: the current folder may hold another json.py
    ganctl_path.arrange()
    sys.modules["ganctl"] = sys.modules["__main__"]  # or the commands would import this file once more
_excepthook, sys.excepthook = sys.excepthook, ganctl_path.excepthook

import atexit
import codecs
import errno
import importlib
import io
import json
import os
import re
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import click

__version__ = "0.2.0.dev0"

# name → (module, one line of help). The help stands here, so that `ganctl --help` imports no command.
COMMANDS = {
    "train": ("training.cli_train", "Train a GAN; leaves a run folder with checkpoints, samples and logs."),
    "evaluate": ("training.cli_evaluate", "Score a generator against real images: fidelity, variety, labels, copying."),
    "sample": ("training.cli_sample", "Draw images from a run, a checkpoint, an export or a server."),
    "inspect": ("training.cli", "Say what a run, checkpoint, export or archive is."),
    "export": ("exports.cli", "Turn the best checkpoint's generator into verified TorchScript and ONNX files."),
    "package": ("serving.cli", "Pack an export into a TorchServe archive (.mar)."),
    "serve": ("serving.cli_serve", "Serve an archive, an export or a run with TorchServe."),
    "deploy": ("serving.cli_serve", "Put a new version into a running server, or go back to the one before."),
    "demo": ("serving.cli", "Train, evaluate, export, package, serve and ask for digits, in one go."),
    "bench": ("benchmarks.cli", "Measure training, quality and serving, against peers where they are installed."),
    "doctor": ("serving.cli", "Say what this machine has, and what to do about what it lacks."),
}


PRETRAINED = "pretrained"  # the name of the generator that comes with ganctl, wherever a source is asked for


def expand_home(text: str) -> str:
    """A path with the home folder in place of `~` or `~user` at its start, unless a file has that very name.

    A shell leaves `~` in `--out=~/x`, and a service manager starts commands without a shell.

    Raises:
        click.BadParameter: the home folder is unknown.
    """
    if not text.startswith("~") or os.path.lexists(text):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError as error:
        raise click.BadParameter(
            f"{text}: the home folder of {Path(text).parts[0]} is unknown. Give the whole path, from /."
        ) from error


# what is meant for the address of a server, also with too few slashes or without the scheme
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+):(?://|/(?=[^/]))(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_HOST_AND_PORT = re.compile(r"(?P<scheme>)(?P<rest>(?:\[[0-9a-f:.]+\]|[\w.-]+):\d{1,5}(?:/.*)?)$", re.IGNORECASE)


class PathParam(click.Path):
    """A file or folder; `~` and `~user` at the start mean a home folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(expand_home(os.fspath(value)), param, ctx)


class SourceParam(click.ParamType[str]):
    """A run, an export or the like, by its path; or `pretrained`, where nothing of that name lies in the way.

    servers: whether the URL of a server will do, too.
    """

    name = "path"

    def __init__(self, *, servers: bool = False) -> None:
        self._servers = servers

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if (url := _URL.match(value) or _HOST_AND_PORT.match(value)) is not None and not Path(value).exists():
            scheme = (url["scheme"] or "http").lower()
            meant = f"{scheme}://{url['rest']}"
            if scheme not in ("http", "https"):
                self.fail(f"{value}: found the scheme {scheme}, expected a path or a URL of http or https.", param, ctx)
            if not self._servers:
                draw = f"`ganctl sample {meant} --out images.npz` draws from a server"
                self.fail(f"{value}: found the address of a server, expected a path; {draw}.", param, ctx)
            if meant.lower() != value.lower():
                self.fail(f"{value}: found no file of this name. The URL of a server is spelt {meant}.", param, ctx)
            return meant
        if value == PRETRAINED and not Path(value).exists():
            return str(Path(__file__).parent / "exports" / PRETRAINED)
        return expand_home(str(value))


class LazyGroup(click.Group):
    """Imports a command's module only when that command runs, and turns every error into a message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        ganctl_path.require_own(COMMANDS[cmd_name][0].partition(".")[0])
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else " See 'ganctl --help'."
            raise click.UsageError(f"No such command '{args[0]}'.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("standalone_mode", True) is False:
            return super().main(*args, **kwargs)
        kwargs["standalone_mode"] = False
        try:
            code = super().main(*args, **kwargs)
            sys.stdout.flush()
        except BaseException as error:
            code = report(error)
        return end(code if isinstance(code, int) else 0)


def program(*words: str) -> list[str]:
    """The command line of a `ganctl` command: this very ganctl, whatever the current folder holds."""
    return [sys.executable, str(Path(ganctl_path.FOLDER) / "ganctl.py"), *words]


def end(code: int) -> NoReturn:
    """Ends the process. One of several ranks skips the interpreter's own farewell: threads of gloo that are still at
    work then abort the process at times, and torchrun would take a finished rank for a killed one."""
    _stop_unwinding()
    if _number_of_ranks() <= 1:
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _number_of_ranks() -> int:
    """How many processes train together with this one, by WORLD_SIZE."""
    size = os.environ.get("WORLD_SIZE", "").strip()
    return int(size) if size.isascii() and size.isdigit() else 1


def is_later_rank() -> bool:
    """Whether this is a rank of several, but not the first one; without WORLD_SIZE a RANK means nothing."""
    rank = os.environ.get("RANK", "").strip()
    return rank.isascii() and rank.isdigit() and 0 < int(rank) < _number_of_ranks()


def report(error: BaseException) -> int:
    """Tells `error` on stderr (with --json also as the one object on stdout) and gives the exit code of DESIGN 3.2."""
    _stop_unwinding()
    if isinstance(error, SystemExit) and ganctl_path.find_shadow(error) is None:
        if isinstance(error.code, str):
            click.echo(error.code, err=True)
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, BrokenPipeError) and error.filename == "stdout":
        return 1  # the reader has closed the pipe
    code, message = _describe(error)
    told_later = getattr(error, "told_later", False)
    with suppress(OSError):  # a stream that cannot be written leaves the other one, and the exit code
        if isinstance(error, click.ClickException):
            error.show()
        elif message:
            click.echo(f"Error: {message}", err=True)
    with suppress(OSError):
        if "--json" in sys.argv and not is_later_rank() and not told_later:  # of many ranks the first one tells it
            emit({"error": message, "exit_code": code})
    return code


def _describe(error: BaseException) -> tuple[int, str]:
    if isinstance(error, click.ClickException):
        return error.exit_code, error.format_message()
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return 130, "interrupted"
    exit_code = getattr(error, "exit_code", None)
    if isinstance(exit_code, int):
        return exit_code, str(error)
    place = _in_own_code(error)
    if not (place and isinstance(error, OSError)) and (message := _outside(error)) is not None:
        return 1, message
    if (message := ganctl_path.find_shadow(error)) is not None:
        return 1, message
    absent = error.name or "" if isinstance(error, ModuleNotFoundError) else None
    if absent is not None and (absent == "benchmarks" or absent.partition(".")[0] not in _OURS):  # no image has it
        return 1, f"this installation lacks the package {absent}, which this command needs: install all of ganctl's"
    traceback.print_exception(error)
    what = f"{type(error).__name__}: {error}"
    if place:
        return 1, f"{place}: {what} (your own code, which ganctl has called; the traceback shows how)"
    return 1, f"unexpected {what} (a defect of ganctl; the traceback is for its developers)"


def _outside(error: BaseException) -> str | None:
    """A message for what the operating system refuses: files, memory, threads. None where `error` is something else."""
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
            return f"{text}: a limit of this machine. Raise the number of processes and threads (ulimit -u, pids.max)."
        loop = isinstance(chain, RuntimeError) and text.startswith("Symlink loop")  # Path.resolve, before Python 3.13
        chain = chain.__context__ if loop else chain.__cause__
    return None


def _os_message(error: OSError) -> str:
    import tempfile

    reason = error.strerror or str(error) or type(error).__name__
    if "Original Traceback" in reason:  # raised in another process, which reads data
        reason = reason.strip().splitlines()[-1]
    advice = _OS_ADVICE.get(error.errno or 0, "")
    where = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    if where is None:
        advice = "Set TMPDIR to a folder that can be written." if "No usable temporary directory" in reason else advice
        return f"{reason}. {advice}".rstrip()
    temporary = where == tempfile.tempdir or str(where).startswith(f"{tempfile.tempdir}/ganctl-")
    if temporary and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        advice = "Free some space there, or set TMPDIR to another folder."
    return f"{where}: {reason}. {advice or 'Look at this file system and how it is mounted.'}"


def _in_own_code(error: BaseException) -> str | None:
    """Where a user's callback, network, loss or data set was running, if one was: outside of ganctl and of packages."""
    ours = Path(__file__).parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path == Path(__file__) or any(path.is_relative_to(ours / name) for name in _OURS):
            return None  # ganctl's own code comes after (or without) any of the user's
        packaged = {"site-packages", "dist-packages"} & {*path.parts} or path.is_relative_to(Path(os.__file__).parent)
        if path.is_absolute() and path.exists() and not packaged:
            return f"{path}:{frame.lineno}"
    return None


_OURS = ganctl_path.PACKAGES
_OS_ADVICE = {
    errno.ENOSPC: "Free some space, or name another folder.",
    errno.EDQUOT: "The disk quota is used up: free some space, or name another folder.",
    errno.EROFS: "Name a folder that can be written.",
    errno.EACCES: "Name a folder or file that this user may use.",
    errno.ENOENT: "Check the path.",
    errno.EISDIR: "Name a file; this is a folder.",
    errno.ENAMETOOLONG: "Name a shorter path.",
    errno.EBUSY: "Name another folder.",
    errno.ENOTDIR: "Name a folder; something on this path is a file.",
    errno.EEXIST: "A file or a broken link has this name: name another path.",
    errno.EPERM: "Name a folder or file that this user may use.",
    errno.EIO: "Look at the disk or the network mount (dmesg tells more), or name another folder.",
    errno.ESTALE: "The network file system has lost this file: mount it anew, and start again.",
    errno.EFBIG: "Raise the limit of a file's size (ulimit -f), or name another file system.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
    errno.ENFILE: "This machine has too many open files: end other programs, or raise fs.file-max.",
    errno.ELOOP: "A link on this path leads back to itself: mend it, or name another path.",
    errno.EAGAIN: "Raise the limit of processes and threads (ulimit -u, pids.max of a container).",
    errno.ENOMEM: "Give the process more memory.",
    errno.EXDEV: "Name a path on one file system.",
}
_MEMORY_SIGNS = (
    "can't allocate memory", "not enough memory", "CUDA out of memory", "CUDA error: out of memory",
    "STATUS_ALLOC_FAILED", "Failed to allocate memory",
)  # fmt: skip
_LIBRARY_SIGNS = ("failed to map segment", "cannot open shared object file", "cannot allocate memory")
_SMALLER = {
    "train": "train.batch_size, model.width or data.size, or give data.resident=false",
    "sample": "the order (--count, --per-class or --frames)",
    "evaluate": "--n or --cas-images",
    "serve": "--workers",
}


class Terminated(BaseException):
    """A signal asks a command to end; no Exception, so that nothing on the way takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}; nothing half-written is left")
        self.exit_code = 128 + number


HANG_UP = getattr(signal, "SIGHUP", None)  # Windows has none
_ECHO = 3.0  # seconds in which one more signal is taken for the same request
_AGAIN = 0.5  # seconds after which Terminated is raised anew where something has swallowed it
_received: list[tuple[int, float]] = []  # the signal that ends this process, and when it came


def end_signals() -> list[signal.Signals]:
    """The signals that ask a process to end, but for those that it was started to ignore (nohup, `&` in a script)."""
    known = [signal.SIGTERM, signal.SIGINT, *([HANG_UP] if HANG_UP is not None else [])]
    return [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]


def unwind_on_signals() -> None:
    """Makes SIGTERM, SIGINT and SIGHUP unwind a command: its stages are ended, its temporary files are deleted.

    Further signals do not disturb the unwinding (a closed terminal sends SIGHUP twice, by the kernel and by the shell);
    one that comes after some seconds ends the process at once, except SIGHUP.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if not _received:
            _received.append((number, time.monotonic()))
            if hasattr(signal, "setitimer"):
                signal.signal(signal.SIGALRM, stop)
                signal.setitimer(signal.ITIMER_REAL, _AGAIN, _AGAIN)
        elif number in (signal.SIGTERM, signal.SIGINT) and time.monotonic() - _received[0][1] > _ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        handled = sys.exception()
        while handled is not None and not isinstance(handled, Terminated):
            handled = handled.__context__
        if handled is None:  # not unwinding: a destructor or a bare except may have swallowed what was raised before
            raise Terminated(_received[0][0])

    for number in end_signals():
        signal.signal(number, stop)


def _stop_unwinding() -> None:
    """From here on the process ends by itself."""
    if _received and hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)


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

    buffer = None  # type: ignore[assignment]


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


Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def json_option(function: Decorated) -> Decorated:
    """The `--json` flag that every command takes."""
    return click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object on stdout.")(function)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ganctl")
def cli() -> None:
    """From a folder of small images to a verified image generator behind HTTP.

    train → evaluate → export → package → serve → GET an image. SOURCE is a run's folder, a checkpoint, an export, an
    archive or a server's URL, whatever the command can read.
    """


def main() -> NoReturn:
    _use_utf8_mode()
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    sys.excepthook = ganctl_path.excepthook
    ganctl_path.arrange()
    replace_stream("stderr")
    replace_stream("stdout", lasting=command == "train")  # a training goes on after its terminal is closed
    if command not in ("train", "serve"):  # these save, or drain, before they end
        unwind_on_signals()
    if command != "train":  # beside a training of several processes, each does its own
        os.environ.pop("WORLD_SIZE", None)
    cli.main(prog_name="ganctl")
    raise AssertionError("click exits by itself")


def _use_utf8_mode() -> None:
    """Starts Python anew in its UTF-8 mode where the locale has another encoding.

    torch, ONNX Runtime and Java take every path as UTF-8, and the name of a class must not depend on the locale. The
    standard streams keep the locale's encoding.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    if sys.stdout is not None:
        os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:{sys.stdout.errors}")
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()
else:
    sys.excepthook = _excepthook
