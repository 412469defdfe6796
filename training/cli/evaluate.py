"""The command `evaluate`: scores generated images against real ones."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganctl.options import SourceParam, json_option
from ganctl.streams import note, print_json
from ganctl.training.cli.inspect import data_settings_option, open_source

if TYPE_CHECKING:
    from ganctl.training.config.schema import DataSettings
    from ganctl.training.data.base import Split
    from ganctl.training.evaluation.cache import TensorCache
    from ganctl.training.evaluation.evaluator import Evaluator
    from ganctl.training.sampling.inspection import OpenedSource


@click.command()
@click.argument("source", type=SourceParam())
@click.option("--num-images", default=10_000, type=click.IntRange(100, 60_000), help="Number of generated images.")
@click.option("--split", type=click.Choice(["test", "val", "train"]), default="test", help="Real images to use.")
@click.option("--draws", default=1, type=click.IntRange(1, 100), help="Number of independent draws of latents.")
@click.option("--features", type=SourceParam(), metavar="FILE", help="Compare in the features of this network.")
@click.option("--measure", default=2, type=click.IntRange(1, 2), help="1: the scores of earlier versions.")
@click.option("--cas", is_flag=True, help="Also train a classifier on generated images; takes minutes.")
@click.option("--cas-images", default=60_000, type=click.IntRange(100, 1_000_000), help="Number of images for --cas.")
@data_settings_option
@json_option
def evaluate(
    source: str,
    num_images: int,
    split: "Split",
    draws: int,
    features: str | None,
    measure: int,
    cas: bool,
    cas_images: int,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Score a generator against real images. SOURCE is a run, a checkpoint, an export, or a .npz of `sample`.

    --set data.source=DATA names the real images: for an export, when the images have moved, or for a .npz of images
    other than MNIST (which may also need data.size and data.channels).

    fd is the Fréchet distance, and kid the kernel distance with its standard error, in the features of a network that
    was trained on other images; kid is the one to read for fewer than 5,000 images. fd_floor is the distance of as many
    real training images. --draws K reports means and standard deviations of K draws. --features FILE takes another
    network: Inception, DINOv2 or any other in TorchScript, ONNX or safetensors.

    --cas reports the accuracy on real images of a classifier trained on generated images alone. Scores without a
    meaning (too few images, or classes that the classifier cannot separate) are left out, with the reason.
    docs/evaluation.md explains every score.
    """
    import time

    import torch

    from ganctl.training.data.datasets import load_split
    from ganctl.training.device.threads import limit_threads
    from ganctl.training.device.turns import take_turns
    from ganctl.training.errors import DataError
    from ganctl.training.evaluation.cache import TensorCache
    from ganctl.training.evaluation.evaluator import Evaluator
    from ganctl.training.evaluation.feature_files import FileFeatures
    from ganctl.training.evaluation.scorer import load_scorer
    from ganctl.training.sampling.inspection import check_fit, override_data_settings
    from ganctl.training.sampling.writers import open_images

    start = time.monotonic()
    limit_threads()
    click.get_current_context().with_resource(take_turns(torch.get_num_threads()))
    path = Path(source)
    opened = open_images(path) if path.suffix == ".npz" else open_source(path)
    if draws > 1 and opened.images is not None:
        raise click.UsageError(f"--draws {draws}: found one draw in {source}. Leave --draws out.")
    if features and measure == 1:
        raise click.UsageError("--measure 1: it has its own features. Leave --features out.")
    has_labels = opened.labels is not None if opened.source is None else opened.source.conditional
    if cas and not has_labels:
        raise click.UsageError(f"--cas: {source} has no labels to train a classifier on. Leave --cas out.")
    data = override_data_settings(opened, assignments)
    check_fit(opened, load_split(data, split), path)  # before the classifier is fitted, which takes seconds
    file_features = FileFeatures(Path(features), note) if features else None
    scorer = load_scorer(data, announce=note, measure=measure, file_features=file_features)
    cache = TensorCache(note)
    count = num_images if opened.images is None else min(num_images, len(opened.images))
    evaluator = Evaluator(data, split, num_images=count, announce=note, scorer=scorer, cache=cache)
    if cas and evaluator.scorer_fault:
        raise DataError(f"--cas: {evaluator.scorer_fault}. Leave --cas out.")
    scores = _score(opened, evaluator, data, cache, draws)
    if cas:
        scores |= _cas_scores(opened, data, cache, cas_images)
    record = {"source": str(path.resolve()), **opened.facts, "split": split, **scores, "draws": draws}
    record |= {"features": scorer.name, "scorer": scorer.digest}
    record |= {"seconds": round(time.monotonic() - start, 2)}
    if as_json:
        print_json(record)
    else:
        _print_scores(record)


def _score(
    opened: "OpenedSource", evaluator: "Evaluator", data: "DataSettings", cache: "TensorCache", draws: int
) -> dict[str, Any]:
    """Returns all scores of the images, or their means over several draws of a generator."""
    from ganctl.training.data.base import premultiply
    from ganctl.training.data.datasets import load_split
    from ganctl.training.evaluation.aggregate import mean_and_deviation
    from ganctl.training.evaluation.neighbors import MemorizationDetector

    detector = MemorizationDetector(load_split(data, "train"), load_split(data, "test"), cache)
    results = []
    for draw in range(draws):
        if opened.images is None:
            assert opened.source is not None
            images, labels = evaluator.generate(opened.source, draw)
        else:
            images = premultiply(opened.images[: evaluator.num_images])
            labels = None if opened.labels is None else opened.labels[: evaluator.num_images]
        scores = evaluator.score_images(images, labels)
        results.append(scores | {"memorisation": detector.check(images)})
        if draws > 1 and scores["fd"] is not None:
            note(f"draw {draw + 1} of {draws}: fd {scores['fd']:.3f}")
    if draws == 1:
        return results[0]
    mean, deviation = mean_and_deviation(results)
    return mean | {"std": deviation}


def _cas_scores(opened: "OpenedSource", data: "DataSettings", cache: "TensorCache", n: int) -> dict[str, Any]:
    """Returns the classification accuracy score of the images of a file, or of `n` generated ones in equal classes."""
    import torch

    from ganctl.training.data.base import ImageSet, premultiply
    from ganctl.training.data.datasets import load_split
    from ganctl.training.evaluation.cas import LATENTS_SEED, classification_accuracy

    names = load_split(data, "test").class_names
    if opened.images is not None:
        assert opened.labels is not None
        fakes = ImageSet(premultiply(opened.images[:n]), opened.labels[:n], names)
    else:
        assert opened.source is not None
        note(f"generating {n:,} training images for the classifier")
        labels = torch.arange(n) % len(names)
        z = torch.randn(n, opened.source.latent_dim, generator=torch.Generator().manual_seed(LATENTS_SEED))
        fakes = ImageSet(premultiply(opened.source.generate(z, labels)), labels, names)
    return classification_accuracy(fakes, data, cache=cache, announce=note)


def _print_scores(record: dict[str, Any]) -> None:
    """Prints the scores as a table, with standard deviations and the scores of real images where known."""
    from ganctl.training.evaluation.summary import score_line

    if record["features"] == "file":
        click.echo("in the features of the given network:")
    click.echo(score_line(record))
    if record["no_summary"]:
        click.echo(f"no summary: {record['no_summary']}")
    elif record["scorer_fault"]:
        click.echo(f"no label scores: {record['scorer_fault']}")
    names = (
        "fd",
        "kid",
        "label_accuracy",
        "precision",
        "recall",
        "density",
        "coverage",
        "class_balance",
        "inception_score",
    )
    for name in (*names, *(["cas"] if "cas" in record else [])):
        line = f"{name:18} {_number(record[name])}"
        if name == "kid" and record["kid_se"] is not None:
            line += f"   standard error: {record['kid_se']:.4f}"
        if (deviation := record.get("std", {}).get(name)) is not None:
            line += f" ± {deviation:.4f}"
        real = record.get("fd_floor" if name == "fd" else f"{name}_real")
        click.echo(line + ("" if real is None else f"   real images: {real:.4f}"))
    copies = record["memorisation"]
    line = f"{'memorisation':18} {_number(copies['ratio'])}"
    if copies["ratio"] is not None:
        line += "   times the distance of test images to the nearest training image;"
        line += f" {copies['share_closer']:.1%} are nearer than 99 % of the test images"
    click.echo(line)
    if copies["flagged"]:
        click.echo("                   so many near copies suggest memorization: see docs/evaluation.md")
    for name in ("num_images", "measure", "seconds"):
        click.echo(f"{name:18} {record[name]:9}")


def _number(value: float | None) -> str:
    return f"{'–' if value is None else format(value, '.4f'):>9}"
