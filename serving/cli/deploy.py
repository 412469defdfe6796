"""The command `ganctl deploy`."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ganctl.options import SourceParam, json_option
from ganctl.serving.cli.source import backend_option, find_or_package, sha256_option
from ganctl.streams import print_json

if TYPE_CHECKING:
    from ganctl.serving.archive.mar import BackendName


@click.command()
@click.argument("source", type=SourceParam(), required=False)
@click.option("--port", type=click.IntRange(1, 65531), default=8080, help="The server's port.")
@backend_option
@sha256_option
@click.option("--model", metavar="NAME", help="The model to change, if the server has several.")
@click.option("--rollback", is_flag=True, help="Serve the previous version again; takes no SOURCE.")
@json_option
def deploy(
    source: str | None,
    port: int,
    backend: "BackendName | None",
    sha256: str | None,
    model: str | None,
    rollback: bool,
    as_json: bool,
) -> None:
    """Make a running server serve SOURCE (an archive, an export or a run) from now on.

    The server is your own `ganctl serve` on this machine. A separate process first tests the new version. Then the
    workers switch to it between two batches, and no request fails. --rollback returns to the previous version.
    """
    from ganctl.serving.deploy.control_socket import send_command

    if (source is None) != rollback:
        raise click.UsageError("Give either SOURCE (an archive, an export or a run) or --rollback.")
    with tempfile.TemporaryDirectory(prefix="ganctl-") as folder:
        if source is None:
            done = send_command(port, {"rollback": True, "model": model})
        else:
            mar = find_or_package(Path(source), Path(folder), backend, sha256)
            done = send_command(port, {"mar": str(mar.absolute()), "sha256": sha256, "model": model})
    if as_json:
        print_json(done)
    else:
        click.echo(f"Port {port} now serves model {done['model_version']}; the previous one is {done['previous']}.")
        click.echo(f"Undo: ganctl deploy --rollback --port {port}")
