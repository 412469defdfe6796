"""SNGAN of the package torch-mimicry, trained as in the example of its README.

The README's settings: batches of 64 images, five updates of the discriminator for one of the generator (two at 128
pixels), hinge loss, Adam (2e-4, 0.0, 0.9), a learning rate that falls to 0 in 100,000 steps. The package has networks
for 32, 48, 64 and 128 pixels; images of other sizes are padded. There is no moving average.

The networks have three channels. For gray images, and those with alpha (premultiplied), the last convolution of the
generator and the first block of the discriminator are made for the other number of channels, with the same
initialization.

The shim: the package imports TensorFlow for its metrics, scikit-image for reading images, and a part of torch that is
gone for its data sets. The clock is read by its scheduler of the learning rate, which runs at each step.
"""

import importlib
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.data import DataLoader, Dataset

from ganctl.benchmarks.peers.gan import BudgetUsedUp, Fit, Sampler, Training, import_without, seed_all

REQUIRES = "torch_mimicry"
_SIZES = {32: "c5", 48: "c5", 64: "c6", 128: "c7"}  # and the generator's last convolution
_BATCH = 64
_CHUNK = 100  # images generated at a time
_NEVER = 10**9  # steps


class _LabeledImages(Dataset[tuple[Tensor, int]]):
    """Images in memory as floats in [−1, 1], each with the label 0; counts those that were read."""

    def __init__(self, images: Tensor) -> None:
        self._images, self.read = images, 0

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read += 1
        return self._images[index] / 127.5 - 1, 0


def networks(side: int, channels: int) -> tuple[Any, Any]:
    """Builds the generator and the discriminator for images of `side` pixels."""
    sngan = importlib.import_module("torch_mimicry.nets.sngan")
    generator = getattr(sngan, f"SNGANGenerator{side}")()
    discriminator = getattr(sngan, f"SNGANDiscriminator{side}")()
    if channels != 3:
        last = nn.Conv2d(getattr(generator, _SIZES[side]).in_channels, channels, 3, 1, padding=1)
        nn.init.xavier_uniform_(last.weight)
        setattr(generator, _SIZES[side], last)
        discriminator.block1 = type(discriminator.block1)(channels, discriminator.block1.out_channels)
    return generator, discriminator


def train(training: Training) -> Sampler:
    """Trains until the clock's budget is used up."""
    package = import_without("torch_mimicry", "torch_mimicry.metrics", "torch_mimicry.datasets", "skimage")
    side = min(size for size in _SIZES if size >= max(training.shape[1:]))
    fit = Fit(training.shape, side, training.shape.channels)
    seed_all(training.seed)
    generator, discriminator = (network.to(training.device) for network in networks(side, fit.channels))
    images, counted = _LabeledImages(fit.to_peer(training.data.images)), 0

    class TimedScheduler(package.training.LRScheduler):  # type: ignore[name-defined]  # the package is imported at run time
        def step(self, **arguments: Any) -> Any:
            nonlocal counted
            log = super().step(**arguments)
            new, counted = images.read - counted, images.read
            if training.clock.step(new, generator):
                raise BudgetUsedUp
            return log

    optimizers = [Adam(network.parameters(), 2e-4, betas=(0.0, 0.9)) for network in (discriminator, generator)]
    trainer = package.training.Trainer(
        netD=discriminator,
        netG=generator,
        optD=optimizers[0],
        optG=optimizers[1],
        dataloader=DataLoader(images, _BATCH, shuffle=True),
        n_dis=2 if side == 128 else 5,
        num_steps=100_000,
        lr_decay="linear",
        log_dir=str(training.folder),
        device=training.device,
        vis_steps=_NEVER,
        save_steps=_NEVER,
    )
    trainer.scheduler = TimedScheduler("linear", *optimizers, num_steps=100_000)
    training.clock.start()
    with suppress(BudgetUsedUp):
        trainer.train()
    generator.eval()

    @torch.inference_mode()
    def generate(n: int) -> Tensor:
        latents = torch.randn(n, generator.nz).to(training.device)
        return torch.cat([fit.from_peer((generator(z) + 1) / 2) for z in latents.split(_CHUNK)])

    return Sampler(generator, generate)
