"""Trains the tutorial's networks as published, with PyTorch Lightning (networks: `tutorial.py`).

Kept as published: Normalize((0.1307,), (0.3081,)) with a tanh generator; binary cross-entropy on a sigmoid; Adam with
lr 2e-4 and betas (0.5, 0.999); batches of 256 on CUDA and 64 on a CPU, in the same order in every epoch; one loader
worker per two cores; the generator's update first, with the same latents; an image grid at every step. Left out:
progress bar and checkpoints, as for every system here. MNIST's files come from our package instead of a download.

Other data sets have no published form: their images are scaled to the generator's range, [−1, 1], are in memory, and
are in another order in each epoch; the networks have the tutorial's layers for the shape of the images.
"""

import gzip
import os
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn.functional import binary_cross_entropy
from torch.utils.data import DataLoader, TensorDataset, random_split
from torchvision import transforms
from torchvision.datasets import MNIST
from torchvision.utils import make_grid

from ganctl.benchmarks import tutorial
from ganctl.benchmarks.peers.gan import Sampler, Training
from ganctl.benchmarks.quality.recorder import StepClock
from ganctl.benchmarks.speed.meter import Meter
from ganctl.training.data.named import EMBEDDED
from ganctl.training.images.source import GeneratorSource
from ganctl.training.models.base import Generator, ImageShape, to_float

REQUIRES = "lightning"


class MNISTDataModule(LightningDataModule):
    """55,000 of MNIST's training images, normalized with mean 0.1307 and standard deviation 0.3081."""

    def __init__(self, folder: Path, batch_size: int | None = None) -> None:
        """Sets the batch size; None is the published one."""
        super().__init__()
        self.folder, self.batch_size = folder, batch_size or (256 if torch.cuda.is_available() else 64)
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])

    def prepare_data(self) -> None:
        raw = self.folder / "MNIST" / "raw"  # torchvision downloads only if the files are not here
        raw.mkdir(parents=True, exist_ok=True)
        for packed in EMBEDDED.glob("*.gz"):
            (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))

    def setup(self, stage: str) -> None:
        full = MNIST(self.folder, train=True, transform=self.transform)
        self.training_images, self.validation_images = random_split(full, [55_000, 5_000])

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.training_images, self.batch_size, num_workers=int((os.cpu_count() or 1) / 2))


class GAN(LightningModule):
    """Both networks; a training step updates the generator, then the discriminator."""

    def __init__(self, shape: ImageShape = tutorial.SHAPE) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = tutorial.generator(shape), tutorial.discriminator(shape)

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.generator(z)
        return images

    def training_step(self, batch: list[Tensor]) -> None:
        images, _ = batch
        optimizer_g, optimizer_d = self.optimizers()
        z = torch.randn(len(images), tutorial.LATENT_DIM).type_as(images)
        real, fake = torch.ones(len(images), 1).type_as(images), torch.zeros(len(images), 1).type_as(images)

        self.toggle_optimizer(optimizer_g)
        grid = make_grid(self(z)[:6])
        self.logger.experiment.add_image("train/generated_images", grid, self.current_epoch)
        loss_g = binary_cross_entropy(self.discriminator(self(z)), real)
        self.log("g_loss", loss_g, prog_bar=True)
        self._update(optimizer_g, loss_g)

        self.toggle_optimizer(optimizer_d)
        real_loss = binary_cross_entropy(self.discriminator(images), real)
        fake_loss = binary_cross_entropy(self.discriminator(self(z).detach()), fake)
        loss_d = (real_loss + fake_loss) / 2
        self.log("d_loss", loss_d, prog_bar=True)
        self._update(optimizer_d, loss_d)

    def _update(self, optimizer: Any, loss: Tensor) -> None:
        self.manual_backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[Any]]:
        networks = (self.generator, self.discriminator)
        return [torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999)) for network in networks], []


class ClockCallback(Callback):
    """Reports each step to the clock and stops the training when its budget is used up.

    Unlike `Trainer(max_time=…)`, the time for snapshots does not count, as for all systems.
    """

    def __init__(self, clock: StepClock) -> None:
        self._clock = clock

    def on_train_batch_start(self, trainer: Any, module: GAN, batch: list[Tensor], batch_idx: int) -> None:
        self._clock.start()

    def on_train_batch_end(self, trainer: Any, module: GAN, outputs: Any, batch: list[Tensor], batch_idx: int) -> None:
        if self._clock.step(len(batch[0]), module.generator):
            trainer.should_stop = True


class MeterCallback(Callback):
    """Reports each step to a meter and stops the training when the measurement is complete."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def on_train_batch_end(self, trainer: Any, module: GAN, outputs: Any, batch: list[Tensor], batch_idx: int) -> None:
        trainer.should_stop = self._meter.tick(len(batch[0]))


class ScaledGenerator(Generator):
    """The tutorial's generator for images in [−1, 1]."""

    def __init__(self, network: torch.nn.Sequential, shape: ImageShape) -> None:
        super().__init__(tutorial.LATENT_DIM, None, shape)
        self.network = network

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.network(z)
        return images


def train(training: Training) -> Sampler:
    """Trains until the clock's budget is used up; data and logs go into the folder."""
    seed_everything(training.seed, workers=True)
    gan = GAN(training.shape)
    trainer, generator = _trainer(ClockCallback(training.clock), training.folder), gan.generator
    displayed: Generator
    if training.source == "mnist":
        trainer.fit(gan, MNISTDataModule(training.folder))
        displayed = tutorial.DisplayedGenerator(generator)
    else:
        images = TensorDataset(to_float(training.data.images), training.data.labels)
        trainer.fit(gan, DataLoader(images, 256 if torch.cuda.is_available() else 64, shuffle=True))
        displayed = ScaledGenerator(generator, training.shape)
    source = GeneratorSource(displayed, ())
    return Sampler(
        generator, lambda n: source.generate(torch.randn(n, tutorial.LATENT_DIM), torch.zeros(n, dtype=torch.int64))
    )


def measure(meter: Meter, folder: Path, batch_size: int) -> None:
    """Trains until the meter's measurement is complete."""
    seed_everything(0, workers=True)
    _trainer(MeterCallback(meter), folder).fit(GAN(), MNISTDataModule(folder, batch_size))


def _trainer(callback: Callback, folder: Path) -> Trainer:
    return Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=-1,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
