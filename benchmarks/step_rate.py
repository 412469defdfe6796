"""How many images a second one update of both networks takes, for each preset and batch size; nothing but the step.

    python -m benchmarks.step_rate [--repetitions 5] [--steps 60]

The settings take turns within each repetition, so that a drift of the machine's speed meets them all; medians are told.
"""

import statistics
import time

import click
import torch

from training.data import load_split
from training.distributed import choose_device
from training.models import ImageShape, build_discriminator, build_generator
from training.settings import preset_names, resolve
from training.step import Step

WARM_UP = 20  # steps


@click.command()
@click.option("--repetitions", default=5, show_default=True)
@click.option("--steps", default=60, show_default=True)
@click.option("--batch", "batches", multiple=True, type=int, default=(64, 256), show_default=True)
def main(repetitions: int, steps: int, batches: tuple[int, ...]) -> None:
    """Prints a table of images per second."""
    device = choose_device("auto")
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(repetitions):
        for preset in preset_names():
            for batch in batches:
                rates.setdefault((preset, batch), []).append(measure(preset, batch, steps, device))
    click.echo(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    click.echo("| preset | batch | images/s, median | least | most |\n| --- | --- | --- | --- | --- |")
    for (preset, batch), found in rates.items():
        click.echo(f"| {preset} | {batch} | {statistics.median(found):,.0f} | {min(found):,.0f} | {max(found):,.0f} |")


def measure(preset: str, batch: int, steps: int, device: torch.device) -> float:
    """Images per second of `steps` updates after a warm-up."""
    config, _ = resolve(preset=preset, environment={})
    data = load_split(config.data, "train")
    images, labels = data.images[:batch].to(device), data.labels[:batch].to(device)
    shape, classes = ImageShape(*data.shape), len(data.class_names)
    torch.manual_seed(0)
    generator = build_generator(config.model, shape, classes).to(device)
    step = Step(config, generator, build_discriminator(config.model, shape, classes).to(device), device)
    for n in range(WARM_UP):
        step(images, labels, step=n, progress=0.0)
    step.read_stats()  # waits for the device
    began = time.perf_counter()
    for n in range(steps):
        step(images, labels, step=WARM_UP + n, progress=0.0)
    step.read_stats()
    return steps * batch / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
