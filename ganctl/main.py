"""The front door: `ganctl COMMAND`. A lazy click group; importing this module imports click and nothing else.

Every command lives in a `cli` module of its room and is imported when it is named. Errors of all rooms end here.
"""

import importlib
import os
import sys
from typing import Any, NoReturn

import click

from ganctl import __version__
from ganctl.errors import report
from ganctl.processes import end
from ganctl.signals import unwind_on_signals
from ganctl.streams import replace_stream

# name → (module below ganctl, one line of help). The help stands here, so that `ganctl --help` imports no command.
COMMANDS = {
    "train": ("training.cli.train", "Train a GAN; leaves a run folder with checkpoints, samples and logs."),
    "evaluate": ("training.cli.evaluate", "Score a generator against real images: fidelity, variety, labels, copying."),
    "sample": ("training.cli.sample", "Draw images from a run, a checkpoint, an export or a server."),
    "inspect": ("training.cli.inspect", "Say what a run, checkpoint, export or archive is."),
    "export": ("exports.cli", "Turn the best checkpoint's generator into verified TorchScript and ONNX files."),
    "package": ("serving.cli.package", "Pack an export into a TorchServe archive (.mar)."),
    "serve": ("serving.cli.serve", "Serve an archive, an export or a run with TorchServe."),
    "deploy": ("serving.cli.serve", "Put a new version into a running server, or go back to the one before."),
    "demo": ("demo", "Train, evaluate, export, package, serve and ask for digits, in one go."),
    "bench": ("benchmarks.cli", "Measure training, quality and serving, against peers where they are installed."),
    "doctor": ("doctor", "Say what this machine has, and what to do about what it lacks."),
}


class LazyGroup(click.Group):
    """Imports a command's module only when that command runs, and turns every error into a message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"ganctl.{COMMANDS[cmd_name][0]}")
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
