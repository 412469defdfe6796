"""The package stylegan2_pytorch, trained as by its command `stylegan2_pytorch --data FOLDER --image-size SIZE`.

The defaults of its command line apply: batches of 5 images, gradients of 6 batches per update, hinge loss with a
gradient penalty at every fourth step, mixed styles, Adam (2e-4 and 3e-4, 0.5, 0.9), no augmentation; images are drawn
with styles truncated to 0.75. Images with alpha take `--transparent`; gray ones are expanded to color, as the package
does. Other sizes than powers of two are padded. `lucidrains.py` describes the shim; the package also imports the
experiment tracker aim, which is used only with `--log`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ganctl.benchmarks.peers.gan import Fit, Sampler, Training, power_of_two
from ganctl.benchmarks.peers.lucidrains import CHUNK, import_package, run_command

REQUIRES = "stylegan2_pytorch"


def train(training: Training) -> Sampler:
    """Trains until the clock's budget is used up."""
    package = import_package(REQUIRES, training, "aim")
    transparent = training.shape.channels == 4
    fit = Fit(training.shape, power_of_two(training.shape), 4 if transparent else 3, premultiplied=False)

    def network(gan: Any, averaged: bool) -> nn.Module:
        return nn.ModuleList([gan.SE, gan.GE] if averaged else [gan.S, gan.G])

    trainer = run_command(package, training, fit, network, dataset="Dataset", transparent=transparent)
    styles, generator = trainer.GAN.S, trainer.GAN.G

    def generate_chunk(n: int) -> Tensor:
        latents = package.noise_list(n, generator.num_layers, generator.latent_dim, device=0)
        noise = package.image_noise(n, fit.side, device=0)
        return fit.from_peer(trainer.generate_truncated(styles, generator, latents, noise, trunc_psi=trainer.trunc_psi))

    @torch.inference_mode()
    def generate(n: int) -> Tensor:
        trainer.av = None  # the mean style of these weights
        return torch.cat([generate_chunk(min(CHUNK, n - start)) for start in range(0, n, CHUNK)])

    return Sampler(nn.ModuleList([styles, generator]), generate)
