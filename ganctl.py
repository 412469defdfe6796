"""The front door: `ganctl COMMAND`. A lazy click group; importing this module imports click and nothing else.

Every command lives in a `cli` module of its package and is imported when it is named. Errors of all layers end here:
an exception that carries an integer `exit_code` is for the user and is told in one message; anything else is a defect
of ours and keeps its traceback.
"""

import atexit
import errno
import importlib
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import click

__version__ = "0.1.0"

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


class PathParam(click.Path):
    """A file or folder; `~` and `~user` at the start mean a home folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(expand_home(os.fspath(value)), param, ctx)


class SourceParam(click.ParamType[str]):
    """A run, an export or the like, by its path; or `pretrained`, where nothing of that name lies in the way."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
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
        except BaseException as error:
            code = report(error)
        return end(code if isinstance(code, int) else 0)


def end(code: int) -> NoReturn:
    """Ends the process. One of several ranks skips the interpreter's own farewell: threads of gloo that are still at
    work then abort the process at times, and torchrun would take a finished rank for a killed one."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def report(error: BaseException) -> int:
    """Tells `error` on stderr (with --json also as the one object on stdout) and gives the exit code of DESIGN 3.2."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, BrokenPipeError):  # the reader of our output has gone: nothing left to tell, nobody to tell it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    code, message = _describe(error)
    if isinstance(error, click.ClickException):
        error.show()
    elif message:
        click.echo(f"Error: {message}", err=True)
    told_later = getattr(error, "told_later", False)
    if "--json" in sys.argv and os.environ.get("RANK", "0") == "0" and not told_later:  # of many ranks one tells it
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
    absent = error.name or "" if isinstance(error, ModuleNotFoundError) else None
    if absent is not None and (absent == "benchmarks" or absent.partition(".")[0] not in _OURS):  # no image has it
        return 1, f"this installation lacks the package {absent}, which this command needs: install all of ganctl's"
    if isinstance(error, OSError) and error.errno in _OS_ADVICE:
        where = f"{error.filename}: " if error.filename else ""
        return 1, f"{where}{error.strerror}. {_OS_ADVICE[error.errno]}"
    traceback.print_exception(error)
    what = f"{type(error).__name__}: {error}"
    if place := _in_own_code(error):
        return 1, f"{place}: {what} (your own code, which ganctl has called; the traceback shows how)"
    return 1, f"unexpected {what} (a defect of ganctl; the traceback is for its developers)"


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


_OURS = ("ganctl", "training", "exports", "serving", "benchmarks")
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
    errno.EPERM: "Name a folder or file that this user may use.",
}


class Terminated(BaseException):
    """SIGTERM or SIGHUP asks a command to end; no Exception, so that nothing on the way takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.exit_code = 128 + number


HANG_UP = getattr(signal, "SIGHUP", None)  # Windows has none


def end_signals() -> list[signal.Signals]:
    """The signals that ask a process to end, but for those that it was started to ignore (nohup, `&` in a script)."""
    known = [signal.SIGTERM, signal.SIGINT, *([HANG_UP] if HANG_UP is not None else [])]
    return [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]


def unwind_on_signals() -> None:
    """Makes SIGTERM and SIGHUP end a command as Ctrl-C does: its stages are ended, its temporary files are deleted."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in handled:  # a closed terminal sends SIGHUP twice, by the kernel and by the shell
            signal.signal(each, signal.SIG_IGN if each == HANG_UP else signal.SIG_DFL)
        raise Terminated(number)

    handled = [number for number in end_signals() if number != signal.SIGINT]
    for number in handled:
        signal.signal(number, stop)


class _LastingFile(io.FileIO):
    """A file whose writes do not fail: what cannot be written is dropped."""

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        return len(data) if written is None else written


def outlive_the_reader(name: str) -> None:
    """Replaces `sys.stdout` or `sys.stderr` by one that a closed terminal or pipe (EIO, EPIPE) does not break."""
    stream = getattr(sys, name)
    if not isinstance(stream, io.TextIOWrapper):  # a test's, or none at all
        return
    stream.flush()
    file = io.BufferedWriter(_LastingFile(stream.fileno(), "w", closefd=False))
    lines = name == "stderr" or stream.line_buffering
    setattr(sys, name, io.TextIOWrapper(file, encoding=stream.encoding, errors=stream.errors, line_buffering=lines))


def emit(record: Mapping[str, Any]) -> None:
    """Writes the one JSON object of `--json`: one line on stdout, flushed."""
    sys.stdout.write(json.dumps(record, ensure_ascii=False, allow_nan=False, default=str) + "\n")
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
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    outlive_the_reader("stderr")
    if command == "train":  # its result is what it has saved
        outlive_the_reader("stdout")
    if command not in ("train", "serve"):  # these save, or drain, before they end
        unwind_on_signals()
    cli.main(prog_name="ganctl")
    raise AssertionError("click exits by itself")


if __name__ == "__main__":
    main()
