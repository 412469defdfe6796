"""Checks that every score moves the right way, on several data sets, for both measures.

    python -m ganctl.benchmarks.measure [--data mnist --data fashion-mnist --data FOLDER …] [--out table.md]

The scores compare with test images. Validation images are degraded in steps (blur, noise, JPEG, missing classes, wrong
labels, few different images, copies of training images), and generators of several presets are trained from scratch
and looked at in five moments. Along each series a score may not improve where it must get worse, or the other way, by
more than its noise. "✗" marks a series that breaks this. A share that stays at 0, its worst value, is not marked.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import torch

from ganctl.benchmarks.measure.degradations import Family, degradations
from ganctl.benchmarks.measure.generators import generator_series
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet
from ganctl.training.data.datasets import load_split
from ganctl.training.evaluation.evaluator import Evaluator
from ganctl.training.evaluation.neighbors import MemorizationDetector
from ganctl.training.evaluation.reference_stats import subsample
from ganctl.training.evaluation.scorer import load_scorer

_PRESETS = ("conv", "quick", "lightning-basic-gan")
# A step the wrong way counts if it exceeds this share of the score, or this difference for scores that are shares.
_TOLERANCE = {"fd": 0.03, "kid": 0.03}
_SHARE_TOLERANCE = 0.03
_MEASURES = (1, 2)

Values = dict[str, float | None]


@click.command()
@click.option("--data", "sources", multiple=True, default=("mnist", "fashion-mnist"), show_default=True)
@click.option("--num-images", default=1000, show_default=True, help="Images of each set, at most.")
@click.option("--train-images", default=200_000, show_default=True, help="Length of each training.")
@click.option("--preset", "presets", multiple=True, default=_PRESETS, show_default=True, help="Presets to train.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the tables to this file.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all scores to this file.")
def main(
    sources: tuple[str, ...],
    num_images: int,
    train_images: int,
    presets: tuple[str, ...],
    out: Path | None,
    json_path: Path | None,
) -> None:
    """Print one table per data set and measure."""
    tables, records = [], []
    for source in sources:
        data = DataSettings(source=source)
        real = _subset(load_split(data, "val"), num_images)
        train = load_split(data, "train")
        families = [*degradations(real, train), *generator_series(data.source, real, presets, train_images)]
        detector = MemorizationDetector(train, load_split(data, "test"))
        for measure in _MEASURES:
            scorer = load_scorer(data, measure=measure, announce=lambda text: click.echo(text, err=True))
            evaluator = Evaluator(data, "test", num_images=num_images, scorer=scorer)
            values = {family.name: [_scores(evaluator, detector, each) for each in family.sets] for family in families}
            tables.append(_table(data.name, measure, evaluator, families, values))
            click.echo(tables[-1])
            records.append({"data": data.name, "measure": measure, "scores": values})
    if out:
        out.write_text("\n".join(tables), encoding="utf-8")
    if json_path:
        json_path.write_text(json.dumps(records), encoding="utf-8")


def _subset(data: ImageSet, n: int) -> ImageSet:
    return ImageSet(subsample(data.images, n), subsample(data.labels, n), data.class_names)


def _scores(evaluator: Evaluator, detector: MemorizationDetector, data: ImageSet) -> Values:
    names = ("fd", "kid", "kid_se", "precision", "recall", "density", "coverage", "label_accuracy")
    scores = evaluator.score_images(data.images, data.labels)
    values: Values = {name: scores[name] for name in names}
    return values | {"share_closer": detector.check(data.images)["share_closer"]}


def is_monotonic(values: list[float], *, rising: bool, tolerance: float) -> bool:
    """Returns True if no step is wrong by more than the tolerance, and the last value differs by more."""
    sign = 1 if rising else -1
    steps = [sign * (b - a) for a, b in pairwise(values)]
    return min(steps) >= -tolerance and sum(steps) > tolerance


def _tolerance(name: str, rows: list[Values]) -> float:
    """Noise of a score along a series."""
    if name not in _TOLERANCE:
        return _SHARE_TOLERANCE
    largest = max(abs(row[name] or 0.0) for row in rows)
    errors = max(row["kid_se"] or 0.0 for row in rows) if name == "kid" else 0.0
    return max(_TOLERANCE[name] * largest, 2 * errors)


def _table(
    name: str, measure: int, evaluator: Evaluator, families: list[Family], values: dict[str, list[Values]]
) -> str:
    columns = ("fd", "kid", "precision", "recall", "density", "coverage", "label_accuracy", "share_closer")
    facts: dict[str, Any] = {"images": evaluator.num_images, "floor": f"{evaluator.real.floor:.3g}"}
    facts |= {"accuracy of the scorer": f"{evaluator.scorer.skill.accuracy:.1%}" if evaluator.scorer.skill else "–"}
    wrong = 0
    rows = []
    for family in families:
        cells = []
        for column in columns:
            series = [row[column] for row in values[family.name]]
            expected = column in family.rising or column in family.falling
            if not expected or any(value is None for value in series):
                cells.append("–" if expected else "")
                continue
            numbers = [value for value in series if value is not None]
            tolerance = _tolerance(column, values[family.name])
            stays_worst = column in family.rising and column not in _TOLERANCE and max(numbers) <= tolerance
            good = stays_worst or is_monotonic(numbers, rising=column in family.rising, tolerance=tolerance)
            wrong += not good
            cells.append(" ".join(f"{value:.3g}" for value in numbers) + ("" if good else " ✗"))
        rows.append(f"| {family.name}: {', '.join(family.levels)} | {' | '.join(cells)} |")
    head = f"**{name}, measure {measure}**: " + ", ".join(f"{key} {value}" for key, value in facts.items())
    head += f"; {wrong} series move the wrong way.\n"
    return "\n".join([head, f"| series | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns), *rows, ""])


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
