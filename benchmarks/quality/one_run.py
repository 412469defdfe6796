"""Trains one system and saves images of its generator's snapshots; `ganctl bench quality` starts it.

    python -m ganctl.benchmarks.quality.one_run --system conv --seed 0 --seconds 120 --num-images 10000 --out FILE.npz

Arrays in the file, for S snapshots of the generator and n images:

- `images`, uint8 [S, n, 1, 28, 28]: generated images; all snapshots use the same latents.
- `labels`, int64 [n]: the requested labels; empty for an unconditional system.
- `seconds`, float64 [S]: training time at each snapshot.
- `images_seen`, int64 [S]: number of real images used until each snapshot.
- `threads`: the number of CPU threads.
"""

import tempfile
from pathlib import Path

import click
import numpy as np
import torch

from ganctl.benchmarks.quality.our_trainer import train
from ganctl.benchmarks.quality.recorder import Recorder
from ganctl.benchmarks.systems import systems
from ganctl.benchmarks.tutorial import DisplayedGenerator, generator
from ganctl.training.config.resolve import configure
from ganctl.training.data.datasets import load_split
from ganctl.training.evaluation.reference_stats import subsample
from ganctl.training.images.source import GeneratorSource
from ganctl.training.models.base import Generator, ImageShape
from ganctl.training.models.build import build_generator

LATENT_SEED = 2024


@click.command()
@click.option("--system", "name", required=True)
@click.option("--seed", type=int, required=True)
@click.option("--seconds", type=float, required=True)
@click.option("--num-images", type=int, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(name: str, seed: int, seconds: float, num_images: int, out: Path) -> None:
    """Train a system, draw images, save them."""
    (system,) = (system for system in systems() if system.name == name)
    config, recorder = system.settings(seconds, seed), Recorder(seconds)
    data = load_split((config or configure()).data, "test")
    network: Generator
    with tempfile.TemporaryDirectory() as folder:
        if config is None:
            from ganctl.benchmarks import tutorial_lightning  # only this system needs lightning

            tutorial_lightning.train(seed, recorder, Path(folder))
            network = DisplayedGenerator(generator())
            trained: torch.nn.Module = network.network
        else:
            train(config, recorder, Path(folder) / "run")
            trained = network = build_generator(config.model, ImageShape(*data.shape), len(data.class_names))
    source = GeneratorSource(network, data.class_names)
    z = torch.randn(num_images, source.latent_dim, generator=torch.Generator().manual_seed(LATENT_SEED))
    labels = subsample(data.labels, num_images)  # the same label frequencies as the real images
    images = []
    for snapshot in recorder.snapshots:
        trained.load_state_dict(snapshot.weights)
        images.append(source.generate(z, labels).numpy())
    np.savez(
        out,
        images=np.stack(images),
        labels=labels.numpy() if source.conditional else np.empty(0, np.int64),
        seconds=np.array([snapshot.seconds for snapshot in recorder.snapshots]),
        images_seen=np.array([snapshot.images for snapshot in recorder.snapshots]),
        threads=torch.get_num_threads(),
    )


if __name__ == "__main__":
    main()
