"""Training on few images with and without augmentation: the quality, and how many generated images are near copies.

    python -m ganctl.benchmarks.few_images DATA [--images 100,500,2000,all] [--class NAME] [--seconds 120]
        [--preset auto] [--augment adaptive]… [--set KEY=VALUE]… [--seed 0] [--out DIR]

Each number of training images is trained with the same settings for the same time without augmentation, and with
`augment.probability` = `--augment`. The last checkpoints are scored on all test images, however few there were to train
on, and 1,000 of their images are compared with the training images. A generated image is a near copy if it is nearer to
one of them than 99 % of the test images are. DIR keeps the data, the runs and `results.json`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import click
import torch

from ganctl.benchmarks.errors import BenchError
from ganctl.benchmarks.report import JsonObject, machine, markdown_table
from ganctl.benchmarks.subsets import QUIET, make_folder, run, subset, training_subset, write_npz
from ganctl.training.cli.inspect import open_source
from ganctl.training.config.resolve import resolve
from ganctl.training.data.base import ImageSet, premultiply
from ganctl.training.data.datasets import load_split
from ganctl.training.evaluation.neighbors import SAMPLE, MemorizationDetector
from ganctl.training.evaluation.reference_stats import subsample
from ganctl.training.readers.tree import SPLITS, Split

_VAL_SHARE = 0.1  # validation images for each training image, which adaptive augmentation compares with
_MIN_VAL = 20
_SEED = 2026  # of the latents of the images that are searched for near copies
_COLUMNS = (
    "training images",
    "augmentation",
    "images seen",
    "KID",
    "FD",
    "× floor",
    "recall",
    "near copies",
    "flagged",
)


def of_class(data: ImageSet, name: str) -> ImageSet:
    """Returns the images of one class, without labels.

    Raises:
        BenchError: there is no such class.
    """
    if name not in data.class_names:
        raise BenchError(f"--class: found {name}, expected one of {', '.join(data.class_names) or 'no classes'}.")
    rows = (data.labels == data.class_names.index(name)).nonzero().flatten()
    return ImageSet(data.images[rows], data.labels[rows] * 0, ())


def few(splits: dict[Split, ImageSet], count: int | None) -> dict[Split, ImageSet]:
    """Returns `count` training images, a tenth as many validation images, and all test images; None: all of them.

    Raises:
        BenchError: there are fewer training images, or more classes than `count`.
    """
    if count is None:
        return splits
    held_out = max(_MIN_VAL, round(_VAL_SHARE * count))
    return splits | {"train": training_subset(splits["train"], count), "val": subset(splits["val"], held_out)}


def table(records: Sequence[JsonObject]) -> list[str]:
    """Returns a Markdown table with a row for each training."""
    rows = []
    for record in records:
        scores, copies = record["scores"], record["copies"]
        rows.append(
            [
                f"{record['train_images']:,}",
                record["augmentation"],
                f"{record['images']:,}",
                kid_text(scores),
                _text(scores["fd"], ".2f"),
                _text(scores["fd_ratio"], ".1f"),
                _text(scores["recall"], ".3f"),
                _text(copies["share_closer"], ".1%"),
                {None: "–", True: "yes", False: "no"}[copies["flagged"]],
            ]
        )
    return markdown_table(_COLUMNS, rows)


def kid_text(scores: JsonObject) -> str:
    """Returns KID with its standard error, or a dash where there are too few images for it."""
    return "–" if scores["kid"] is None else f"{scores['kid']:.3f} ± {scores['kid_se']:.3f}"


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def near_copies(checkpoint: Path, train: ImageSet, test: ImageSet) -> JsonObject:
    """Compares generated images with the training images; see `MemorizationDetector.check`."""
    source = open_source(checkpoint).source
    assert source is not None, "a checkpoint has a generator"
    labels = subsample(test.labels, SAMPLE)
    z = torch.randn(len(labels), source.latent_dim, generator=torch.Generator().manual_seed(_SEED))
    return MemorizationDetector(train, test).check(premultiply(source.generate(z, labels)))


def _parse_counts(text: str) -> list[int | None]:
    try:
        counts = [None if word == "all" else int(word) for word in text.split(",")]
    except ValueError as error:
        raise click.UsageError(f"--images: found {text}, expected numbers or 'all', separated by commas.") from error
    return counts


@click.command()
@click.argument("data")
@click.option("--images", default="100,500,2000,all", help="Numbers of training images.")
@click.option("--class", "class_name", help="Use the images of this class alone.")
@click.option("--seconds", default=120.0, type=click.FloatRange(min=1), help="Duration of each training.")
@click.option("--preset", default="auto")
@click.option(
    "--augment",
    "augmentations",
    multiple=True,
    default=("adaptive",),
    help="augment.probability of a training with augmentation; repeatable.",
)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Setting of all runs; repeatable.")
@click.option("--seed", default=0, type=click.IntRange(min=0))
@click.option("--num-images", default=10_000, type=click.IntRange(100, 60_000), help="Generated images to score.")
@click.option("--out", default=Path("few-images"), type=click.Path(path_type=Path), help="New folder.")
def main(
    data: str,
    images: str,
    class_name: str | None,
    seconds: float,
    preset: str,
    augmentations: tuple[str, ...],
    assignments: tuple[str, ...],
    seed: int,
    num_images: int,
    out: Path,
) -> None:
    """Train on few images with and without augmentation."""
    counts = _parse_counts(images)
    settings = resolve(preset=preset, assignments=[*assignments, f"data.source={data}"])[0].data
    splits = {split: load_split(settings, split) for split in SPLITS}
    if class_name is not None:
        splits = {split: of_class(each, class_name) for split, each in splits.items()}
    subsets = [few(splits, count) for count in counts]  # raises before anything is trained
    make_folder(out)
    everything = write_npz((out / "all.npz").resolve(), splits)
    words = [word for each in (*QUIET, *assignments) for word in ("--set", each)]
    words += ["--preset", preset, "--set", f"train.duration={seconds:g}s", "--seed", str(seed)]
    records: list[JsonObject] = []
    for count, chosen in zip(counts, subsets, strict=True):
        path = everything if count is None else write_npz((out / f"{count}.npz").resolve(), chosen)
        for augmentation in ("0", *augmentations):
            folder = out / f"{count or 'all'}-{augmentation}"
            result = run("train", path, *words, "--set", f"augment.probability={augmentation}", "--run-dir", folder)
            scores = run("evaluate", result["last"], "--set", f"data.source={everything}", "--num-images", num_images)
            records.append(
                {
                    "train_images": len(chosen["train"]),
                    "augmentation": "none" if augmentation == "0" else augmentation,
                    "images": result["images"],
                    "scores": scores,
                    "copies": near_copies(Path(result["last"]), chosen["train"], chosen["test"]),
                }
            )
            results = {"data": data, "class": class_name, "seconds": seconds, **machine(), "runs": records}
            (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")
            click.echo(f"{folder.name}: KID {kid_text(scores)}", err=True)
    click.echo("\n".join(table(records)))


if __name__ == "__main__":
    main()
