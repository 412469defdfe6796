"""The command `sample`: an order becomes images, drawn here or by a server, and a file or a folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganctl.options import PathParam, SourceParam, json_option
from ganctl.streams import emit
from ganctl.training.cli.inspect import note, open_source

if TYPE_CHECKING:
    from ganctl.training.sampling import Film, LocalSampler, Sampler, SampleRequest, SampleResult
    from ganctl.training.sampling.inspection import Opened


@click.command()
@click.argument("source", type=SourceParam(servers=True))
@click.option(
    "--out",
    required=True,
    type=PathParam(path_type=Path),
    help="A .png, .webp, .gif, .npz, or a folder for PNG files.",
)
@click.option(
    "--label", "--digit", "labels", multiple=True, metavar="L", help="Class to draw, by its name; may be repeated."
)
@click.option("--text", help="A string of digits, drawn in one handwriting.")
@click.option("--count", type=click.IntRange(min=1), help="How many images (strips with --text).")
@click.option("--per-class", type=click.IntRange(min=1), help="How many images of each class.")
@click.option("--seed", type=click.IntRange(0, 2**53 - 1), help="Seed; the same one draws the same images.")
@click.option("--truncation", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Pulls z to its mean.")
@click.option(
    "--reject-misread", is_flag=True, help="Keep only images that the classifier reads as asked; draw until filled."
)
@click.option(
    "--frames", type=click.IntRange(2, 10_000), help="Length of the film [default for a .gif: 24 for each image]."
)
@click.option(
    "--set", "assignments", multiple=True, metavar="data.KEY=VALUE", help="--reject-misread: other data's classifier."
)
@click.option("--token", help="The key `inference` of the server's token file, where SOURCE asks for one.")
@json_option
def sample(
    source: str,
    out: Path,
    frames: int | None,
    assignments: tuple[str, ...],
    token: str | None,
    as_json: bool,
    **ordered: Any,
) -> None:
    """Draw images. SOURCE is a run, a checkpoint, an export, the URL of a server, or
    `pretrained`: the generator that comes with ganctl.

    The same seed draws the same images from each of these. --truncation 1 is all that the generator can; towards 0 the
    images become cleaner and more alike.

    A .gif (or a .webp with --frames) is a film: a walk through latent space from each ordered image to the next and
    back to the first. A list of digits, or a --text, is walked in one handwriting; --count repeats it in others.

    --reject-misread draws an image anew until the classifier of the data set reads it as what was asked for: data with
    sound labels. Images that are read right at once are those that come without it.
    """
    from ganctl.training.sampling import SampleRequest, check_name

    film = check_name(out, frames=frames)
    _check_flags(ordered, film=film, assignments=assignments)
    order = SampleRequest(**ordered)
    record: dict[str, Any] = {"out": str(out.resolve())}
    if film:
        walk = _film(order, source, frames, out)
        record |= {"count": walk.stops, "frames": len(walk.frames), "seed": walk.seed}
        told = f"a walk of {record['frames']} frames through {record['count']} images in {out} (seed {record['seed']})"
    else:
        drawn = _images(order, source, out, token, assignments)
        record |= {"count": len(drawn.images), "seed": drawn.seed}
        told = f"{record['count']} images in {out} (seed {record['seed']})"
        if drawn.drawn is not None:
            record |= {"drawn": drawn.drawn, "rejected": drawn.drawn - len(drawn.images)}
            told += f"; {record['drawn']} drawn, {record['rejected']} rejected"
    if as_json:
        emit(record)
    else:
        click.echo(told)


def _check_flags(ordered: dict[str, Any], *, film: bool, assignments: tuple[str, ...]) -> None:
    if ordered["text"] is not None and not ordered["text"]:
        raise click.UsageError("--text '': expected at least one digit.")
    if sum(ordered[name] is not None for name in ("text", "per_class")) + bool(ordered["labels"]) > 1:
        raise click.UsageError("--label, --text and --per-class exclude each other: give one of them.")
    if ordered["per_class"] and ordered["count"]:
        raise click.UsageError("--per-class and --count exclude each other: give one of them.")
    if film and ordered["reject_misread"]:
        raise click.UsageError(
            "--reject-misread: a film passes between digits, where nothing can be verified; leave it out."
        )
    if assignments and not ordered["reject_misread"]:
        raise click.UsageError(
            f"--set {assignments[0]}: it says which classifier --reject-misread reads with; add --reject-misread."
        )


def _film(order: "SampleRequest", source: str, frames: int | None, out: Path) -> "Film":
    from ganctl.training.sampling import OrderError, draw_walk, save_walk

    if _is_server(source):
        raise OrderError(
            f"--out {out}: a server draws the images of an order, and nothing between them; walk through a run or an"
            " export, or name a .png"
        )
    film = draw_walk(order, _local(source)[0], frames)
    save_walk(film, out)
    return film


def _images(
    order: "SampleRequest", source: str, out: Path, token: str | None, assignments: tuple[str, ...]
) -> "SampleResult":
    from ganctl.training.config.schema import DataSettings
    from ganctl.training.sampling import ServerSampler, save
    from ganctl.training.sampling.inspection import Opened

    if _is_server(source):
        from ganctl.serving.client.client import Client

        with Client(source, token=token) as client:  # a server does not say what it was trained on: MNIST, or --set
            drawn = _draw(order, ServerSampler(client), Opened(DataSettings()), assignments)
    else:
        drawn = _draw(order, *_local(source), assignments)
    save(drawn, out)
    return drawn


def _draw(order: "SampleRequest", sampler: "Sampler", opened: "Opened", assignments: tuple[str, ...]) -> "SampleResult":
    from ganctl.training.sampling import Reader, draw, draw_accepted

    if not order.reject_misread:
        return draw(order, sampler)
    from ganctl.training.evaluation.classifier import load_classifier
    from ganctl.training.sampling.inspection import lay_over

    data = lay_over(opened, assignments)
    sampler.check(order)  # before a classifier is trained, for minutes
    return draw_accepted(order, sampler, Reader(load_classifier(data, note), data.name))


def _local(source: str) -> "tuple[LocalSampler, Opened]":
    """A sampler from what lies at a path, and what lies there."""
    from ganctl.training.sampling import LocalSampler

    opened = open_source(Path(source))
    return LocalSampler(opened.source), opened


def _is_server(source: str) -> bool:
    return source.startswith(("http://", "https://"))
