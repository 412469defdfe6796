"""The command `inspect`, and what other commands share with it. Only in the `cli` modules are things put together, and
only there printed.

torch and the rest are imported by the command that runs, so that `ganctl --help` needs none of it.
"""

from pathlib import Path
from typing import Any

import click

from ganctl.options import SourceParam, json_option
from ganctl.streams import emit


def note(text: str) -> None:
    """Tells a person something on stderr."""
    click.echo(text, err=True)


def score_line(scores: dict[str, Any]) -> str:
    """Scores in a sentence, with the accuracy of the classifier that they come from."""
    told = []
    if scores["fd"] is None:
        told.append("no scores")
    elif scores.get("no_summary"):
        told.append(f"Fréchet distance {scores['fd']:.2f}")
    else:
        times = f"{scores['fd'] / scores['fd_floor']:.1f} × the floor of {scores['fd_floor']:.2f}"
        told.append(f"Fréchet distance {scores['fd']:.2f}, {times} that real images have")
    if scores["label_accuracy"] is not None:
        told.append(f"{scores['label_accuracy']:.1%} of the images are read as what was asked for")
    if (accuracy := scores.get("scorer_accuracy")) is not None:  # scores of an earlier version lack it
        told.append(f"the scoring classifier reads {accuracy:.2%} of held-out images right")
    return f"on the {scores['split']} images: {'; '.join(told)}"


@click.command()
@click.argument("source", metavar="PATH", type=SourceParam())
@json_option
def inspect(source: str, as_json: bool) -> None:
    """Say what a run, checkpoint, export or archive is: step, metrics, digests."""
    from ganctl.training.errors import CheckpointError

    path = Path(source)
    if not path.exists():
        raise CheckpointError(
            f"{path}: there is nothing of this name; expected a run, a checkpoint, an export or a .mar"
        )
    if path.suffix == ".mar":
        from ganctl.serving.archive.mar import describe as describe_archive

        record = describe_archive(path)
    elif (path / "manifest.json").exists():
        from ganctl.exports.manifest import describe as describe_export

        record = describe_export(path)
    else:
        from ganctl.training.sampling.inspection import describe as describe_training

        record = describe_training(path)
    if as_json:
        emit(record)
        return
    for name, value in record.items():
        click.echo(f"{name:20} {value}")


def open_source(path: Path) -> Any:
    """An export where the folder has a manifest, else a run's best checkpoint or a checkpoint."""
    if (path / "manifest.json").exists():
        from ganctl.exports.runtime import open_export

        return open_export(path)
    from ganctl.training.sampling.inspection import open_checkpoint

    return open_checkpoint(path)
