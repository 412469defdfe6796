"""What `ganctl sample --truncation` gives and takes: scores of a run, checkpoint or export at several values of it.

    python -m benchmarks.truncation SOURCE [--num-images 5000] [--truncation 1 --truncation 0.7 …]

z · T is what the service and `sample` draw from. It is a normal distribution of less spread: BigGAN (Brock et al. 2019,
arXiv:1809.11096, section 3.1) draws again what falls outside a threshold instead, which changes the shape as well.
"""

from pathlib import Path

import click

from ganctl.training.cli.inspect import open_source
from ganctl.training.evaluation.evaluator import Evaluator
from ganctl.training.images.source import Truncated

VALUES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
COLUMNS = ("precision", "recall", "density", "coverage", "fd", "label_accuracy")


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--num-images", default=5000, show_default=True, help="Images to compare with as many test images.")
@click.option("--truncation", "values", multiple=True, type=click.FloatRange(0, 1), default=VALUES)
def main(source: Path, num_images: int, values: tuple[float, ...]) -> None:
    """Prints a table."""
    opened = open_source(source)
    evaluator = Evaluator(opened.data, "test", num_images=num_images)
    click.echo(f"{evaluator.num_images:,} images, floor {evaluator.real.floor:.2f}")
    click.echo(f"| truncation | {' | '.join(COLUMNS)} |\n| --- |{' --- |' * len(COLUMNS)}")
    for value in values:
        scores = evaluator.score(Truncated(opened.source, value))
        told = ["–" if scores[name] is None else f"{scores[name]:.3f}" for name in COLUMNS]
        click.echo(f"| {value:g} | {' | '.join(told)} |")


if __name__ == "__main__":
    main()
