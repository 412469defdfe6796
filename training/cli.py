"""The commands `sample` and `inspect`, and what other commands share with them. Only in the `cli` modules are things
put together, and only there printed.

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
@click.argument("source")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A .png, .npz, or a folder for PNG files.")
@click.option("--digit", "digits", multiple=True, metavar="D", help="Class to draw, by its name; may be repeated.")
@click.option("--text", help="A string of digits, drawn in one handwriting (a .png).")
@click.option("--count", type=click.IntRange(min=1), help="How many images (strips with --text).")
@click.option("--per-class", type=click.IntRange(min=1), help="How many images of each class.")
@click.option("--seed", type=click.IntRange(0, 2**53 - 1), help="Seed; the same one draws the same images.")
@click.option("--token", help="The key `inference` of the server's token file, where SOURCE asks for one.")
@click.option("--truncation", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Pulls z to its mean.")
@json_option
def sample(
    source: str,
    out: Path,
    digits: tuple[str, ...],
    text: str | None,
    count: int | None,
    per_class: int | None,
    seed: int | None,
    token: str | None,
    truncation: float,
    as_json: bool,
) -> None:
    """Draw images. SOURCE is a run, a checkpoint, an export, or the URL of a server."""
    from training.drawing import Order, check_name, save

    check_name(out)
    if text is not None and not text:
        raise click.UsageError("--text '': expected at least one digit.")
    if sum(option is not None for option in (text, per_class)) + bool(digits) > 1:
        raise click.UsageError("--digit, --text and --per-class exclude each other: give one of them.")
    if per_class and count:
        raise click.UsageError("--per-class and --count exclude each other: give one of them.")
    order = Order(digits=digits, text=text, count=count, per_class=per_class, seed=seed, truncation=truncation)
    if source.startswith(("http://", "https://")):
        from serving.client import Client

        with Client(source, token=token) as client:
            drawn = order.remote(client)
    else:
        from serving.handler.latents import draw_labels, latents

        opened = open_source(Path(source))
        drawn = order.local(opened.source, latents=latents, draw_labels=draw_labels)
    save(drawn, out)
    record = {"out": str(out.resolve()), "count": len(drawn.images), "seed": drawn.seed}
    if as_json:
        emit(record)
    else:
        click.echo(f"{record['count']} images in {out} (seed {record['seed']})")


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
