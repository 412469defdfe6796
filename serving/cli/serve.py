"""The command `ganctl serve`."""

import contextlib
import os
import re
import signal
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ganctl.grouped_command import GroupedCommand
from ganctl.options import PRETRAINED, PathParam, SourceParam, complete_named_source, json_option
from ganctl.serving.cli.source import backend_option, find_or_package, sha256_option
from ganctl.signals import Terminated, termination_signals
from ganctl.streams import note, print_json

if TYPE_CHECKING:
    from ganctl.serving.archive.mar import BackendName
    from ganctl.serving.hosts.native.server import Server as NativeServer
    from ganctl.serving.hosts.torchserve.server import Server as TorchServeServer


def _workers(context: click.Context, parameter: click.Parameter, value: str) -> int | None:
    if value == "auto":
        return None
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"found {value!r}, expected `auto` or a number of at least 1.")
    return int(value)


_MODEL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RATE = "Requests per second for each key, or for all clients without keys. [native]"
_CORS = "Let pages of this origin read replies; repeatable, * for all. [native]"
_PROXY = "Address or network of a proxy whose X-Forwarded-For is logged; repeatable. [native]"
_DEVICE = "Run TorchScript models there; auto: on a GPU, if there is one. [native]  [default: auto]"
_DRAIN = "Time limit for answering waiting requests on shutdown."


_GROUPS = {
    "Model": ("--backend", "--device", "--sha256"),
    "Server": ("--engine", "--host", "--port", "--unix-socket", "--workers", "--page", "--drain-seconds", "--json"),
    "Access": ("--auth", "--keys", "--rate-limit", "--cors", "--trusted-proxy", "--tls-cert", "--tls-key"),
    "Metrics and logs": ("--metrics-host", "--access-log"),
}


@click.command(cls=GroupedCommand, groups=_GROUPS)
@click.argument("sources", metavar="[[NAME=]SOURCE]…", nargs=-1, shell_complete=complete_named_source)
@click.option("--engine", type=click.Choice(["torchserve", "native"]), default="torchserve", help="Server to run.")
@click.option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(0, 65531), default=8080, help="0 chooses free ports.")
@click.option("--metrics-host", metavar="ADDRESS", default="127.0.0.1", help="Address of the metrics (port + 2).")
@click.option("--workers", callback=_workers, default="auto", help="Number of worker processes.")
@click.option("--auth", type=click.Choice(["token", "none"]), help="[default: none on loopback, token elsewhere]")
@click.option("--page/--no-page", default=True, help="Show a page to browsers.")
@backend_option
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help=_DEVICE)
@sha256_option
@click.option("--access-log", metavar="DIR", type=PathParam(file_okay=False), help="Log each request there, as JSON.")
@click.option("--keys", metavar="FILE", type=PathParam(), help="Keys of clients, a line `NAME KEY` each. [native]")
@click.option("--rate-limit", metavar="N", type=click.FloatRange(min=0.01), help=_RATE)
@click.option("--cors", "origins", metavar="ORIGIN", multiple=True, help=_CORS)
@click.option("--trusted-proxy", "proxies", metavar="ADDRESS", multiple=True, help=_PROXY)
@click.option("--tls-cert", metavar="FILE", type=PathParam(), help="Certificate (PEM), for HTTPS. [native]")
@click.option("--tls-key", metavar="FILE", type=PathParam(), help="Its private key, if it is another file. [native]")
@click.option("--unix-socket", metavar="PATH", type=PathParam(), help="Listen there, too. [native]")
@click.option("--drain-seconds", type=click.FloatRange(min=0), default=10.0, help=_DRAIN)
@json_option
@click.pass_context
def serve(
    context: click.Context,
    sources: tuple[str, ...],
    engine: Literal["torchserve", "native"],
    host: str,
    port: int,
    metrics_host: str,
    workers: int | None,
    auth: Literal["token", "none"] | None,
    page: bool,
    backend: "BackendName | None",
    device: Literal["auto", "cpu", "cuda"] | None,
    sha256: str | None,
    access_log: str | None,
    keys: str | None,
    rate_limit: float | None,
    origins: tuple[str, ...],
    proxies: tuple[str, ...],
    tls_cert: str | None,
    tls_key: str | None,
    unix_socket: str | None,
    drain_seconds: float,
    as_json: bool,
) -> None:
    """Serve each SOURCE (an archive, an export or a run) until SIGTERM or Ctrl-C.

    The default SOURCE, `pretrained`, is the generator of handwritten digits that comes with ganctl.

    --engine native runs a server of ours: less latency, no Java, and several models, each under its NAME
    (`digits=digits.mar faces=runs/faces`; a single one is called digits). --engine torchserve runs TorchServe.
    docs/hosts.md compares them.

    Requests go to --port; the next ports are for management, metrics and TorchServe's gRPC, on loopback only, except
    for metrics with --metrics-host.

    SIGTERM, Ctrl-C or a closed terminal (SIGHUP) drains the server: it refuses new connections and answers waiting
    requests. A second signal ends it at once. `nohup ganctl serve` keeps running when the terminal is closed.
    """
    from ganctl.serving.addresses import resolve

    address, metrics_address = resolve(host), resolve(metrics_host, "--metrics-host")
    named = _named_sources(sources or (PRETRAINED,), engine, context)
    start = _start_torchserve if engine == "torchserve" else _start_native
    native: dict[str, Any] = {
        "keys": _path(keys), "rate": rate_limit, "origins": origins, "tls_cert": _path(tls_cert),
        "proxies": proxies, "tls_key": _path(tls_key), "unix_socket": _path(unix_socket),
    }  # fmt: skip
    native |= {"device": device} if device is not None else {}
    preferred: BackendName = "torchscript" if device == "cuda" else "onnx"  # ONNX models run on the CPU
    _check_native_options(native, engine, auth)

    def stop(number: int, frame: object) -> None:
        if not stopping.is_set():
            stopping.set()
            raise Terminated(number)
        if number != signal.SIGHUP:  # a closed terminal sends it twice: from the kernel and from the shell
            abort.set()  # no second exception, which would interrupt the shutdown

    stopping, abort = threading.Event(), threading.Event()
    before = {number: signal.signal(number, stop) for number in termination_signals()}
    try:
        with contextlib.suppress(Terminated), tempfile.TemporaryDirectory(prefix="ganctl-") as folder:
            archives = {
                name: find_or_package(Path(source), Path(folder) / name, backend, sha256, preferred)
                for name, source in named.items()
            }
            note(f"Starting the engine {engine} for {', '.join(map(str, archives.values()))} …")
            with start(
                archives,
                host=address,
                port=port,
                metrics_host=metrics_address,
                workers=workers,
                auth=auth,
                page=page,
                sha256=sha256,
                access_log=_path(access_log),
                **(native if engine == "native" else {}),
            ) as server:
                _print_ready(server, [*named], as_json)
                try:
                    server.wait()
                except Terminated:
                    note("Draining …")
                    if not server.drain(drain_seconds, abort):
                        note(f"Ended before all requests were answered (--drain-seconds {drain_seconds:g}).")
        note("Stopped.")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _path(text: str | None) -> Path | None:
    return Path(text) if text is not None else None


_FLAGS = {"rate": "--rate-limit", "origins": "--cors", "proxies": "--trusted-proxy"}


def _check_native_options(given: dict[str, Any], engine: str, auth: str | None) -> None:
    """Refuses options that the engine does not have, and those that contradict each other."""
    flags = [_FLAGS.get(name, f"--{name.replace('_', '-')}") for name, value in given.items() if value]
    if flags and engine == "torchserve":
        raise click.UsageError(f"{', '.join(flags)}: TorchServe has no such option. Add --engine native.")
    if given["tls_key"] and not given["tls_cert"]:
        raise click.UsageError("--tls-key: found no certificate. Add --tls-cert.")
    if given["keys"] and auth == "none":
        raise click.UsageError("--keys: found --auth none, expected --auth token. Leave --auth out.")


def _named_sources(words: tuple[str, ...], engine: str, context: click.Context) -> dict[str, str]:
    """Returns the sources by the names of their models; a single source without a name is called `digits`."""
    from ganctl.serving.archive.mar import MODEL_NAME

    named: dict[str, str] = {}
    for word in words:
        name, equals, source = word.partition("=")
        if not equals or _MODEL_NAME.fullmatch(name) is None or Path(word).exists():
            name, source = MODEL_NAME, word
            if len(words) > 1:
                raise click.UsageError(f"{word}: found no name, expected NAME=SOURCE for each of several models.")
        if name in named:
            raise click.UsageError(f"{word}: found the name {name} twice, expected a name for each model.")
        named[name] = SourceParam().convert(source, None, context)
    if engine == "torchserve" and [*named] != [MODEL_NAME]:
        raise click.UsageError(
            f"--engine torchserve: found the models {', '.join(named)}, expected one, without a name or called"
            f" {MODEL_NAME}. Add --engine native."
        )
    return named


def _start_native(archives: dict[str, Path], **settings: Any) -> "NativeServer":
    from ganctl.serving.hosts.native.server import Server

    return Server(archives, **settings)


def _start_torchserve(archives: dict[str, Path], **settings: Any) -> "TorchServeServer":
    from ganctl.serving.hosts.torchserve.private_folder import executable_folder
    from ganctl.serving.hosts.torchserve.server import Server

    temporary = Path(tempfile.gettempdir())
    if (native_folder := executable_folder(temporary)) != temporary:
        note(f"{temporary} is mounted noexec: TorchServe's native library is loaded from {native_folder}.")
    (mar,) = archives.values()
    return Server(mar, **settings)


def _print_ready(server: "TorchServeServer | NativeServer", names: list[str], as_json: bool) -> None:
    if as_json:
        record = {"url": server.url, "pid": os.getpid(), "management_url": server.management_url}
        print_json(record | {"metrics_url": server.metrics_url, "token_file": server.token_file})
        return
    click.echo(f"Ready with {server.workers} workers. Ctrl-C stops the server. An image, enlarged five times:")
    for name in names:
        click.echo(f"  {server.url}/{name}/predict?{'digits=7&' if name == 'digits' else ''}scale=5")
    if server.page:
        click.echo(f"Page for browsers: {', '.join(f'{server.url}/{name}/predict' for name in names)}")
    if server.token_file:
        lifetime = "; it is valid for 60 minutes" if server.keys_expire else ""
        click.echo(f"Requests need the key `inference` of {server.token_file}{lifetime}.")
