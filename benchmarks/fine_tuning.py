"""Fine-tuning on few images, compared with training from nothing for the same time: `--init-from` measured.

    python -m ganctl.benchmarks.fine_tuning --source fashion-mnist --target DATA [--images 200 | --per-class 20]
        [--seconds 60] [--source-seconds 120] [--preset conv] [--set KEY=VALUE]… [--seeds 1] [--out DIR]

`--source` is a data set on which a run is trained first, or a finished run or checkpoint. The training images are a
subset of the target's, as many of each class as possible. Both ways train on it with the same settings for `--seconds`,
and their last checkpoints are scored on all test images of the target. DIR keeps the data, the runs and `results.json`.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

import click

from ganctl.benchmarks.report import JsonObject, machine, markdown_table
from ganctl.benchmarks.subsets import QUIET, make_folder, run, subset, training_subset, write_npz
from ganctl.training.config.resolve import resolve
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.datasets import load_split
from ganctl.training.readers.base import sorted_class_names
from ganctl.training.readers.tree import SPLITS
from ganctl.training.sampling.inspection import is_model

SCORES = {
    "fd_ratio": "FD, × floor",
    "precision": "precision",
    "recall": "recall",
    "coverage": "coverage",
    "label_accuracy": "label accuracy",
}
_HELD_OUT = 500  # validation and test images of the subset, which choose nothing


def prepare(settings: DataSettings, folder: Path, *, images: int | None, per_class: int | None) -> tuple[Path, str]:
    """Writes the images to train on, `few.npz`, into a new folder.

    Returns:
        Its path.
        The data set to score on: the target, or a copy of it, if classes of files would have another order.

    Raises:
        BenchError: there are fewer images or more classes, or the folder exists.
    """
    splits = {split: load_split(settings, split) for split in SPLITS}
    train = splits["train"]
    count = images or (per_class or 0) * train.num_classes
    option = "--images" if images else "--per-class"
    chosen = training_subset(train, count, option)
    few = {name: subset(data, _HELD_OUT) for name, data in splits.items()} | {"train": chosen}
    make_folder(folder)
    path = write_npz((folder / "few.npz").resolve(), few)
    if sorted_class_names(train.class_names) == train.class_names:
        return path, settings.source
    return path, str(write_npz(path.with_name("all.npz"), splits))


def table(records: Sequence[JsonObject]) -> list[str]:
    """Returns a Markdown table with the mean scores of both ways over their seeds."""
    rows = []
    for start in dict.fromkeys(record["start"] for record in records):
        group = [record for record in records if record["start"] == start]
        cells = [_mean(record["scores"].get(score) for record in group) for score in SCORES]
        rows.append([start, str(len(group)), f"{fmean(record['images'] for record in group):,.0f}", *cells])
    return markdown_table(["start", "seeds", "images seen", *SCORES.values()], rows)


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):.3f}" if known else "–"


@click.command()
@click.option("--source", required=True, help="Data set to train on first, or a run or checkpoint.")
@click.option("--target", required=True, help="Data set of which few images are trained on.")
@click.option("--images", type=click.IntRange(min=1), help="Training images of the target [default: 200].")
@click.option("--per-class", type=click.IntRange(min=1), help="Training images of each class instead.")
@click.option("--seconds", default=60.0, type=click.FloatRange(min=1), help="Duration of either training.")
@click.option("--source-seconds", default=120.0, type=click.FloatRange(min=1), help="Duration of the source's run.")
@click.option("--preset", default="conv")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Setting of all runs; repeatable.")
@click.option("--seeds", default=1, type=click.IntRange(min=1))
@click.option("--num-images", default=10_000, type=click.IntRange(100, 60_000), help="Generated images to score.")
@click.option("--out", default=Path("fine-tuning"), type=click.Path(path_type=Path), help="New folder.")
def main(
    source: str,
    target: str,
    images: int | None,
    per_class: int | None,
    seconds: float,
    source_seconds: float,
    preset: str,
    assignments: tuple[str, ...],
    seeds: int,
    num_images: int,
    out: Path,
) -> None:
    """Compare fine-tuning with training from nothing."""
    if images and per_class:
        raise click.UsageError("found --images and --per-class, expected one of them.")
    words = [word for each in (*QUIET, *assignments) for word in ("--set", each)]
    settings = resolve(preset=preset, assignments=[*assignments, f"data.source={target}"])[0].data
    few, everything = prepare(settings, out, images=images or (None if per_class else 200), per_class=per_class)
    data = [word for each in assignments if each.startswith("data.") for word in ("--set", each)]
    data += ["--set", f"data.source={everything}", "--num-images", str(num_images)]

    def train(data: object, duration: float, seed: int, folder: Path, *more: object) -> JsonObject:
        length = ("--set", f"train.duration={duration:g}s", "--seed", seed, "--run-dir", folder)
        return run("train", data, "--preset", preset, *words, *length, *more)

    origin = Path(source)
    if not is_model(origin):
        click.echo(f"trains on {source} for {source_seconds:g} s", err=True)
        origin = Path(train(source, source_seconds, 0, out / "source")["last"])
    records = []
    for seed in range(seeds):
        for start, more in (("from nothing", ()), ("fine-tuned", ("--init-from", origin.resolve()))):
            result = train(few, seconds, seed, out / f"{start.replace(' ', '-')}-{seed}", *more)
            scores = run("evaluate", result["last"], *data)
            records.append({"start": start, "seed": seed, "images": result["images"], "scores": scores})
            click.echo(f"{start}, seed {seed}: {_mean([scores.get('fd_ratio')])} × the floor", err=True)
            results = {"source": source, "target": target, "seconds": seconds, **machine(), "runs": records}
            (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    click.echo("\n".join(table(records)))


if __name__ == "__main__":
    main()
