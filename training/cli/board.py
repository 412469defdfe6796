"""The command `board`: runs TensorBoard on one or more runs."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import click

from ganctl.options import PathParam, json_option
from ganctl.signals import REPEAT_WINDOW, Terminated, termination_signals
from ganctl.streams import note, print_json

_RUNS = Path("runs")


@click.command()
@click.argument("runs", metavar="[RUN…]", nargs=-1, type=PathParam(path_type=Path))
@click.option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(0, 65535), default=6006, help="0 chooses a free port.")
@json_option
def board(runs: tuple[Path, ...], host: str, port: int, as_json: bool) -> None:
    """Show each RUN in TensorBoard until SIGTERM or Ctrl-C.

    A RUN is the folder of a run, or a folder of runs. The default is `runs`, in which new runs appear by themselves.
    TensorBoard has no access control: on another --host than loopback, anybody who can reach the port reads the runs.
    """
    from ganctl.serving.addresses import resolve
    from ganctl.training.report.logdir import has_events, linked_runs

    address = resolve(host)
    received: list[float] = []  # the time of the first signal

    def stop(number: int, frame: object) -> None:
        if not received:
            received.append(time.monotonic())
            raise Terminated(number)
        if time.monotonic() - received[0] > REPEAT_WINDOW:  # the end takes too long: end at once
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    before = {number: signal.signal(number, stop) for number in termination_signals()}
    try:
        with contextlib.suppress(Terminated), linked_runs(runs or (_RUNS,)) as (folder, names):
            for path in names.values():
                if not has_events(path):
                    note(f"{path}: it has no TensorBoard events yet; with log.tensorboard = false a run writes none")
            url = _launch(folder, address, port)
            if as_json:
                print_json({"url": url, "pid": os.getpid(), "runs": {name: str(path) for name, path in names.items()}})
            else:
                click.echo(f"TensorBoard shows {', '.join(names)} at {url}. Ctrl-C stops it.")
            threading.Event().wait()
        note("Stopped.")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _launch(folder: Path, address: str, port: int) -> str:
    """Starts TensorBoard in a thread; returns its URL, which answers.

    Raises:
        ServerError: the port or the address cannot be used.
    """
    from tensorboard.program import TensorBoard, TensorBoardPortInUseError, TensorBoardServerException

    from ganctl.serving.errors import ServerError

    server = TensorBoard()
    # load_fast starts a process of its own, which would have to be ended as well
    server.configure(
        ["tensorboard", "--logdir", str(folder), "--host", address, "--port", str(port), "--load_fast=false"]
    )
    try:
        url: str = server.launch()
    except TensorBoardPortInUseError as error:
        hint = "`ss -ltnp` names its user. Give another --port, or 0 for a free one"
        raise ServerError(f"--port {port}: the port is in use. {hint}.") from error
    except TensorBoardServerException as error:
        raise ServerError(f"--host {address}, --port {port}: {error.msg}. Give another --host or --port.") from error
    return url
