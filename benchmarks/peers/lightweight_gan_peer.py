"""The package lightweight-gan, trained as by its command `lightweight_gan --data FOLDER --image-size SIZE`.

The defaults of its command line apply: batches of 10 images, gradients of 4 batches per update, hinge loss with a
gradient penalty at every fourth step, Adam (2e-4, 0.5, 0.9), a loss of decoded images, attention at 32 × 32,
augmentation with a probability that it derives from the number of images. Gray images take `--greyscale`, images with
alpha `--transparent`. Other sizes than powers of two are padded. `lucidrains.py` describes the shim.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ganctl.benchmarks.peers.gan import Fit, Sampler, Training, power_of_two
from ganctl.benchmarks.peers.lucidrains import CHUNK, import_package, run_command

REQUIRES = "lightweight_gan"


def train(training: Training) -> Sampler:
    """Trains until the clock's budget is used up."""
    package = import_package(REQUIRES, training)
    channels = training.shape.channels
    fit = Fit(training.shape, power_of_two(training.shape), channels, premultiplied=False)

    def network(gan: Any, averaged: bool) -> nn.Module:
        found: nn.Module = gan.GE if averaged else gan.G
        return found

    options = {"greyscale": channels == 1, "transparent": channels == 4}
    trainer = run_command(package, training, fit, network, dataset="ImageDataset", **options)

    @torch.inference_mode()
    def generate(n: int) -> Tensor:
        latents = torch.randn(n, trainer.GAN.latent_dim).to(training.device)
        return torch.cat([fit.from_peer(trainer.generate_(trainer.GAN.G, z)) for z in latents.split(CHUNK)])

    return Sampler(trainer.GAN.G, generate)
