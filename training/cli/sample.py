"""The command `sample`: samples images, here or on a server, and writes a file or a folder."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganctl.options import PathParam, SourceParam, json_option
from ganctl.streams import note, print_json
from ganctl.training.cli.inspect import data_settings_option, open_source

if TYPE_CHECKING:
    from ganctl.training.sampling.request import SampleRequest, SampleResult
    from ganctl.training.sampling.samplers import Sampler


@click.command()
@click.argument("source", type=SourceParam(servers=True))
@click.option("--out", required=True, type=PathParam(path_type=Path), help="Write this file or folder.")
@click.option("--label", "--digit", "labels", multiple=True, metavar="L", help="Draw the class L; repeatable.")
@click.option("--text", help="Draw a string of digits in one style.")
@click.option("--count", type=click.IntRange(min=1), help="Number of images (of strips with --text).")
@click.option("--per-class", type=click.IntRange(min=1), help="Number of images of each class.")
@click.option("--seed", type=click.IntRange(0, 2**53 - 1), help="Seed; the same seed gives the same images.")
@click.option("--truncation", type=click.FloatRange(0, 1), default=1.0, help="Scale of the latents around their mean.")
@click.option("--reject-misread", is_flag=True, help="Redraw images that the classifier reads as another class.")
@click.option("--frames", type=click.IntRange(2, 10_000), help="Frames of an animation [default: 24 per image].")
@data_settings_option
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

    `pretrained` is the generator that ganctl contains. --out is a .png, .webp, .gif or .npz, or a folder of PNGs.

    The same seed gives the same images from each of them. --truncation 1 keeps the full variety; towards 0, images
    become cleaner and more alike.

    A .gif (or a .webp with --frames) is a walk through latent space from each image to the next and back to the first.
    A list of digits, or a --text, is walked in one style; --count repeats it in further styles.

    --reject-misread redraws each image until the classifier of the data set reads it as the requested class. It needs
    data with reliable labels, which --set may name. Images that are read correctly at once are the same as without it.
    """
    from ganctl.training.sampling.animation import sample_animation
    from ganctl.training.sampling.local_sampler import LocalSampler
    from ganctl.training.sampling.request import SampleRequest
    from ganctl.training.sampling.writers import check_output_path, save, save_animation

    animated = check_output_path(out, frames=frames)
    _check_flags(request_options, animated=animated, assignments=assignments)
    request = SampleRequest(**request_options)
    record: dict[str, Any] = {"out": str(out.resolve())}
    if animated:
        if _is_server(source):
            raise click.UsageError(f"--out {out}: a server samples no walks, only images. Name a run, or a .png.")
        local = open_source(Path(source)).source
        assert local is not None, "a path of images is not accepted"
        animation = sample_animation(request, LocalSampler(local), frames)
        save_animation(animation, out)
        record |= {"count": animation.keyframes, "frames": len(animation.frames), "seed": animation.seed}
        message = f"a walk of {len(animation.frames)} frames through {animation.keyframes} images in {out}"
    else:
        result = _draw(request, source, token, assignments)
        save(result, out)
        record |= {"count": len(result.images), "seed": result.seed}
        message = f"{len(result.images)} images in {out}"
        if result.total_drawn is not None:
            record |= {"drawn": result.total_drawn, "rejected": result.total_drawn - len(result.images)}
            message += f", {record['drawn']} drawn, {record['rejected']} rejected"
    if as_json:
        print_json(record)
    else:
        click.echo(f"{message} (seed {record['seed']})")


def _check_flags(request_options: dict[str, Any], *, animated: bool, assignments: tuple[str, ...]) -> None:
    if request_options["text"] == "":
        raise click.UsageError("--text '': expected at least one digit.")
    if sum(bool(request_options[name]) for name in ("labels", "text", "per_class")) > 1:
        raise click.UsageError("--label, --text and --per-class exclude each other: give one of them.")
    if request_options["per_class"] and request_options["count"]:
        raise click.UsageError("--per-class and --count exclude each other: give one of them.")
    if animated and request_options["reject_misread"]:
        raise click.UsageError("--reject-misread: frames between two classes have no label to verify. Leave it out.")
    if assignments and not request_options["reject_misread"]:
        raise click.UsageError(f"--set {assignments[0]}: it only sets the classifier of --reject-misread. Add it.")


def _is_server(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _draw(request: "SampleRequest", source: str, token: str | None, assignments: tuple[str, ...]) -> "SampleResult":
    """Draws images from a path or a server; rejects misread ones if requested."""
    from ganctl.training.config.schema import DataSettings
    from ganctl.training.sampling.inspection import OpenedSource, override_data_settings
    from ganctl.training.sampling.local_sampler import LocalSampler
    from ganctl.training.sampling.rejection import LabelPredictor, sample_accepted
    from ganctl.training.sampling.samplers import sample_images
    from ganctl.training.sampling.server_sampler import ServerSampler

    with ExitStack() as stack:
        if _is_server(source):
            from ganctl.serving.client.client import Client

            opened = OpenedSource(DataSettings())  # a server does not report its training data: MNIST, or --set
            sampler: Sampler = ServerSampler(stack.enter_context(Client(source, token=token)))
        else:
            opened = open_source(Path(source))
            assert opened.source is not None, "a path of images is not accepted"
            sampler = LocalSampler(opened.source)
        if request.reject_misread:
            data = override_data_settings(opened, assignments)
            sampler.check(request)  # before the classifier is fitted, which takes seconds
            result = sample_accepted(request, sampler, LabelPredictor(data, note))
        else:
            result = sample_images(request, sampler)
    return result
