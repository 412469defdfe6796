"""The command `inspect`, and helpers shared by the other commands.

Only `cli` modules combine rooms and print. A command imports torch and the like when it runs, so that `ganctl --help`
needs none of them.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganctl.options import SourceParam, json_option
from ganctl.streams import print_json

if TYPE_CHECKING:
    from ganctl.training.sampling.inspection import OpenedSource


def score_line(scores: dict[str, Any]) -> str:
    """Summarizes scores in a sentence, with the accuracy of the scoring classifier."""
    parts = []
    if scores["fd"] is None:
        parts.append("no scores")
    elif scores.get("no_summary"):
        parts.append(f"Fréchet distance {scores['fd']:.2f}")
    else:
        times = f"{scores['fd'] / scores['fd_floor']:.1f} × the floor {scores['fd_floor']:.2f}"
        parts.append(f"Fréchet distance {scores['fd']:.2f}, {times} of real images")
    if scores["label_accuracy"] is not None:
        parts.append(f"label accuracy {scores['label_accuracy']:.1%}")
    if (accuracy := scores.get("scorer_accuracy")) is not None:  # missing in scores of an earlier version
        parts.append(f"the scoring classifier reads {accuracy:.2%} of held-out images right")
    return f"on the {scores['split']} images: {'; '.join(parts)}"


@click.command()
@click.argument("source", metavar="PATH", type=SourceParam())
@json_option
def inspect(source: str, as_json: bool) -> None:
    """Describe a run, checkpoint, export or archive: step, metrics, digests."""
    from ganctl.training.errors import CheckpointError

    path = Path(source)
    if not path.exists():
        raise CheckpointError(f"{path}: found no file, expected a run, a checkpoint, an export or a .mar")
    if path.suffix == ".mar":
        from ganctl.serving.archive.mar import describe_archive

        record = describe_archive(path)
    elif (path / "manifest.json").exists():
        from ganctl.exports.manifest import read

        record = {"kind": "export", "path": str(path.resolve()), **read(path)}
    else:
        from ganctl.training.sampling.inspection import describe_run

        record = describe_run(path)
    if as_json:
        print_json(record)
        return
    for name, value in record.items():
        click.echo(f"{name:20} {value}")


def open_source(path: Path) -> "OpenedSource":
    """Opens an export (a folder with a manifest), a run's best checkpoint, or a checkpoint."""
    if (path / "manifest.json").exists():
        from ganctl.exports.runtime import open_export

        return open_export(path)
    from ganctl.training.sampling.inspection import open_checkpoint

    return open_checkpoint(path)
