"""The commands `evaluate` and `inspect`. Only in the `cli` modules are things put together, and only there
printed.

torch and the rest are imported by the command that runs, so that `ganctl --help` needs none of it.
"""

from pathlib import Path
from typing import Any

import click

from ganctl import emit, json_option


def note(text: str) -> None:
    """Tells a person something on stderr."""
    click.echo(text, err=True)


def score_line(scores: dict[str, Any]) -> str:
    """Scores in a sentence."""
    times = scores["fd"] / scores["fd_floor"]
    line = f"on the {scores['split']} images: Fréchet distance {scores['fd']:.2f}, {times:.1f} × the floor of "
    line += f"{scores['fd_floor']:.2f} that real images have"
    if scores["label_accuracy"] is not None:
        line += f"; {scores['label_accuracy']:.1%} of the images are read as what was asked for"
    return line


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--n", default=10_000, show_default=True, type=click.IntRange(100, 60_000), help="Images to compare.")
@click.option("--split", type=click.Choice(["test", "val", "train"]), default="test", show_default=True)
@click.option("--set", "assignments", multiple=True, metavar="data.KEY=VALUE", help="Other data than SOURCE says.")
@json_option
def evaluate(source: Path, n: int, split: str, assignments: tuple[str, ...], as_json: bool) -> None:
    """Score a generator against real images. SOURCE is a run, a checkpoint, an export, or the .npz of `sample`.

    Where the images have moved, and for an export or a .npz of one's own images, --set data.root=FOLDER says where they
    are; a .npz of other images than MNIST's needs data.name (and data.size, data.channels) as well.

    fd is the Fréchet distance in the features of a digit classifier; fd_floor is what as many real training images get.
    """
    import time
    from typing import cast

    from training.data import Split, load_split
    from training.evaluation.evaluator import Evaluator
    from training.inspection import check_fit, lay_over

    began = time.monotonic()
    opened = _open_images(source) if source.suffix == ".npz" else open_source(source)
    data = lay_over(opened.data, assignments)
    check_fit(opened, load_split(data, cast(Split, split)), source)  # before a classifier is trained for minutes
    if opened.images is not None:
        n = min(n, len(opened.images))
    evaluator = Evaluator(data, cast(Split, split), n=n, announce=note)
    if opened.images is not None:
        n = evaluator.n
        scores = evaluator.score_images(opened.images[:n], None if opened.labels is None else opened.labels[:n])
    else:
        scores = evaluator.score(opened.source)
    seconds = round(time.monotonic() - began, 2)
    record = {"source": str(source.resolve()), **opened.facts, "split": split, **scores, "seconds": seconds}
    if as_json:
        emit(record)
        return
    click.echo(score_line(record))
    names = ("fd", "fd_floor", "label_accuracy", "precision", "recall", "density", "coverage")
    for name in names:
        click.echo(f"{name:16} {'–' if record[name] is None else format(record[name], '.4f')}")
    click.echo(f"{'n':16} {record['n']}\n{'seconds':16} {seconds}")


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def inspect(path: Path, as_json: bool) -> None:
    """Say what a run, checkpoint, export or archive is: step, metrics, digests."""
    from training.errors import CheckpointError

    if not path.exists():
        raise CheckpointError(
            f"{path}: there is nothing of this name; expected a run, a checkpoint, an export or a .mar"
        )
    if path.suffix == ".mar":
        from serving.archive import describe as describe_archive

        record = describe_archive(path)
    elif (path / "manifest.json").exists():
        from exports.manifest import describe as describe_export

        record = describe_export(path)
    else:
        from training.inspection import describe as describe_training

        record = describe_training(path)
    if as_json:
        emit(record)
        return
    for name, value in record.items():
        click.echo(f"{name:20} {value}")


def open_source(path: Path) -> Any:
    """An export where the folder has a manifest, else a run's best checkpoint or a checkpoint."""
    if (path / "manifest.json").exists():
        from exports.runtime import open_export

        return open_export(path)
    from training.inspection import open_checkpoint

    return open_checkpoint(path)


def _open_images(path: Path) -> Any:
    from training.drawing import open_images

    return open_images(path)
