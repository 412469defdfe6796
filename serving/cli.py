"""The commands that pack, serve and look: `ganctl package`, `serve` and `doctor`."""

from typing import TYPE_CHECKING

import click

from ganctl import PRETRAINED, SourceParam, emit, json_option

if TYPE_CHECKING:
    from pathlib import Path

    from .demo import Report


@click.command()
@click.argument("export_dir", type=click.Path())
@click.option("--backend", type=click.Choice(["onnx", "torchscript"]), default="onnx", show_default=True)
@click.option("--out", type=click.Path(), help="Folder for digits.mar.  [default: beside the export]")
@json_option
def package(export_dir: str, backend: str, out: str | None, as_json: bool) -> None:
    """Pack EXPORT_DIR into digits.mar, an archive that any TorchServe serves."""
    from pathlib import Path
    from typing import cast

    from .archive import BackendName, describe
    from .archive import package as pack

    mar = pack(Path(export_dir), Path(out) if out else None, cast(BackendName, backend))
    record = describe(mar)
    if as_json:
        emit(record)
    else:
        click.echo(f"{mar}: {record['bytes'] / 1e6:.1f} MB, model {record['model_version']}, {backend}")
        click.echo(f"Next: ganctl serve {mar}")


def _sha256(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and (len(value) != 64 or not set(value.lower()) <= set("0123456789abcdef")):
        raise click.BadParameter(f"{value!r} is no SHA-256: 64 hexadecimal digits, as `ganctl inspect` tells them.")
    return value


@click.command()
@click.argument("source", type=SourceParam(), default=PRETRAINED)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to answer on; 0.0.0.0 is every one.")
@click.option("--port", type=click.IntRange(0, 65531), default=8080, show_default=True, help="0 picks free ports.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes that draw.  [default: one a core, at most 4]")
@click.option("--auth", type=click.Choice(["token", "none"]), help="[default: none on loopback, token elsewhere]")
@click.option("--backend", type=click.Choice(["onnx", "torchscript"]), help="[default: onnx; an archive has its own]")
@click.option("--sha256", metavar="HEX", callback=_sha256, help="Serve no other archive than the one with this digest.")
@json_option
def serve(
    source: str,
    host: str,
    port: int,
    workers: int | None,
    auth: str | None,
    backend: str | None,
    sha256: str | None,
    as_json: bool,
) -> None:
    """Serve SOURCE (an archive, an export or a run) with TorchServe until SIGTERM or Ctrl-C.

    Without one, the generator that comes with ganctl (`pretrained`) draws handwritten digits.

    The port that answers is --port; the four after it are for management, metrics and gRPC, on loopback only.
    """
    import os
    import signal
    import tempfile
    from pathlib import Path
    from typing import Any, Literal, cast

    from .server import Server

    class Stopped(BaseException):
        """A signal asks us to stop; no Exception, so that nothing on the way takes it for a failure."""

    def stop(number: int, frame: Any) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)  # stopping is bounded; a second Ctrl-C would only leave remains
        raise Stopped

    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {each: signal.signal(each, stop) for each in signals}
    try:
        with tempfile.TemporaryDirectory(prefix="ganctl-") as folder:
            mar = _archive(Path(source), Path(folder), backend)
            if sha256 is not None and mar != Path(source):
                raise click.UsageError(f"--sha256 {sha256}: only an archive (.mar) has a digest; {source} is none.")
            chosen = cast(Literal["token", "none"] | None, auth)
            click.echo(f"Starting TorchServe for {mar} …", err=True)
            with Server(mar, host=host, port=port, workers=workers, auth=chosen, sha256=sha256) as server:
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
                    if server.token_file:
                        click.echo(
                            f"Requests need the key `inference` of {server.token_file}; it holds for 60 minutes."
                        )
                server.wait()
    except Stopped:
        click.echo("Stopped.", err=True)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _archive(source: "Path", folder: "Path", backend: str | None) -> "Path":
    """The archive to serve: SOURCE itself, or made from it in `folder`."""
    from typing import cast

    from .archive import BackendName
    from .archive import package as pack
    from .errors import PackageError

    if source.is_file() and source.suffix == ".mar":
        if backend is not None:
            raise click.UsageError(f"--backend {backend}: an archive has its own back-end; name the export instead.")
        return source
    if not source.is_dir():
        found = "which is none of them" if source.exists() else "and nothing is there"
        raise PackageError(f"{source}: expected an archive (.mar), an export or a run's folder, {found}.")
    if not (source / "manifest.json").is_file():
        from exports.export import export

        source = export(source, out=folder / "export")
    return pack(source, folder, cast(BackendName, backend or "onnx"))


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine has, and what to do about what it lacks."""
    from pathlib import Path

    from .doctor import examine

    findings = []
    for finding in examine(Path("runs")):
        findings.append(finding)
        if not as_json:
            click.echo(f"{'ok  ' if finding.good else 'LACK'}  {finding.name:<21} {finding.found}")
            if not finding.good:
                click.echo(f"{'':<28}{finding.advice}")
    if as_json:
        told = {
            each.name: {
                "ok": each.good,
                "found": each.found,
                "advice": None if each.good else each.advice,
                **each.facts,
            }
            for each in findings
        }
        emit({"ok": all(finding.good for finding in findings), "findings": told})


@click.command()
@click.option("--out", type=click.Path(file_okay=False), default="demo", show_default=True, help="Folder for it all.")
@click.option("--train-seconds", type=click.IntRange(min=10), default=120, show_default=True, help="Time to train for.")
@json_option
def demo(out: str, train_seconds: int, as_json: bool) -> None:
    """Train, evaluate, export, package, serve and ask for digits, in one go: less than three minutes on two cores."""
    import signal
    import sys
    from pathlib import Path

    from .demo import run_demo

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # unwinds, so that no stage is left
    report = run_demo(Path(out), train_seconds=train_seconds, announce=lambda text: click.echo(text, err=True))
    if as_json:
        files = {name: str(path.resolve()) for name, path in report.files.items()}
        emit({"files": files, "seconds": report.seconds, **report.records})
        return
    click.echo("\n" + "\n".join(f"{name:<20} {value}" for name, value in _demo_table(report)))
    click.echo(f"\nLook at {report.files['digits.png']}. Next: ganctl serve {report.files['digits.mar']}")


def _demo_table(report: "Report") -> list[tuple[str, str]]:
    scores, served = report.records["evaluate"], report.records["served"]
    made = {"run": "run", "export": "export", "archive": "digits.mar", "picture": "digits.png"}
    return [
        *((name, str(report.files[file])) for name, file in made.items()),
        (
            "Fréchet distance",
            f"{scores['fd']:.2f} ({scores['fd'] / scores['fd_floor']:.1f} × the floor of real images)",
        ),
        ("precision, recall", f"{scores['precision']:.3f}, {scores['recall']:.3f}"),
        ("density, coverage", f"{scores['density']:.3f}, {scores['coverage']:.3f}"),
        (
            "label accuracy",
            f"{scores['label_accuracy']:.3f}; of {served['n']} served digits {served['label_accuracy']:.3f}",
        ),
        *((f"time to {name}", f"{seconds:.1f} s") for name, seconds in report.seconds.items()),
        ("time in all", f"{sum(report.seconds.values()):.1f} s"),
    ]
