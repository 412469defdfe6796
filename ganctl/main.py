"""The command `ganctl COMMAND`: a click group that imports each command when it is used.

Importing this module imports click and nothing else. Commands are in `cli` modules. The group reports their errors.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ganctl import __version__
from ganctl.errors import report
from ganctl.processes import exit_process
from ganctl.signals import unwind_on_signals
from ganctl.streams import replace_stream

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# name → (module below ganctl, help line). The help is here, so that `ganctl --help` imports no command.
COMMANDS = {
    "train": ("training.cli.train", "Train a GAN; write a run folder with checkpoints, samples and logs."),
    "evaluate": ("training.cli.evaluate", "Score a generator against real images: fidelity, variety, labels, copying."),
    "sample": ("training.cli.sample", "Draw images from a run, a checkpoint, an export or a server."),
    "inspect": ("training.cli.inspect", "Describe a run, checkpoint, export, archive or data set."),
    "report": ("training.cli.report", "Write one HTML file about one or more runs."),
    "board": ("training.cli.board", "Show runs in TensorBoard."),
    "export": ("exports.cli", "Export a generator as verified TorchScript and ONNX files."),
    "package": ("serving.cli.package", "Pack an export into a TorchServe archive (.mar)."),
    "serve": ("serving.cli.serve", "Serve an archive, an export or a run with TorchServe."),
    "deploy": ("serving.cli.deploy", "Deploy a new version to a running server, or roll back."),
    "demo": ("demo", "Train, evaluate, export, package and serve a generator in one command."),
    "bench": ("benchmarks.cli", "Benchmark training, quality and serving, also against installed peers."),
    "doctor": ("doctor", "Check this machine for missing requirements."),
    "completion": ("completion", "Print the script of shell completion for bash, zsh or fish."),
}


class LazyGroup(click.Group):
    """Click group that imports a command when it is used, and turns every error into a message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        if cmd_name not in COMMANDS:
            raise click.NoSuchCommand(cmd_name, possibilities=COMMANDS, ctx=ctx)
        module = importlib.import_module(f"ganctl.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem[str]]":
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            code = super().main(*args, **kwargs | {"standalone_mode": False})
            sys.stdout.flush()
        except BaseException as error:
            code = report(error)
        sys.exit(code if isinstance(code, int) else 0)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True},
)
@click.version_option(__version__, prog_name="ganctl")
def cli() -> None:
    """Train, evaluate, export and serve generators of small images.

    train → evaluate → export → package → serve → GET an image. SOURCE is a run folder, a checkpoint, an export, an
    archive or a server's URL, whichever the command can read.
    """


def main() -> NoReturn:
    _use_utf8_mode()
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    replace_stream("stderr")
    if "_GANCTL_COMPLETE" in os.environ:
        importlib.import_module("ganctl.completion")  # registers its shells with click, which writes bytes to stdout
    else:
        replace_stream("stdout", ignore_closed=command == "train")  # training continues after its terminal closes
    if command not in ("train", "serve", "board"):  # they handle signals: train saves, serve drains, board stops
        unwind_on_signals()
    if command != "train":  # other commands are no ranks
        os.environ.pop("WORLD_SIZE", None)
    try:
        cli.main(prog_name="ganctl")
    except SystemExit as exit_:
        exit_process(int(exit_.code or 0))
    raise AssertionError("click exits by itself")


def _use_utf8_mode() -> None:
    """Restarts Python in its UTF-8 mode if the locale has another encoding.

    torch, ONNX Runtime and Java read paths as UTF-8, and class names must not depend on the locale. The standard
    streams keep the encoding of the locale.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    if sys.stdout is not None:
        os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:{sys.stdout.errors}")
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
