"""Effect of `ganctl sample --truncation`: scores of a run, checkpoint or export at several truncation values.

    python -m ganctl.benchmarks.truncation SOURCE [--num-images 5000] [--truncation 1 --truncation 0.7 …]

The service and `sample` scale the latents: z · T, a normal distribution with a smaller spread. BigGAN (Brock et al.
2019, arXiv:1809.11096, section 3.1) instead resamples values beyond a threshold, which also changes the shape.
"""

from pathlib import Path

import click
from torch import Tensor

from ganctl.training.cli.inspect import open_source
from ganctl.training.evaluation.evaluator import Evaluator
from ganctl.training.images.source import Source

VALUES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
COLUMNS = ("precision", "recall", "density", "coverage", "fd", "label_accuracy")


class TruncatedSource:
    """A source whose latents are multiplied by `truncation`, 0 to 1."""

    def __init__(self, source: Source, truncation: float) -> None:
        self._source, self._truncation = source, truncation
        self.latent_dim, self.conditional, self.class_names = source.latent_dim, source.conditional, source.class_names

    def generate(self, z: Tensor, label: Tensor) -> Tensor:
        """Generates images; see `Source.generate`."""
        return self._source.generate(z * self._truncation, label)


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--num-images", default=5000, show_default=True, help="Number of generated and of test images.")
@click.option("--truncation", "values", multiple=True, type=click.FloatRange(0, 1), default=VALUES)
def main(source: Path, num_images: int, values: tuple[float, ...]) -> None:
    """Print a table of scores by truncation."""
    opened = open_source(source)
    assert opened.source is not None, "open_source opens no image files"
    evaluator = Evaluator(opened.data, "test", num_images=num_images)
    click.echo(f"{evaluator.num_images:,} images, floor {evaluator.real.floor:.2f}")
    click.echo(f"| truncation | {' | '.join(COLUMNS)} |\n| --- |{' --- |' * len(COLUMNS)}")
    for value in values:
        scores = evaluator.score(TruncatedSource(opened.source, value))
        cells = ["–" if scores[name] is None else f"{scores[name]:.3f}" for name in COLUMNS]
        click.echo(f"| {value:g} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
