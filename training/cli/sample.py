"""The command `sample`: draws images, here or on a server, and writes a file or a folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganctl.options import PathParam, SourceParam, json_option
from ganctl.streams import emit
from ganctl.training.cli.inspect import note, open_source

if TYPE_CHECKING:
    from ganctl.training.sampling import Film, LocalSampler, Sampler, SampleRequest, SampleResult
    from ganctl.training.sampling.inspection import OpenedSource


@click.command()
@click.argument("source", type=SourceParam(servers=True))
@click.option(
    "--out",
    required=True,
    type=PathParam(path_type=Path),
    help="Output: a .png, .webp, .gif or .npz file, or a folder for PNG files.",
)
@click.option(
    "--label", "--digit", "labels", multiple=True, metavar="L", help="Draw this class, by its name; repeatable."
)
@click.option("--text", help="Draw a string of digits in one style.")
@click.option("--count", type=click.IntRange(min=1), help="Number of images (of strips with --text).")
@click.option("--per-class", type=click.IntRange(min=1), help="Number of images of each class.")
@click.option(
    "--seed", type=click.IntRange(0, 2**53 - 1), help="Seed of the images; the same seed draws the same images."
)
@click.option(
    "--truncation",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Scale of the latents around their mean.",
)
@click.option("--reject-misread", is_flag=True, help="Redraw images that the classifier reads as another class.")
@click.option(
    "--frames", type=click.IntRange(2, 10_000), help="Frames of the animation [default for a .gif: 24 per image]."
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="data.KEY=VALUE",
    help="Data settings of the classifier of --reject-misread.",
)
@click.option("--token", help="Inference key of a server with tokens.")
@json_option
def sample(
    source: str,
    out: Path,
    frames: int | None,
    assignments: tuple[str, ...],
    token: str | None,
    as_json: bool,
    **request_options: Any,
) -> None:
    """Draw images of a generator. SOURCE is a run, a checkpoint, an export, the URL of a server, or `pretrained`.

    `pretrained` is the generator that ganctl contains.

    The same seed draws the same images from each of them. --truncation 1 keeps the full variety; towards 0, images
    become cleaner and more alike.

    A .gif (or a .webp with --frames) is a walk through latent space from each image to the next and back to the first.
    A list of digits, or a --text, is walked in one style; --count repeats it in further styles.

    --reject-misread redraws each image until the classifier of the data set reads it as the requested class. It needs
    data with reliable labels. Images that are read correctly at once are the same as without it.
    """
    from ganctl.training.sampling import SampleRequest, check_output_path

    film = check_output_path(out, frames=frames)
    _check_flags(request_options, film=film, assignments=assignments)
    request = SampleRequest(**request_options)
    record: dict[str, Any] = {"out": str(out.resolve())}
    if film:
        walk = _film(request, source, frames, out)
        record |= {"count": walk.keyframes, "frames": len(walk.frames), "seed": walk.seed}
        message = (
            f"a walk of {record['frames']} frames through {record['count']} images in {out} (seed {record['seed']})"
        )
    else:
        drawn = _images(request, source, out, token, assignments)
        record |= {"count": len(drawn.images), "seed": drawn.seed}
        message = f"{record['count']} images in {out} (seed {record['seed']})"
        if drawn.total_drawn is not None:
            record |= {"drawn": drawn.total_drawn, "rejected": drawn.total_drawn - len(drawn.images)}
            message += f"; {record['drawn']} drawn, {record['rejected']} rejected"
    if as_json:
        emit(record)
    else:
        click.echo(message)


def _check_flags(request_options: dict[str, Any], *, film: bool, assignments: tuple[str, ...]) -> None:
    if request_options["text"] is not None and not request_options["text"]:
        raise click.UsageError("--text '': expected at least one digit.")
    if sum(request_options[name] is not None for name in ("text", "per_class")) + bool(request_options["labels"]) > 1:
        raise click.UsageError("--label, --text and --per-class exclude each other: give one of them.")
    if request_options["per_class"] and request_options["count"]:
        raise click.UsageError("--per-class and --count exclude each other: give one of them.")
    if film and request_options["reject_misread"]:
        raise click.UsageError("--reject-misread: frames between two classes have no label to verify. Leave it out.")
    if assignments and not request_options["reject_misread"]:
        raise click.UsageError(
            f"--set {assignments[0]}: it only sets the classifier of --reject-misread. Add --reject-misread."
        )


def _film(request: "SampleRequest", source: str, frames: int | None, out: Path) -> "Film":
    from ganctl.training.sampling import SampleRequestError, draw_walk, save_walk

    if _is_server(source):
        raise SampleRequestError(
            f"--out {out}: a server draws no walks, only images. Give a run or an export as SOURCE, or name a .png."
        )
    film = draw_walk(request, _local(source)[0], frames)
    save_walk(film, out)
    return film


def _images(
    request: "SampleRequest", source: str, out: Path, token: str | None, assignments: tuple[str, ...]
) -> "SampleResult":
    from ganctl.training.config.schema import DataSettings
    from ganctl.training.sampling import ServerSampler, save
    from ganctl.training.sampling.inspection import OpenedSource

    if _is_server(source):
        from ganctl.serving.client.client import Client

        with Client(source, token=token) as client:  # a server does not report its training data: MNIST, or --set
            drawn = _draw(request, ServerSampler(client), OpenedSource(DataSettings()), assignments)
    else:
        drawn = _draw(request, *_local(source), assignments)
    save(drawn, out)
    return drawn


def _draw(
    request: "SampleRequest", sampler: "Sampler", opened: "OpenedSource", assignments: tuple[str, ...]
) -> "SampleResult":
    from ganctl.training.sampling import LabelPredictor, draw, draw_accepted

    if not request.reject_misread:
        return draw(request, sampler)
    from ganctl.training.evaluation.classifier import load_classifier
    from ganctl.training.sampling.inspection import override_data_settings

    data = override_data_settings(opened, assignments)
    sampler.check(request)  # before the classifier is trained, which takes minutes
    return draw_accepted(request, sampler, LabelPredictor(load_classifier(data, note), data.name))


def _local(source: str) -> "tuple[LocalSampler, OpenedSource]":
    """Opens a path and returns a sampler of it, with the opened source."""
    from ganctl.training.sampling import LocalSampler

    opened = open_source(Path(source))
    return LocalSampler(opened.source), opened


def _is_server(source: str) -> bool:
    return source.startswith(("http://", "https://"))
