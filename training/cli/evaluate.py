"""The command `evaluate`: images of a generator, or of a file, against real ones."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganctl.options import SourceParam, expand_home, json_option
from ganctl.streams import emit
from ganctl.training.cli.inspect import note, open_source, score_line

if TYPE_CHECKING:
    from ganctl.training.config.schema import DataSettings
    from ganctl.training.data.base import Split
    from ganctl.training.evaluation.cache import TensorCache
    from ganctl.training.evaluation.evaluator import Evaluator
    from ganctl.training.evaluation.inception import Inception
    from ganctl.training.sampling.inspection import Opened


class FeaturesParam(click.ParamType[Path | None]):
    """`classifier` (None), or `inception=FILE` (the file)."""

    name = "features"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | None:
        kind, equals, file = str(value).partition("=")
        if kind == "classifier" and not equals:
            return None
        if kind != "inception" or not file:
            self.fail(f"{value!r}: expected 'classifier' or 'inception=FILE'", param, ctx)
        return Path(expand_home(file))


@click.command()
@click.argument("source", type=SourceParam())
@click.option(
    "--num-images", default=10_000, show_default=True, type=click.IntRange(100, 60_000), help="Images to compare."
)
@click.option("--split", type=click.Choice(["test", "val", "train"]), default="test", show_default=True)
@click.option("--draws", default=1, show_default=True, type=click.IntRange(1, 100), help="Draws of latents to score.")
@click.option("--features", type=FeaturesParam(), metavar="inception=FILE", help="Compare by an Inception network.")
@click.option("--cas", is_flag=True, help="Also train a classifier on generated images only; takes minutes.")
@click.option("--cas-images", default=60_000, show_default=True, type=click.IntRange(100, 1_000_000))
@click.option("--set", "assignments", multiple=True, metavar="data.KEY=VALUE", help="Other data than SOURCE says.")
@json_option
def evaluate(
    source: str,
    num_images: int,
    split: "Split",
    draws: int,
    features: Path | None,
    cas: bool,
    cas_images: int,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Score a generator against real images. SOURCE is a run, a checkpoint, an export, or the .npz of `sample`.

    Where the images have moved, and for an export or a .npz of one's own images, --set data.root=FOLDER says where they
    are; a .npz of other images than MNIST's needs data.name (and data.size, data.channels) as well.

    fd is the Fréchet distance in the features of a digit classifier (128 numbers after the ReLU of its hidden layer; it
    reads 99.59 % of MNIST's test images right); fd_floor is what as many real training images get. --draws K gives the
    means of K draws with their standard deviations. --features takes NVIDIA's inception-2015-12-05.pt or
    torch-fidelity's pt_inception-2015-12-05-6726825d.pth; labels stay the classifier's.
    --cas tells how well a classifier that has seen only generated images reads real ones. Scores that have no meaning
    (too few images, or data whose classes the classifier cannot tell apart) are left out, with the reason.
    docs/evaluation.md explains every number.
    """
    import time

    from ganctl.training.data.datasets import load_split
    from ganctl.training.errors import DataError
    from ganctl.training.evaluation.cache import TensorCache
    from ganctl.training.evaluation.evaluator import Evaluator
    from ganctl.training.evaluation.inception import Inception
    from ganctl.training.sampling.inspection import check_fit, lay_over

    began = time.monotonic()
    path = Path(source)
    opened = _open_images(path) if path.suffix == ".npz" else open_source(path)
    if draws > 1 and opened.images is not None:
        raise click.UsageError(f"--draws {draws}: the images of {source} are one draw; leave --draws out.")
    if cas and not _labelled(opened):
        raise click.UsageError(f"--cas: a classifier needs labels to learn from, and {source} has none; leave it out.")
    data = lay_over(opened, assignments)
    check_fit(opened, load_split(data, split), path)  # before a classifier is trained for minutes
    network = Inception(features, note) if features else None
    store = TensorCache(note)
    wanted = num_images if opened.images is None else min(num_images, len(opened.images))
    evaluator = Evaluator(data, split, num_images=wanted, announce=note, features=network, store=store)
    if cas and evaluator.scorer.fault:
        raise DataError(f"--cas: {evaluator.scorer.fault}; leave --cas out")
    scores = _score(opened, evaluator, data, store, draws)
    if cas:
        scores |= _use(opened, data, store, cas_images)
    record = {"source": str(path.resolve()), **opened.facts, "split": split, **scores, "draws": draws}
    record |= _networks(evaluator, network) | {"seconds": round(time.monotonic() - began, 2)}
    if as_json:
        emit(record)
    else:
        _tell(record)


def _score(
    opened: "Opened", evaluator: "Evaluator", data: "DataSettings", store: "TensorCache", draws: int
) -> dict[str, Any]:
    """All scores of the images, or of so many draws of a generator."""
    from ganctl.training.data.datasets import load_split
    from ganctl.training.evaluation.aggregate import mean_and_deviation
    from ganctl.training.evaluation.neighbors import Memorisation

    memorisation = Memorisation(load_split(data, "train"), load_split(data, "test"), store)
    found = []
    for draw in range(draws):
        if opened.images is None:
            assert opened.source is not None
            images, labels = evaluator.draw(opened.source, draw)
        else:
            images = opened.images[: evaluator.num_images]
            labels = None if opened.labels is None else opened.labels[: evaluator.num_images]
        scores = evaluator.score_images(images, labels)
        found.append(scores | {"memorisation": memorisation.check(images)})
        if draws > 1 and scores["fd"] is not None:
            note(f"draw {draw + 1} of {draws}: fd {scores['fd']:.3f}")
    if draws == 1:
        return found[0]
    mean, deviation = mean_and_deviation(found)
    return mean | {"std": deviation}


def _labelled(opened: "Opened") -> bool:
    return opened.labels is not None if opened.source is None else opened.source.conditional


def _use(opened: "Opened", data: "DataSettings", store: "TensorCache", n: int) -> dict[str, Any]:
    """The classification accuracy score: of a file's images, or of as many as are wanted of each class."""
    import torch

    from ganctl.training.data.base import ImageSet
    from ganctl.training.data.datasets import load_split
    from ganctl.training.evaluation.cas import LATENTS_SEED, classification_accuracy

    names = load_split(data, "test").class_names
    if opened.images is not None:
        assert opened.labels is not None
        fakes = ImageSet(opened.images[:n], opened.labels[:n], names)
    else:
        assert opened.source is not None
        note(f"drawing {n:,} images to learn from")
        labels = torch.arange(n) % len(names)
        z = torch.randn(n, opened.source.latent_dim, generator=torch.Generator().manual_seed(LATENTS_SEED))
        fakes = ImageSet(opened.source.draw(z, labels), labels, names)
    return classification_accuracy(fakes, data, store=store, announce=note)


def _networks(evaluator: "Evaluator", inception: "Inception | None") -> dict[str, Any]:
    """What the scores are made of."""
    from ganctl.training.checkpoint.format import weights_digest
    from ganctl.training.evaluation.classifier import FEATURES

    classifier = evaluator.classifier
    judge = {
        "accuracy": float(classifier.notes["test_accuracy"]),
        "features": FEATURES,
        "layer": "after the ReLU of the hidden layer",
        "sha256": weights_digest(classifier.state_dict()),
    }
    told: dict[str, Any] = {"features": "inception" if inception else "classifier", "classifier": judge}
    return told | ({"inception_sha256": inception.digest} if inception else {})


def _tell(record: dict[str, Any]) -> None:
    """The scores as a table: of the images, their deviation where there is one, and of real images where known."""
    if record["features"] == "inception":
        click.echo("in the features of the Inception network:")
    click.echo(score_line(record))
    if record["no_summary"]:
        click.echo(f"no summary: {record['no_summary']}")
    elif record["scorer_fault"]:
        click.echo(f"no readings: {record['scorer_fault']}")
    real = {"fd": "fd_floor", "class_balance": "class_balance_real", "inception_score": "inception_score_real"}
    real["cas"] = "cas_real"
    names = ("fd", "label_accuracy", "precision", "recall", "density", "coverage", "class_balance", "inception_score")
    for name in (*names, *(["cas"] if "cas" in record else [])):
        line = f"{name:18} {'–' if record[name] is None else format(record[name], '.4f'):>9}"
        if (deviation := record.get("std", {}).get(name)) is not None:
            line += f" ± {deviation:.4f}"
        beside = record[real[name]] if name in real else None
        click.echo(line + ("" if beside is None else f"   real images: {beside:.4f}"))
    copies = record["memorisation"]
    if copies["ratio"] is None:
        click.echo(f"{'memorisation':18} {'–':>9}")
    else:
        line = f"{'memorisation':18} {copies['ratio']:9.4f}   times the distance of test images to the nearest training"
        click.echo(f"{line} image; {copies['share_closer']:.1%} are nearer than 99 % of those")
    if copies["flagged"]:
        click.echo("                   as many near copies as that are suspect: see docs/evaluation.md")
    click.echo(f"{'num_images':18} {record['num_images']:9}\n{'seconds':18} {record['seconds']:9}")


def _open_images(path: Path) -> "Opened":
    from ganctl.training.sampling import open_images

    return open_images(path)
