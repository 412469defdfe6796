"""The commands around a running server: `ganctl serve` and `deploy`."""

from typing import TYPE_CHECKING

import click

from ganctl.options import PRETRAINED, PathParam, SourceParam, json_option
from ganctl.signals import HANG_UP, end_signals
from ganctl.streams import emit

if TYPE_CHECKING:
    from pathlib import Path


def _sha256(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and (len(value) != 64 or not set(value.lower()) <= set("0123456789abcdef")):
        raise click.BadParameter(f"{value!r} is no SHA-256: 64 hexadecimal digits, as `ganctl inspect` tells them.")
    return value


def _workers(context: click.Context, parameter: click.Parameter, value: str) -> int | None:
    if value == "auto":
        return None
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is neither `auto` nor a number from 1.")
    return int(value)


_PORT = "The port that its `ganctl serve` printed."
_DRAIN = "The longest that ending may take for the requests that wait."


@click.command()
@click.argument("source", type=SourceParam(), default=PRETRAINED)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to answer on; 0.0.0.0 is every one.")
@click.option("--port", type=click.IntRange(0, 65531), default=8080, show_default=True, help="0 picks free ports.")
@click.option("--workers", callback=_workers, default="auto", show_default=True, help="Processes that draw.")
@click.option("--auth", type=click.Choice(["token", "none"]), help="[default: none on loopback, token elsewhere]")
@click.option("--page/--no-page", default=True, show_default=True, help="Whether a browser gets a page to draw with.")
@click.option("--backend", type=click.Choice(["onnx", "torchscript"]), help="[default: onnx; an archive has its own]")
@click.option("--sha256", metavar="HEX", callback=_sha256, help="Serve no other archive than the one with this digest.")
@click.option("--access-log", metavar="DIR", type=PathParam(file_okay=False), help="Log every request there, as JSON.")
@click.option("--drain-seconds", type=click.FloatRange(min=0), default=10.0, show_default=True, help=_DRAIN)
@json_option
def serve(
    source: str,
    host: str,
    port: int,
    workers: int | None,
    auth: str | None,
    page: bool,
    backend: str | None,
    sha256: str | None,
    access_log: str | None,
    drain_seconds: float,
    as_json: bool,
) -> None:
    """Serve SOURCE (an archive, an export or a run) with TorchServe until SIGTERM or Ctrl-C.

    Without one, the generator that comes with ganctl (`pretrained`) draws handwritten digits.

    The port that answers is --port; the four after it are for management, metrics and gRPC, on loopback only.

    SIGTERM, Ctrl-C or a closed terminal (SIGHUP) drains it: no new connections, and the requests that wait are
    answered. A second signal ends it at once. `nohup ganctl serve` goes on when the terminal is closed.
    """
    import os
    import signal
    import tempfile
    import threading
    from pathlib import Path
    from typing import Any, Literal, cast

    from ganctl.serving.addresses import resolve
    from ganctl.serving.hosts.torchserve.private_folder import loading_place
    from ganctl.serving.hosts.torchserve.server import Server

    address, temporary = resolve(host), Path(tempfile.gettempdir())
    if (place := loading_place(temporary)) != temporary:
        click.echo(f"{temporary} is mounted noexec: TorchServe's native library is loaded from {place}.", err=True)

    class Stopped(BaseException):
        """A signal asks us to stop; no Exception, so that nothing on the way takes it for a failure."""

    def stop(number: int, frame: Any) -> None:
        for each in signals:
            signal.signal(each, again)  # ending is bounded, and must not be cut short
        raise Stopped

    def again(number: int, frame: Any) -> None:
        if number != HANG_UP:  # a closed terminal sends it twice, by the kernel and by the shell
            hurry.set()

    hurry = threading.Event()

    signals = end_signals()
    before = {each: signal.signal(each, stop) for each in signals}
    try:
        with tempfile.TemporaryDirectory(prefix="ganctl-") as folder:
            mar = _archive(Path(source), Path(folder), backend)
            if sha256 is not None and mar != Path(source):
                raise click.UsageError(f"--sha256 {sha256}: only an archive (.mar) has a digest; {source} is none.")
            chosen = cast(Literal["token", "none"] | None, auth)
            click.echo(f"Starting TorchServe for {mar} …", err=True)
            with Server(
                mar,
                host=address,
                port=port,
                workers=workers,
                auth=chosen,
                page=page,
                sha256=sha256,
                access_log=Path(access_log) if access_log else None,
            ) as server:
                record = {
                    "url": server.url,
                    "pid": os.getpid(),
                    "management_url": server.management_url,
                    "metrics_url": server.metrics_url,
                    "token_file": server.token_file,
                }
                if as_json:
                    emit(record)
                else:
                    click.echo(f"Ready with {server.workers} workers. Ctrl-C stops it. A digit, five times as large:")
                    click.echo(f"  {server.url}/digits/predict?digits=7&scale=5")
                    if server.page:
                        click.echo(f"A browser shows what there is: {server.url}/digits/predict")
                    if server.token_file:
                        click.echo(
                            f"Requests need the key `inference` of {server.token_file}; it holds for 60 minutes."
                        )
                try:
                    server.wait()
                except Stopped:
                    click.echo("Draining …", err=True)
                    if not server.drain(drain_seconds, hurry):
                        click.echo("Ended before all requests were answered.", err=True)
            click.echo("Stopped.", err=True)
    except Stopped:  # while it started
        click.echo("Stopped.", err=True)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _archive(source: "Path", folder: "Path", backend: str | None) -> "Path":
    """The archive to serve: SOURCE itself, or made from it in `folder`."""
    from typing import cast

    from ganctl.serving.archive.mar import BackendName
    from ganctl.serving.archive.mar import package as pack
    from ganctl.serving.errors import PackageError

    if source.is_file() and source.suffix == ".mar":
        if backend is not None:
            raise click.UsageError(f"--backend {backend}: an archive has its own back-end; name the export instead.")
        return source
    if not source.is_dir():
        found = "which is none of them" if source.exists() else "and nothing is there"
        raise PackageError(f"{source}: expected an archive (.mar), an export or a run's folder, {found}.")
    if not (source / "manifest.json").is_file():
        from ganctl.exports.export import export

        source = export(source, out=folder / "export")
    return pack(source, folder, cast(BackendName, backend or "onnx"))


@click.command()
@click.argument("source", type=SourceParam(), required=False)
@click.option("--port", type=click.IntRange(1, 65531), default=8080, show_default=True, help=_PORT)
@click.option("--backend", type=click.Choice(["onnx", "torchscript"]), help="[default: onnx; an archive has its own]")
@click.option("--sha256", metavar="HEX", callback=_sha256, help="Take no other archive than the one with this digest.")
@click.option("--rollback", is_flag=True, help="Instead of SOURCE: serve the version before again.")
@json_option
def deploy(
    source: str | None, port: int, backend: str | None, sha256: str | None, rollback: bool, as_json: bool
) -> None:
    """Have the server of a port serve SOURCE (an archive, an export or a run) from now on.

    The server is a `ganctl serve` of yours on this machine. A process apart draws from the new version first; then the
    workers change to it between two batches, and no request fails. The version before is kept for --rollback.
    """
    import tempfile
    from pathlib import Path

    from ganctl.serving.deploy.control_socket import give

    if (source is None) != rollback:
        raise click.UsageError("Name what to deploy: a SOURCE (an archive, an export or a run), or --rollback.")
    with tempfile.TemporaryDirectory(prefix="ganctl-") as folder:
        if source is None:
            done = give(port, {"rollback": True})
        else:
            mar = _archive(Path(source), Path(folder), backend)
            if sha256 is not None and mar != Path(source):
                raise click.UsageError(f"--sha256 {sha256}: only an archive (.mar) has a digest; {source} is none.")
            done = give(port, {"mar": str(mar.absolute()), "sha256": sha256})
    if as_json:
        emit(dict(done))
    else:
        click.echo(f"Port {port} serves model {done['model_version']}, before {done['previous']}.")
        click.echo(f"Back again: ganctl deploy --rollback --port {port}")
