"""The commands that pack, serve and look: `ganctl package`, `serve` and `doctor`."""

from typing import TYPE_CHECKING

import click

from ganctl.options import PathParam, json_option
from ganctl.streams import emit

if TYPE_CHECKING:
    from .demo import Report


@click.command()
@click.argument("export_dir", type=PathParam())
@click.option("--backend", type=click.Choice(["onnx", "torchscript"]), default="onnx", show_default=True)
@click.option("--out", type=PathParam(), help="Folder for digits.mar.  [default: beside the export]")
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
@click.option("--out", type=PathParam(file_okay=False), default="demo", show_default=True, help="Folder for it all.")
@click.option("--train-seconds", type=click.IntRange(min=10), default=120, show_default=True, help="Time to train for.")
@json_option
def demo(out: str, train_seconds: int, as_json: bool) -> None:
    """Train, evaluate, export, package, serve and ask for digits, in one go: less than three minutes on two cores."""
    from pathlib import Path

    from .demo import run_demo

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
        ("Fréchet distance", f"{scores['fd']:.2f} ({scores['fd_times_floor']:.1f} × the floor of real images)"),
        ("precision, recall", f"{scores['precision']:.3f}, {scores['recall']:.3f}"),
        ("density, coverage", f"{scores['density']:.3f}, {scores['coverage']:.3f}"),
        (
            "label accuracy",
            f"{scores['label_accuracy']:.3f}; of {served['n']} served digits {served['label_accuracy']:.3f}",
        ),
        ("scoring classifier", f"reads {scores['scorer_accuracy']:.2%} of held-out images right"),
        *((f"time to {name}", f"{seconds:.1f} s") for name, seconds in report.seconds.items()),
        ("time in all", f"{sum(report.seconds.values()):.1f} s"),
    ]
