"""Trains one system and saves images of its generator's snapshots; `ganctl bench quality` starts it.

    python -m ganctl.benchmarks.quality.one_run --system conv --data mnist --seed 0 --seconds 120 --num-images 1000
        --curve-images 500 --out FOLDER

Files in the folder, for S snapshots:

- `0.npy`, `1.npy`, …: images of each snapshot, straight uint8 [n, C, H, W]. All are drawn with the same random numbers;
  the last ones are `num_images`, the others `curve_images`.
- `run.npz`: `seconds`, float64 [S], the training time at each snapshot; `images_seen`, int64 [S], the number of real
  images used until then; `threads`, the number of CPU threads; `labels`, int64 [num_images], the requested labels (an
  unconditional system has none).

Nothing is drawn before the training is over.
"""

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn

from ganctl.benchmarks.peers.gan import Training, seed_all
from ganctl.benchmarks.quality.our_trainer import train
from ganctl.benchmarks.quality.recorder import Recorder, StepClock
from ganctl.benchmarks.systems import Peer, systems
from ganctl.training.config.schema import Config, DataSettings
from ganctl.training.data.datasets import load_split
from ganctl.training.evaluation.reference_stats import subsample

LATENT_SEED = 2024

Draw = Callable[[int], Tensor]  # n → images, straight uint8 [n, C, H, W]


@click.command()
@click.option("--system", "name", required=True)
@click.option("--data", "source", required=True)
@click.option("--seed", type=int, required=True)
@click.option("--seconds", type=float, required=True)
@click.option("--num-images", type=int, required=True)
@click.option("--curve-images", type=int, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(name: str, source: str, seed: int, seconds: float, num_images: int, curve_images: int, out: Path) -> None:
    """Train a system, draw images, save them."""
    (system,) = (system for system in systems() if system.name == name)
    recorder = Recorder(seconds)
    labels = subsample(load_split(DataSettings(source=source), "test").labels, num_images)
    with tempfile.TemporaryDirectory() as folder:
        if system.peer is not None:
            trained, draw = train_peer(system.peer, source, seed, recorder, Path(folder))
            labels = labels[:0]
        else:
            config = system.settings(seconds, seed, source)
            assert config is not None, "it has no peer"
            trained, draw, conditional = train_ours(config, labels, recorder, Path(folder))
            labels = labels if conditional else labels[:0]
        last = len(recorder.snapshots) - 1
        for i, snapshot in enumerate(recorder.snapshots):
            trained.load_state_dict(snapshot.weights)
            np.save(out / f"{i}.npy", draw(num_images if i == last else curve_images).numpy())
    np.savez(
        out / "run.npz",
        labels=labels.numpy(),
        seconds=np.array([snapshot.seconds for snapshot in recorder.snapshots]),
        images_seen=np.array([snapshot.images for snapshot in recorder.snapshots]),
        threads=torch.get_num_threads(),
    )


def train_peer(peer: Peer, source: str, seed: int, recorder: Recorder, folder: Path) -> tuple[nn.Module, Draw]:
    """Trains a peer; returns the module whose weights the snapshots hold, and a function that draws images."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = load_split(DataSettings(source=source), "train")
    training = Training(source, data, seed, StepClock(recorder, device), device, folder)
    sampler = importlib.import_module(peer.module).train(training)

    def draw(n: int) -> Tensor:
        seed_all(LATENT_SEED)
        images: Tensor = sampler.generate(n)
        return images

    return sampler.network, draw


def train_ours(config: Config, labels: Tensor, recorder: Recorder, folder: Path) -> tuple[nn.Module, Draw, bool]:
    """Trains with our trainer; returns the same, and whether the generator is conditional.

    Args:
        config: the settings.
        labels: int64 [N], as frequent as those of the real images; n images are drawn with the first n.
        recorder: takes the snapshots.
        folder: for the run.
    """
    source = train(config, recorder, folder / "run").source

    def draw(n: int) -> Tensor:
        z = torch.randn(n, source.latent_dim, generator=torch.Generator().manual_seed(LATENT_SEED))
        return source.generate(z, labels[:n])

    return source.generator, draw, source.conditional


if __name__ == "__main__":
    main()
